"""What a machine without a network needs for benches/gpu.py, in pieces: the binary with the libraries it is linked with, ONNX Runtime, wheels.

A pack is a folder: `pack.json`, and each archive as NAME.00, NAME.01, … of at most so many bytes, with the SHA-256 of each piece and of the
whole. Pieces may arrive in any order and from several folders; nothing of an archive is used before all of it is there and right.

gpu.py packs by `pack` and unpacks by `gpu_pack.py TO FOLDER …`: exit code 1 and a line for each archive that cannot be used.
"""
import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

PIECE = 60 << 20  # what is sent as one often has a limit of 64 MiB, and something beside it
INDEX = "pack.json"
# Part of every Linux with a Python, and newer there than here where that machine is the newer one.
SYSTEM = re.compile(r"(ld-linux|libc|libm|libdl|libpthread|librt|libresolv|libutil|libgcc_s|libstdc\+\+)[-.\w]*\.so")
# What plays the frames that gpu.py prepares: no decoder of any codec.
PLUGINS = ["coreelements", "app", "playback", "typefindfunctions", "y4mdec", "videoconvertscale", "videofilter"]


class PackError(Exception):
    """What is wrong, for a person."""


def digest(path):
    with open(path, "rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def linked(file):
    """Shared libraries that `file` is linked with, without those of the system."""
    told = subprocess.run(["ldd", file], capture_output=True, text=True).stdout
    paths = [pathlib.Path(found) for found in re.findall(r"=> (/\S+)", told)]
    return [path for path in paths if not SYSTEM.match(path.name)]


def plugin_folder():
    asked = ["pkg-config", "--variable=pluginsdir", "gstreamer-1.0"]
    told = subprocess.run(asked, capture_output=True, text=True).stdout.strip() if shutil.which(asked[0]) else ""
    return pathlib.Path(told) if told else None


def stage_program(program, folder):
    """The binary without symbols, the plug-ins, and what all of them are linked with; names of plug-ins that are not here."""
    for name in ("bin", "libs", "plugins"):
        (folder / name).mkdir()
    own = folder / "bin/vtagd"
    shutil.copy(program, own)
    if shutil.which("strip"):
        # What is no binary, a wrapper say, stays as it is.
        subprocess.run(["strip", own], stderr=subprocess.DEVNULL)
    missing, files, at = [], [own], plugin_folder()
    for name in PLUGINS:
        plugin = at / f"libgst{name}.so" if at else None
        if plugin and plugin.exists():
            files.append(pathlib.Path(shutil.copy(plugin, folder / "plugins")))
        else:
            missing.append(name)
    for library in {path.name: path for file in files for path in linked(file)}.values():
        shutil.copy(library, folder / "libs")
    return missing


def split(file, out, name, most):
    """Writes `file` into `out` in pieces; its entry of the index."""
    pieces = []
    with open(file, "rb") as source:
        while block := source.read(most):
            piece = out / f"{name}.{len(pieces):02}"
            piece.write_bytes(block)
            pieces.append({"name": piece.name, "bytes": len(block), "sha256": digest(piece)})
    return {"name": name, "bytes": file.stat().st_size, "sha256": digest(file), "pieces": pieces}


def tar(folder, file):
    # The fastest setting: gigabytes of libraries shrink to a third by it already.
    with tarfile.open(file, "w:xz", preset=1) as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)


def pack(out, program, runtime, wheels, most=PIECE):
    """Writes a pack into `out`, which must be empty or new. Lines for a person."""
    for what, path, remedy in [("the binary", program, "cargo build --release"), ("the runtime", runtime, "make runtime-cuda"),
                               *(("the wheel", wheel, "pip download --no-deps NAME") for wheel in wheels)]:
        if not path.exists():
            raise PackError(f"{what} {path} is not there: {remedy}")
    if out.exists() and any(out.iterdir()):
        raise PackError(f"{out} is not empty")
    out.mkdir(parents=True, exist_ok=True)
    said, archives = [], []
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        work = pathlib.Path(work)
        (work / "program").mkdir()
        if missing := stage_program(program, work / "program"):
            said.append(f"without the plug-ins {', '.join(missing)}, which are not on this machine: the daemon will not be measured")
        for name, folder in [("program", work / "program"), ("runtime", runtime)]:
            file = work / f"{name}.tar.xz"
            tar(folder, file)
            archives.append(split(file, out, file.name, most))
            file.unlink()
        archives += [split(wheel, out, wheel.name, most) for wheel in wheels]
    (out / INDEX).write_text(json.dumps({"archives": archives}, indent=1) + "\n")
    said += [f"{entry['name']}: {entry['bytes'] / 1e6:.1f} MB in {len(entry['pieces'])} piece(s)" for entry in archives]
    return said


def joined(entry, folders, file):
    """Puts the pieces of an archive together into `file`; every one of them, and the whole, must be what was packed."""
    missing = []
    with open(file, "wb") as whole:
        for piece in entry["pieces"]:
            name = pathlib.Path(piece["name"]).name
            found = next((folder / name for folder in folders if (folder / name).is_file()), None)
            if not found:
                missing.append(piece["name"])
                continue
            if digest(found) != piece["sha256"]:
                raise PackError(f"{found} is damaged (SHA-256): send it again")
            with open(found, "rb") as source:
                shutil.copyfileobj(source, whole)
    if missing:
        raise PackError(f"{', '.join(missing)} of {len(entry['pieces'])} pieces of {entry['name']} did not arrive")
    if digest(file) != entry["sha256"]:
        raise PackError(f"{entry['name']} is damaged (SHA-256 of the whole): pack it again")


def unpack(folders, to):
    """Unpacks what has arrived in `folders` below `to`: `program/`, `runtime/`, and all wheels in `site/`. Reasons of what cannot be used."""
    index = next((folder / INDEX for folder in folders if (folder / INDEX).is_file()), None)
    if not index:
        raise PackError(f"no {INDEX} in {', '.join(map(str, folders))}")
    reasons = {}
    for entry in json.loads(index.read_text())["archives"]:
        # Nothing of a name may lead elsewhere.
        name = pathlib.Path(entry["name"]).name
        file = to / name
        try:
            joined(entry, folders, file)
            if name.endswith(".tar.xz"):
                with tarfile.open(file) as archive:
                    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                    archive.extractall(to / name.removesuffix(".tar.xz"), **safe)
            else:
                with zipfile.ZipFile(file) as archive:
                    archive.extractall(to / "site")
        except (PackError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
            reasons[name] = str(error)
        file.unlink(missing_ok=True)
    return reasons


def main():
    to, *folders = map(pathlib.Path, sys.argv[1:])
    try:
        reasons = [f"{name}: {reason}" for name, reason in unpack(folders, to).items()]
    except (PackError, OSError, ValueError, KeyError) as error:
        reasons = [str(error)]
    print(*reasons, sep="\n")
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
