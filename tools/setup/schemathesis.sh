#!/usr/bin/env bash
# schemathesis, which holds a running daemon against its OpenAPI document: .setup/schemathesis, an environment of its own, for `make test`.
. "$(dirname "$0")/lib.sh"

place=$state/schemathesis
pins=tools/pins/schemathesis.txt
want=$(key "$pins" "$0")
if is_current "$place/.stamp" "$want" "$place/bin/python" && "$place/bin/python" -c '' 2>/dev/null; then exit 0; fi
mkdir -p "$state" 2>/dev/null || die "cannot write to $root: check the permissions and the room on the disk"
# A make setup removes the work folders of others when it begins.
exec 9>"$state/lock" || die "cannot write to $root/$state: check the permissions"
flock -n 9 || { say "another set-up is at work: waiting for it"; flock 9; }
need_room 200 "schemathesis"
make_work
# An environment cannot be moved, so it is made in its place; without its stamp it counts as not made.
rm -rf "$place"
trap 'rm -rf "$place"; clean_work' EXIT
say "schemathesis, to test the API (13 MB)"
quietly "making a Python environment" "$python" -m venv "$place"
quietly "installing schemathesis" "$place/bin/python" -m pip install --disable-pip-version-check --no-input --retries 3 --no-compile \
    --no-deps --only-binary=:all: --require-hashes --requirement "$pins"
quietly "trying schemathesis" "$place/bin/schemathesis" --version
printf '%s\n' "$want" 2>/dev/null >"$place/.stamp" || die "no room on the disk: make room and run the tests again"
trap clean_work EXIT
