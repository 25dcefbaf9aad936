#!/usr/bin/env bash
# The build-time Python environment, .setup/venv. Called by the steps that need it; nothing of it runs in the daemon.
. "$(dirname "$0")/lib.sh"

want=$(key tools/pins/venv.txt "$0")
if is_current "$venv/.stamp" "$want" "$venv/bin/python" && "$venv/bin/python" -c '' 2>/dev/null; then exit 0; fi
need_room 600 "the build-time Python"
make_work
# An environment cannot be moved, so it is made in its place; without its stamp it counts as not made.
rm -rf "$venv"
trap 'rm -rf "$venv"; clean_work' EXIT
say "Python for the build: numpy, onnx, onnxruntime, tokenizers, pillow (about 90 MB)"
quietly "making a Python environment" "$python" -m venv "$venv"
quietly "installing the build-time Python" "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --retries 3 \
    --no-deps --only-binary=:all: --require-hashes --requirement tools/pins/venv.txt
quietly "trying the build-time Python" "$venv/bin/python" -c 'import numpy, onnx, onnxruntime, tokenizers, PIL.Image'
printf '%s\n' "$want" 2>/dev/null >"$venv/.stamp" || die "no room on the disk: make room and run make setup again"
trap clean_work EXIT
