#!/usr/bin/env bash
# ONNX Runtime: runtime/libonnxruntime.so out of the pinned wheel, its licences beside it.
# Usage: runtime.sh [MACHINE FOLDER]    for another machine, x86_64 or aarch64, into another folder: what is packed for it
. "$(dirname "$0")/lib.sh"

want=$(key tools/pins/runtime.txt tools/setup/unpack_runtime.py "$0")
machine=${1:-$(uname -m)}
out=${2:-runtime}
if is_current "$out/.stamp" "$want" "$out/libonnxruntime.so" "$out/LICENSE.onnxruntime"; then exit 0; fi
need_room 120 "ONNX Runtime"
tools/setup/python.sh
make_work
case $machine in
    x86_64 | aarch64) ;;
    *) die "there is no ONNX Runtime wheel for $machine: build libonnxruntime.so yourself and name it in runtime.library" ;;
esac
fetch "Fetching ONNX Runtime (27 MB)" tools/pins/runtime.txt "$work/wheel" \
    --python-version 3.11 --implementation cp --platform "manylinux_2_28_$machine"
mkdir "$work/out"
quietly "unpacking ONNX Runtime" "$venv/bin/python" tools/setup/unpack_runtime.py "$work"/wheel/onnxruntime-*.whl "$work/out"
chmod 755 "$work/out/libonnxruntime.so"
mkdir -p "$out"
rm -f "$out/.stamp"
mv -f "$work"/out/* "$out/"
echo "$want" >"$out/.stamp"
say "ONNX Runtime is in $out/"
