#!/usr/bin/env bash
# The licence texts of every crate in the binary, and of the C library that one of them brings, as their licences ask for. Usage: licences.sh FILE
# cargo-about finds them in the crates themselves, about.toml says what may be among them. It takes minutes, so what it has found is kept
# under target/ until the crates change.
set -euo pipefail
cd "$(dirname "$0")/.."
die() { printf 'licences: %s\n' "$*" >&2; exit 1; }

file=${1:?a file}
kept=target/licences/$(cat Cargo.lock about.toml tools/deb/licences.hbs "$0" | sha256sum | cut -d' ' -f1).txt
if [ ! -s "$kept" ]; then
    tools/setup/rust_tool.sh about
    rm -rf target/licences
    mkdir -p target/licences
    tools/cargo fetch --locked --quiet || die "the crates cannot be fetched"
    # Offline: the texts are in the crates, and no server is asked what it thinks they are.
    tools/cargo about generate --frozen --fail --features kafka --config about.toml --output-file "$kept.new" tools/deb/licences.hbs || die "cargo-about failed"
    rdkafka=$(tools/cargo metadata --frozen --format-version 1 --features kafka |
        /usr/bin/python3 -c 'import json, sys; print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "rdkafka-sys"))')
    {
        printf '%.0s=' {1..80}
        printf '\nlibrdkafka, which rdkafka-sys brings, and what it is made of\n\n'
        cat "$(dirname "$rdkafka")/librdkafka/LICENSES.txt"
    } >>"$kept.new" || die "the licences of librdkafka are missing"
    mv "$kept.new" "$kept"
fi
mkdir -p "$(dirname "$file")"
cp "$kept" "$file"
