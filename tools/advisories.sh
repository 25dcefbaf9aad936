#!/usr/bin/env bash
# Looks for security advisories about the crates of Cargo.lock. Called by `make lint`. Where the database of advisories comes from:
#   1. VTAGD_ADVISORY_DB, a folder with a copy of https://github.com/rustsec/advisory-db: nothing is fetched
#   2. the network
#   3. ~/.cargo/advisory-db, a copy as `cargo audit fetch` or git leaves it there
# With none of them it says that nothing was checked, and ends well; with VTAGD_ADVISORIES=required, which a release sets, it does not.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'lint: %s\n' "$*"; }
die() { printf 'lint: %s\n' "$*" >&2; exit 1; }

# A copy on the disk: cargo audit takes any folder, cargo deny only its own.
audit() {
    [ -d "$1/crates" ] || die "$1 is no copy of the advisory database: it has no folder crates"
    tools/setup/rust_tool.sh audit
    local newest
    newest=$(git -C "$1" log -1 --format=%cs 2>/dev/null) || newest="unknown date"
    say "advisories are checked with the copy in $1 ($newest)"
    tools/cargo audit --db "$1" --no-fetch --stale --deny warnings --file Cargo.lock
}

copy=${CARGO_HOME:-$HOME/.cargo}/advisory-db
if [ -n "${VTAGD_ADVISORY_DB-}" ]; then
    audit "$VTAGD_ADVISORY_DB"
elif tools/cargo deny --locked fetch db >/dev/null 2>&1; then
    tools/cargo deny --locked check --hide-inclusion-graph --disable-fetch advisories
elif [ -d "$copy/crates" ]; then
    say "the advisory database could not be fetched"
    audit "$copy"
else
    [ "${VTAGD_ADVISORIES-}" != required ] || die "the advisory database could not be fetched and there is no copy: set VTAGD_ADVISORY_DB"
    say "NOT CHECKED: advisories. The database could not be fetched and there is no copy in $copy; VTAGD_ADVISORY_DB names another place"
fi
