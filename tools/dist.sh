#!/usr/bin/env bash
# The binary that is given to others: target/dist/vtagd. The same sources and the same compiler are to give the same bytes, whatever the
# folder, the user and the moment are called: no path of this machine and no time gets in. Usage: dist.sh [CARGO OPTIONS...]
# tools/reproducible.sh tells whether that holds.
set -euo pipefail
cd "$(dirname "$0")/.."

home=${CARGO_HOME:-$HOME/.cargo}
here=$(pwd -P)
# In place of whatever flags the machine has: a `target-cpu=native` would be another binary, and one that ends with SIGILL elsewhere.
unset RUSTFLAGS
CARGO_ENCODED_RUSTFLAGS=$(printf '%s\x1f%s' "--remap-path-prefix=$home=/cargo" "--remap-path-prefix=$here=/vtagd")
# The C parts: SQLite and ring. Quoted, for a folder with a blank in its name.
CFLAGS="'-ffile-prefix-map=$home=/cargo' '-ffile-prefix-map=$here=/vtagd'"
export CARGO_ENCODED_RUSTFLAGS CFLAGS CC_SHELL_ESCAPED_FLAGS=1
SOURCE_DATE_EPOCH=$(tools/source_date.sh)
export SOURCE_DATE_EPOCH
exec tools/cargo build --profile dist --locked --bin vtagd "$@"
