#!/usr/bin/env bash
# Builds the Debian package of a binary that is built (tools/dist.sh): target/debian/vtagd_VERSION_ARCH.deb. Usage: deb.sh [PROFILE [TARGET]]
# With a TARGET, such as aarch64-unknown-linux-gnu, the binary lies below CARGO_TARGET_DIR, and this machine can run it (tools/cross.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
die() { printf 'deb: %s\n' "$*" >&2; exit 1; }

profile=${1:-dist}
target=${2-}
built=$profile
# cargo's one profile that is not called like its folder.
[ "$profile" != dev ] || built=debug
vtagd=${CARGO_TARGET_DIR:-target}${target:+/$target}/$built/vtagd
[ -x "$vtagd" ] || die "there is no $vtagd: run make deb"
[ -e runtime/libonnxruntime.so ] && [ -d models/starter ] || die "the runtime or the starter model is missing: run make setup first"
command -v dpkg-shlibdeps >/dev/null || die "dpkg-shlibdeps is missing, of the package dpkg-dev: run make setup"
SOURCE_DATE_EPOCH=$(tools/source_date.sh)
export SOURCE_DATE_EPOCH

rm -rf target/package
"$vtagd" package-files target/package
tools/sbom.sh target/package/vtagd.cdx.json ${target:+"$target"}
tools/licences.sh target/package/licences-of-crates.txt
# Debian wants its own change log, of the packaging; what changed in vtagd is in the other one.
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
maintainer=$(sed -n 's/^maintainer = "\(.*\)"/\1/p' Cargo.toml)
cat >target/package/changelog.Debian <<TEXT
vtagd ($version-1) unstable; urgency=medium

  * What changed in vtagd is in /usr/share/doc/vtagd/changelog.gz

 -- $maintainer  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
TEXT
# Without name and time, so that the same text gives the same bytes.
gzip -9n target/package/vtagd.cdx.json target/package/licences-of-crates.txt
mkdir -p target/debian
tools/cargo deb --no-build --locked --profile "$profile" ${target:+--target "$target"} --output target/debian/
