#!/usr/bin/env python3
"""Gives an OCI layout what umoci cannot: a health check, in the field that Docker reads (OCI has none; podman takes --health-cmd), and the names
under which `docker load` and `podman load` list the image. And it writes manifest.json beside index.json: Docker's classic store reads that alone.

Usage: finish.py LAYOUT TAG    One image, one manifest."""
import hashlib
import json
import pathlib
import sys

SECOND = 1_000_000_000
# The daemon's own client: it reads the address and the token in the configuration, and needs no shell.
HEALTH = {
    "Test": ["CMD", "/usr/bin/vtagd", "status", "--json", "-c", "/config/vtagd.yaml"],
    "Interval": 30 * SECOND,
    "Timeout": 15 * SECOND,
    "StartPeriod": 60 * SECOND,
    "Retries": 3,
}


def main(layout, tag):
    blobs = layout / "blobs/sha256"

    def read(descriptor):
        return json.loads((blobs / descriptor["digest"].removeprefix("sha256:")).read_text())

    def replace(descriptor, value):
        data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(data).hexdigest()
        (blobs / descriptor["digest"].removeprefix("sha256:")).unlink()
        (blobs / digest).write_bytes(data)
        descriptor.update(digest=f"sha256:{digest}", size=len(data))

    index = json.loads((layout / "index.json").read_text())
    [entry] = index["manifests"]
    manifest = read(entry)
    config = read(manifest["config"])
    config["config"]["Healthcheck"] = HEALTH
    replace(manifest["config"], config)
    replace(entry, manifest)
    entry["annotations"] = {"io.containerd.image.name": f"docker.io/library/vtagd:{tag}", "org.opencontainers.image.ref.name": tag}
    (layout / "index.json").write_text(json.dumps(index, sort_keys=True))

    def place(descriptor):
        return "blobs/" + descriptor["digest"].replace(":", "/")

    docker = [{"Config": place(manifest["config"]), "RepoTags": [f"vtagd:{tag}"], "Layers": [place(layer) for layer in manifest["layers"]]}]
    (layout / "manifest.json").write_text(json.dumps(docker, sort_keys=True))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
