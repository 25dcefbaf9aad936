#!/usr/bin/env bash
# What `make test-fleet` and benches/peers/fleet.py try vtagd against, into .setup/foreign (FOREIGN=FOLDER: there): NVIDIA's Triton out of PyPI's
# nvidia-pytriton, and MLServer, each in a Python environment of its own. Needs no root and no GPU; does only what is missing. None of it is in what
# is passed on.
. "$(dirname "$0")/../../tools/setup/lib.sh"

# From here, where the steps that are shared look for it.
state=$(realpath --canonicalize-missing --relative-to=. "${FOREIGN:-.setup/foreign}")
here=tests/foreign
make_work

# environment NAME MEGABYTES PROGRAM: a Python environment with what NAME.txt says.
environment() {
    local name=$1 room=$2 program=$3 pins=$here/$1.txt
    is_current "$state/$name/.stamp" "$(key "$pins")" "$state/$name/$program" && return
    need_room "$room" "$name"
    say "$name ($room MB)"
    # An environment cannot be moved, so it is made in its place; without its stamp it counts as not made.
    rm -rf "${state:?}/$name"
    quietly "making a Python environment" "$python" -m venv "$state/$name"
    quietly "installing $name" "$state/$name/bin/python" -m pip install --disable-pip-version-check --no-input --retries 3 --no-compile --no-deps \
        --only-binary=:all: --requirement "$pins"
    quietly "trying $name" "$state/$name/bin/python" -m pip check
    key "$pins" >"$state/$name/.stamp"
}

environment triton 900 bin/python
environment mlserver 600 bin/mlserver
