#!/usr/bin/env bash
# The binary that is given to others: target/dist/vtagd, with the Kafka client. The same sources and the same compiler are to give the same
# bytes, whatever the folder, the user and the moment are called: no path of this machine and no time gets in.
# Usage: dist.sh [CARGO OPTIONS...]    tools/reproducible.sh tells whether that holds.
set -euo pipefail
cd "$(dirname "$0")/.."
die() { printf 'dist: %s\n' "$*" >&2; exit 1; }

home=${CARGO_HOME:-$HOME/.cargo}
here=$(pwd -P)
for folder in "$here" "$home" "${CARGO_TARGET_DIR-}"; do
    [[ $folder != *[[:space:]]* ]] || die "librdkafka cannot be built where a folder has a blank in its name: '$folder' (the sources, CARGO_HOME or CARGO_TARGET_DIR), move it"
done
# In place of whatever flags the machine has: a `target-cpu=native` would be another binary, and one that ends with SIGILL elsewhere.
unset RUSTFLAGS
# A compiler knows a file by the name it is given and its folder by the one without links: both are mapped.
registry=$(realpath -m "$home/registry/src")
maps=("$home=/cargo" "$registry=/cargo/registry/src" "$here=/vtagd")
CARGO_ENCODED_RUSTFLAGS=$(printf -- '--remap-path-prefix=%s\x1f' "${maps[@]}")
CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%$'\x1f'}
CFLAGS=$(printf -- '-ffile-prefix-map=%s ' "${maps[@]}")
export CARGO_ENCODED_RUSTFLAGS CFLAGS

# librdkafka's configure knows no targets, only the names of tools.
target=
for ((at = 1; at < $#; at++)); do [ "${!at}" != --target ] || { next=$((at + 1)) target=${!next}; }; done
gnu=
if [ -n "$target" ] && [ "$target" != "$(tools/cargo -vV | sed -n 's/^host: //p')" ]; then
    gnu=${target%%-*}-linux-gnu-
    export CC=${gnu}gcc CXX=${gnu}g++ AR=${gnu}ar RANLIB=${gnu}ranlib NM=${gnu}nm HOST_CC=gcc HOST_CXX=g++ HOST_AR=ar
fi
# OpenSSL, which only librdkafka uses, becomes part of the binary: it runs wherever vtagd does, whichever OpenSSL is there or none. pkg-config would
# not name a static library of the system.
library=$(${gnu}gcc -print-file-name=libssl.a)
[ -e "$library" ] || die "there is no static OpenSSL for ${target:-this machine}: install libssl-dev"
OPENSSL_LIB_DIR=$(dirname "$(realpath "$library")")
export OPENSSL_LIB_DIR OPENSSL_STATIC=1 OPENSSL_INCLUDE_DIR=/usr/include

SOURCE_DATE_EPOCH=$(tools/source_date.sh)
export SOURCE_DATE_EPOCH
exec tools/cargo build --profile dist --locked --features kafka --bin vtagd "$@"
