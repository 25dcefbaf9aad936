#!/usr/bin/env bash
# Everything a fresh Debian 12 needs to build, test and run: called by `make setup`. Does only what is missing; a step
# that fails says why in one line and leaves nothing half-made, so it can simply be called again.
. "$(dirname "$0")/setup/lib.sh"

mkdir -p "$state" 2>/dev/null || die "cannot write to $root: check the permissions and the room on the disk"
# One at a time: two would build the same things in the same places.
exec 9>"$state/lock" || die "cannot write to $root/$state: check the permissions"
if ! flock -n 9; then
    say "another make setup is at work: waiting for it"
    flock 9
fi
rm -rf "$state"/work.* # of a set-up that was killed

for step in packages promtool rust runtime starter clip; do
    tools/setup/$step.sh 9>&- || exit 1
done
say "ready"
