#!/usr/bin/env bash
# ONNX Runtime with other providers, beside the CPU one that stays as it is: runtime-cuda/ or runtime-openvino/.
# Usage: runtime_provider.sh cuda|openvino
. "$(dirname "$0")/lib.sh"

kind=${1:-}
case $kind in
    # Wheel and unpacked libraries, in megabytes.
    cuda) wheel=onnxruntime_gpu size=256 room=700 provider=libonnxruntime_providers_cuda.so ;;
    openvino) wheel=onnxruntime_openvino size=85 room=400 provider=libonnxruntime_providers_openvino.so ;;
    *) die "usage: $0 cuda|openvino" ;;
esac
out=runtime-$kind
pins=tools/pins/$out.txt
want=$(key "$pins" tools/setup/unpack_provider.py "$0")
if is_current "$out/.stamp" "$want" "$out/libonnxruntime.so" "$out/$provider" "$out/LICENSE.onnxruntime"; then
    say "ONNX Runtime for $kind is in $out/"
    exit 0
fi
[ "$(uname -m)" = x86_64 ] || die "there is no pinned ONNX Runtime for $kind on $(uname -m): take one for your board and name it in runtime.library"
mkdir -p "$state" 2>/dev/null || die "cannot write to $root: check the permissions and the room on the disk"
# A make setup removes the work folders of others when it begins.
exec 9>"$state/lock" || die "cannot write to $root/$state: check the permissions"
flock -n 9 || { say "another set-up is at work: waiting for it"; flock 9; }
need_room "$room" "ONNX Runtime for $kind"
tools/setup/python.sh 9>&-
make_work
fetch "Fetching ONNX Runtime for $kind ($size MB)" "$pins" "$work/wheel" \
    --python-version 3.11 --implementation cp --platform manylinux_2_28_x86_64
mkdir "$work/out"
quietly "unpacking ONNX Runtime for $kind" "$venv/bin/python" tools/setup/unpack_provider.py "$work"/wheel/"$wheel"-*.whl "$work/out"
# Whole or not at all: a folder with half of the libraries of one version would load, and fail in the middle.
rm -rf "$out"
mv "$work/out" "$out"
echo "$want" >"$out/.stamp"
say "ONNX Runtime for $kind is in $out/: name $out/libonnxruntime.so as runtime.library, or in ORT_DYLIB_PATH"
