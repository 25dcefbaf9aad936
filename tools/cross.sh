#!/usr/bin/env bash
# The Debian package for another architecture, built here: target/debian/vtagd_VERSION_ARCH.deb. Usage: cross.sh arm64
#
# In a Debian 12 of its own (target/roots/cross-ARCH, 2.4 GB, made once), so that nothing foreign is installed on this machine: Debian's
# compiler (rustc-web) with the standard library, GStreamer and GNU's cross compiler for ARCH. The crates come from this machine's cargo;
# nothing is fetched in there. ONNX Runtime is not linked, only packed: the pinned wheel for ARCH.
. "$(dirname "$0")/roots.sh"
own_mounts "$@"

arch=${1:?an architecture}
machine=$(machine_of "$arch")
target=$machine-unknown-linux-gnu
[ "$arch" != "$(debian_arch)" ] || die "this machine is $arch: make deb needs no ARCH"
home=$(realpath "${CARGO_HOME:-$HOME/.cargo}")
out=target/$arch

can_run "$arch"
tools/setup/runtime.sh "$machine" "$out/runtime"
for tool in deb cyclonedx about; do tools/setup/rust_tool.sh $tool; done
tools/cargo fetch --locked --quiet || die "the crates cannot be fetched"
say "the compiler's root, $roots/cross-$arch (made once: minutes, 2.4 GB)"
packages="rustc-web,cargo-web,libstd-rust-web-dev:$arch,crossbuild-essential-$arch,pkgconf,libgstreamer1.0-dev:$arch"
packages+=",libgstreamer-plugins-base1.0-dev:$arch,libssl-dev:$arch,dpkg-dev,ca-certificates,git,python3"
kept_root "cross-$arch" 1 bookworm --variant=apt --architectures="$(debian_arch),$arch" --include="$packages"

enter "$root"
lend "$root" "$here"
lend "$root" "$home"
# A checkout may have links to these.
for folder in models .git; do [ ! -L $folder ] || lend "$root" $folder; done
git_home=$(git rev-parse --path-format=absolute --git-common-dir 2>/dev/null) && lend "$root" "$git_home"
lend "$root" "$out/runtime" "$(realpath runtime)"

upper=$(tr a-z- A-Z_ <<<"$target")
cross() {
    inside "$root" CARGO_HOME="$home" CARGO_NET_OFFLINE=true CARGO_TARGET_DIR="$here/$out" PKG_CONFIG_ALLOW_CROSS=1 \
        PKG_CONFIG="$machine-linux-gnu-pkg-config" "CARGO_TARGET_${upper}_LINKER=$machine-linux-gnu-gcc" \
        DEB_HOST_ARCH="$arch" ${CARGO_BUILD_JOBS:+CARGO_BUILD_JOBS=$CARGO_BUILD_JOBS} SOURCE_DATE_EPOCH="$(tools/source_date.sh)" "$@"
}
say "building for $arch with Debian's $(inside "$root" rustc --version)"
cross "$here/tools/dist.sh" --target "$target" || die "the build failed"
say "packing"
cross "$here/tools/deb.sh" dist "$target" || die "the package could not be made"
