#!/usr/bin/env python3
"""Checkpoints imported by an installed vtagd, in several precisions, and its embeddings held against those of the reference implementation
(tests/conformance/checkpoints). For test_deb.sh: whether the arithmetic of another processor is as exact.

Usage: conformance.py ROOT    vtagd is called in the root file system ROOT, for arm64 and under qemu-user.

ONNX Runtime has other kernels for processors with dot products of bytes and sums in 16 bits than for those without: embeddings are computed on one
of each. A kernel that the older one cannot run would end with an illegal instruction there."""
import json
import math
import pathlib
import shutil
import struct
import subprocess
import sys

# The goals of tests/import/import_command.rs.
GOALS = {"fp32": 0.9999, "fp16": 0.9999, "int8": 0.995, "int4": 0.97}
# As qemu calls them: one with NEON alone (a Raspberry Pi 4), and one with all that Arm has (a Raspberry Pi 5, Jetson Orin and later).
PROCESSORS = ("cortex-a72", "max")
PICTURE = pathlib.Path("tests/data/preprocess/chelsea.png")


def tensors(file):
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    for name, entry in json.loads(data[8:8 + length]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            yield name, entry["shape"], struct.unpack(f"<{(end - start) // 4}f", data[start:end])


def rows(file, name):
    [(shape, values)] = [(shape, values) for found, shape, values in tensors(file) if found == name]
    return [values[row * shape[1]:(row + 1) * shape[1]] for row in range(shape[0])]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def main(root):
    def vtagd(*arguments, processor=PROCESSORS[-1]):
        environment = ["PATH=/usr/bin:/bin", "HOME=/root", f"QEMU_CPU={processor}"]
        command = ["chroot", root, "/usr/bin/env", "-i", *environment, "/usr/bin/vtagd", *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(arguments)} on {processor}: {done.returncode}, {done.stderr.strip()}")
        return json.loads(done.stdout) if "--json" in arguments else None

    place = root / "root/conformance"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree("tests/conformance/checkpoints", place)
    shutil.copy(PICTURE, place)
    picture = f"/root/conformance/{PICTURE.name}"
    failed = False
    for precision, goal in GOALS.items():
        worst = dict.fromkeys(PROCESSORS, (1.0, ""))
        for folder in sorted(path for path in place.iterdir() if (path / "expected.json").exists()):
            expected = json.loads((folder / "expected.json").read_text())
            bundle = f"/root/conformance/bundle-{folder.name}"
            vtagd("model", "import", f"/root/conformance/{folder.name}", "--out", bundle, "--precision", precision, "--no-measure")
            text = rows(folder / "expected.safetensors", "text_embeds")[0]
            image = rows(folder / "expected.safetensors", "image_embeds")[expected["images"].index(PICTURE.name)]
            for processor in PROCESSORS:
                asked = ("embed", "--json", "-m", bundle, "--image", picture, "--text", expected["prompts"][0])
                answer = vtagd(*asked, processor=processor)
                for found, wanted in ((answer["texts"], text), (answer["images"], image)):
                    worst[processor] = min(worst[processor], (cosine(found[0]["embedding"], wanted), folder.name))
            shutil.rmtree(root / bundle.lstrip("/"))
        for processor, (found, name) in worst.items():
            print(f"  {precision} on {processor}: worst cosine {found:.6f} ({name}), wanted {goal}", flush=True)
            failed |= found < goal
    shutil.rmtree(place)
    sys.exit(failed)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
