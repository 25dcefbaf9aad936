#!/usr/bin/env bash
# ONNX Runtime: runtime/libonnxruntime.so out of the pinned wheel, its licences beside it.
. "$(dirname "$0")/lib.sh"

want=$(key tools/pins/runtime.txt "$0")
if is_current runtime/.stamp "$want" runtime/libonnxruntime.so runtime/LICENSE.onnxruntime; then exit 0; fi
need_room 120 "ONNX Runtime"
tools/setup/python.sh
make_work
case $(uname -m) in
    x86_64 | aarch64) arch=$(uname -m) ;;
    *) die "there is no ONNX Runtime wheel for $(uname -m): build libonnxruntime.so yourself and name it in runtime.library" ;;
esac
fetch "Fetching ONNX Runtime (27 MB)" tools/pins/runtime.txt "$work/wheel" \
    --python-version 3.11 --implementation cp --platform "manylinux_2_28_$arch"
mkdir "$work/out"
quietly "unpacking ONNX Runtime" "$venv/bin/python" - "$work"/wheel/onnxruntime-*.whl "$work/out" <<'PY'
import re, shutil, sys, zipfile
wheel, out = sys.argv[1:]
with zipfile.ZipFile(wheel) as z:
    library = next(n for n in z.namelist() if re.fullmatch(r"onnxruntime/capi/libonnxruntime\.so\.[\d.]+", n))
    for member, name in [(library, "libonnxruntime.so"), ("onnxruntime/LICENSE", "LICENSE.onnxruntime"),
                         ("onnxruntime/ThirdPartyNotices.txt", "ThirdPartyNotices.onnxruntime.txt")]:
        with z.open(member) as source, open(f"{out}/{name}", "wb") as target:
            shutil.copyfileobj(source, target)
PY
chmod 755 "$work/out/libonnxruntime.so"
mkdir -p runtime
rm -f runtime/.stamp
mv -f "$work"/out/* runtime/
echo "$want" >runtime/.stamp
say "ONNX Runtime is in runtime/"
