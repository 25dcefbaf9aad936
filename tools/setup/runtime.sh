#!/usr/bin/env bash
# ONNX Runtime: runtime/libonnxruntime.so out of the pinned wheel, its licences beside it.
. "$(dirname "$0")/lib.sh"

want=$(key tools/pins/runtime.txt tools/setup/unpack_runtime.py "$0")
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
quietly "unpacking ONNX Runtime" "$venv/bin/python" tools/setup/unpack_runtime.py "$work"/wheel/onnxruntime-*.whl "$work/out"
chmod 755 "$work/out/libonnxruntime.so"
mkdir -p runtime
rm -f runtime/.stamp
mv -f "$work"/out/* runtime/
echo "$want" >runtime/.stamp
say "ONNX Runtime is in runtime/"
