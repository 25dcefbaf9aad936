#!/usr/bin/env bash
# The bill of materials, CycloneDX in JSON: every crate in the binary with version, hash, licence and address, and what the package
# brings besides: OpenSSL and librdkafka, which are in the binary too, ONNX Runtime and the parts of the starter model, as tools/pins names
# them. Usage: sbom.sh FILE [TARGET]
set -euo pipefail
cd "$(dirname "$0")/.."
die() { printf 'sbom: %s\n' "$*" >&2; exit 1; }

file=${1:?a file}
tools/setup/rust_tool.sh cyclonedx
# The moment and the number of the document come from this, else they would be others each time.
SOURCE_DATE_EPOCH=$(tools/source_date.sh)
export SOURCE_DATE_EPOCH
target=${2:-$(tools/cargo -vV | sed -n "s/^host: //p")}
# The tool writes beside every Cargo.toml of the workspace, and nowhere else.
name=.vtagd-sbom-$$
trap 'rm -f "$name.json" "$name.tree" crates/*/"$name.json"' EXIT
tools/cargo cyclonedx --quiet --features kafka --format json --spec-version 1.5 --target "$target" --no-build-deps --override-filename "$name" || die "cargo-cyclonedx failed"
mkdir -p "$(dirname "$file")"
# The tool also names what only a feature that is off would bring; cargo itself knows what is compiled.
tools/cargo tree --locked --features kafka --edges normal --target "$target" --prefix none --format '{p}' | sed 's/^\(.*\) v\([^ ]*\).*/\1 \2/' | sort -u >"$name.tree"
# Its revision decides which holes it has: Debian mends them without a new version.
openssl=$(dpkg-query --show --showformat '${Version}\n' libssl-dev 2>/dev/null | head -n 1) && [ -n "$openssl" ] || die "libssl-dev is not installed"
/usr/bin/python3 tools/sbom_parts.py "$name.json" "$name.tree" "$openssl" >"$file.new"
mv "$file.new" "$file"
