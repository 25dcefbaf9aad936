#!/usr/bin/env python3
"""Takes libonnxruntime.so and its licences out of an onnxruntime wheel. Usage: unpack_runtime.py WHEEL OUT_FOLDER"""
import re
import shutil
import sys
import zipfile

wheel, out = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    library = next(name for name in archive.namelist() if re.fullmatch(r"onnxruntime/capi/libonnxruntime\.so\.[\d.]+", name))
    members = {library: "libonnxruntime.so", "onnxruntime/LICENSE": "LICENSE.onnxruntime",
               "onnxruntime/ThirdPartyNotices.txt": "ThirdPartyNotices.onnxruntime.txt"}
    for member, name in members.items():
        with archive.open(member) as source, open(f"{out}/{name}", "wb") as target:
            shutil.copyfileobj(source, target)
