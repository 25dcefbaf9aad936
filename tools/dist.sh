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
# A compiler knows a file by the name it is given and its folder by the one without links: both are mapped. The C parts, SQLite and
# ring, have their flags quoted, for a folder with a blank in its name.
registry=$(realpath -m "$home/registry/src")
maps=("$home=/cargo" "$registry=/cargo/registry/src" "$here=/vtagd")
CARGO_ENCODED_RUSTFLAGS=$(printf -- '--remap-path-prefix=%s\x1f' "${maps[@]}")
CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%$'\x1f'}
CFLAGS=$(printf -- "'-ffile-prefix-map=%s' " "${maps[@]}")
export CARGO_ENCODED_RUSTFLAGS CFLAGS CC_SHELL_ESCAPED_FLAGS=1
SOURCE_DATE_EPOCH=$(tools/source_date.sh)
export SOURCE_DATE_EPOCH
exec tools/cargo build --profile dist --locked --bin vtagd "$@"
