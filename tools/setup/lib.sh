# Sourced by every set-up step: messages, a work folder that always goes away, pinned downloads.
#
# A step is a script that leaves either the finished thing or nothing: it works in $work (on the same file system as
# the result) and renames at the end. The stamp beside a result holds a hash of all that made it, so that a step that
# has nothing to do says nothing and costs milliseconds.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"

state=.setup
child=
work=

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# From here on: $work is a fresh folder, removed however the step ends, together with a download that still runs.
make_work() {
    mkdir -p "$state" 2>/dev/null || die "cannot write to $root: check the permissions and the room on the disk"
    work=$(mktemp -d "$root/$state/work.XXXXXX" 2>/dev/null) || die "cannot write to $root/$state: check the permissions and the room on the disk"
    export TMPDIR=$work
    trap clean_work EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}
clean_work() {
    if [ -n "$child" ]; then kill "$child" 2>/dev/null || true; wait "$child" 2>/dev/null || true; fi
    rm -rf "$work"
}

# key FILE...: a hash of the files that decide a result.
key() { cat "$@" | sha256sum | cut -d' ' -f1; }

# is_current STAMP KEY RESULT...: true when every result is there and the stamp holds the key.
is_current() {
    local stamp=$1 want=$2 file
    shift 2
    for file in "$@"; do [ -e "$file" ] || return 1; done
    [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]
}

# need_room MEGABYTES WHAT: stops before a full disk does.
need_room() {
    local free
    free=$(df -Pm "$root" | awk 'NR == 2 { print $4 }')
    [ "$free" -ge "$1" ] || die "$2 needs $1 MB of disk under $root, $free MB are free: make room and run make setup again"
}

# quietly WHAT COMMAND...: runs COMMAND with its output kept aside, a line every ten seconds, and one clear line should it fail.
quietly() {
    local what=$1 log=$work/log ticks=0 rc=0
    shift
    "$@" >"$log" 2>&1 &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        sleep 0.2
        ticks=$((ticks + 1))
        [ $((ticks % 50)) -ne 0 ] || say "  ... $what, $(du -sm "$work" 2>/dev/null | cut -f1) MB so far"
    done
    wait "$child" || rc=$?
    child=
    [ "$rc" -eq 0 ] || explain "$what" "$log"
}

# explain WHAT LOG: the reason out of a tool's output, as one line with a remedy.
explain() {
    local what=$1 log=$2 kept=
    cp "$log" "$state/last-error.log" 2>/dev/null && kept=" (what the tool said: $state/last-error.log)"
    if grep -qiE 'no space left|not enough free (disk )?space|disk quota' "$log" || [ "$(df -Pm "$root" | awk 'NR == 2 { print $4 }')" -lt 1 ]; then
        die "no room on the disk while $what: make room and run make setup again"
    elif grep -qE 'DO NOT MATCH THE HASHES|Hash Sum mismatch' "$log"; then
        die "refused while $what: a file is not the pinned one$kept"
    elif grep -qi 'could not get lock' "$log"; then
        die "another package manager is at work: wait for it and run make setup again"
    elif grep -qiE 'no matching distribution|unable to locate package|failed to fetch|could not resolve|connection|timed out|max retries|temporary failure|ssl|proxy' "$log"; then
        die "cannot download while $what: check the network and run make setup again$kept"
    fi
    die "failed while $what: $(grep -v '^\s*$' "$log" | tail -n 1)$kept"
}

# The Python of the system: the one the pinned wheels were chosen for.
python=${PYTHON:-/usr/bin/python3}
venv=$state/venv

# fetch WHAT PINS FOLDER [PIP OPTIONS...]: the wheels of a pins file, checked against their hashes, nothing else.
fetch() {
    local what=$1 pins=$2 into=$3
    shift 3
    say "$what"
    mkdir -p "$into"
    quietly "${what,}" "$venv/bin/python" -m pip download --disable-pip-version-check --no-input --retries 3 --no-deps --only-binary=:all: \
        --require-hashes --requirement "$pins" --dest "$into" "$@"
}
