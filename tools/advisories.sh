#!/usr/bin/env bash
# Looks for security advisories about the crates of Cargo.lock. Called by `make lint`. Where the database of advisories comes from:
#   1. VTAGD_ADVISORY_DB, a folder with a copy of https://github.com/rustsec/advisory-db: nothing is fetched
#   2. the network
#   3. ~/.cargo/advisory-db, a copy, where `cargo audit fetch` leaves it too
# With none of them it says that nothing was checked, and ends well; with VTAGD_ADVISORIES=required, which a release sets, it does not.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'lint: %s\n' "$*"; }
die() { printf 'lint: %s\n' "$*" >&2; exit 1; }

# A copy on the disk: a git repository, of any age. cargo deny looks for it under a name of its own in a folder of such copies.
check_copy() {
    [ -d "$1/crates" ] && git -C "$1" rev-parse --git-dir >/dev/null 2>&1 || die "$1 is no copy of the advisory database: a git clone with a folder crates"
    say "advisories are checked with the copy in $1, of $(git -C "$1" log -1 --format=%cs)"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    ln -s "$(realpath "$1")" "$work/advisory-db-3157b0e258782691"
    sed "s#^\[advisories\]#&\ndb-path = \"$work\"\nmaximum-db-staleness = \"P9999D\"#" deny.toml >"$work/deny.toml"
    tools/cargo deny --locked --offline --config "$work/deny.toml" check --hide-inclusion-graph advisories
}

copy=${CARGO_HOME:-$HOME/.cargo}/advisory-db
if [ -n "${VTAGD_ADVISORY_DB-}" ]; then
    check_copy "$VTAGD_ADVISORY_DB"
elif tools/cargo deny --locked fetch db >/dev/null 2>&1; then
    tools/cargo deny --locked check --hide-inclusion-graph advisories
elif [ -d "$copy/crates" ]; then
    say "the advisory database could not be fetched"
    check_copy "$copy"
else
    [ "${VTAGD_ADVISORIES-}" != required ] || die "the advisory database could not be fetched and there is no copy: set VTAGD_ADVISORY_DB"
    say "NOT CHECKED: advisories. The database could not be fetched and there is no copy in $copy; VTAGD_ADVISORY_DB names another place"
fi
