#!/usr/bin/env python3
"""Takes libonnxruntime.so, its providers and what they bring along, and the licences, out of an onnxruntime wheel.
Usage: unpack_provider.py WHEEL OUT_FOLDER"""
import os
import re
import shutil
import sys
import zipfile

wheel, out = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    members = {"onnxruntime/LICENSE": "LICENSE.onnxruntime",
               "onnxruntime/ThirdPartyNotices.txt": "ThirdPartyNotices.onnxruntime.txt"}
    for name in archive.namelist():
        found = re.fullmatch(r"onnxruntime/capi/(lib[\w+-]+\.so[\d.]*)", name)
        if found:
            # Without its version, so that it is found by the name that vtagd looks for.
            members[name] = re.sub(r"^(libonnxruntime\.so)\.[\d.]+$", r"\1", found[1])
    if "libonnxruntime.so" not in members.values():
        sys.exit(f"{wheel} holds no libonnxruntime.so")
    # A wheel cannot hold links, so the same library lies in it under each of its names. The longest name is the file.
    files = {}
    for member in sorted(members, key=lambda member: (-len(member), member)):
        name, info = members[member], archive.getinfo(member)
        same = files.setdefault((info.file_size, info.CRC), name)
        if same != name and ".so" in name:
            os.symlink(same, f"{out}/{name}")
            continue
        with archive.open(member) as source, open(f"{out}/{name}", "wb") as target:
            shutil.copyfileobj(source, target)
        os.chmod(f"{out}/{name}", 0o755 if ".so" in name else 0o644)
