#!/usr/bin/env bash
# The licence texts and notices of every crate in the binary, as their licences ask for. Usage: licences.sh FILE
# cargo-about finds them in the crates themselves, about.toml says what may be among them.
set -euo pipefail
cd "$(dirname "$0")/.."
die() { printf 'licences: %s\n' "$*" >&2; exit 1; }

file=${1:?a file}
tools/setup/rust_tool.sh about
mkdir -p "$(dirname "$file")"
tools/cargo about generate --locked --fail --config about.toml --output-file "$file.new" tools/deb/licences.hbs || die "cargo-about failed"
mv "$file.new" "$file"
