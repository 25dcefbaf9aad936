#!/usr/bin/env bash
# Builds the Debian package of a binary that is built: target/debian/vtagd_VERSION_ARCH.deb. Usage: deb.sh [PROFILE]
set -euo pipefail
cd "$(dirname "$0")/.."
die() { printf 'deb: %s\n' "$*" >&2; exit 1; }

profile=${1:-release}
built=$profile
# cargo's one profile that is not called like its folder.
[ "$profile" != dev ] || built=debug
[ -x "target/$built/vtagd" ] || die "there is no target/$built/vtagd: run make build first"
[ -e runtime/libonnxruntime.so ] && [ -d models/starter ] || die "the runtime or the starter model is missing: run make setup first"
command -v dpkg-shlibdeps >/dev/null || die "dpkg-shlibdeps is missing, of the package dpkg-dev: run make setup"

rm -rf target/package
"target/$built/vtagd" package-files target/package
tools/cargo deb --no-build --locked --profile "$profile"
