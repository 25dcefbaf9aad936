#!/usr/bin/env bash
# A cargo tool, only for the target that needs it, only if it is missing. Usage: rust_tool.sh fmt|clippy|deny|deb|cyclonedx|about|fuzz
. "$(dirname "$0")/lib.sh"

# build CRATE VERSION TARGET [OPTION...]: compiles a tool of a fixed version.
build() {
    say "installing $1 (a few minutes)"
    tools/cargo install --locked --quiet --version "$2" "${@:4}" "$1" || die "cannot install $1: check the network and run $3 again"
}

tool=$1
if tools/cargo "$tool" --version >/dev/null 2>&1; then exit 0; fi
case $tool in
    fmt)
        # Debian packages rustfmt beside its rustc-web; a rustup toolchain brings its own.
        if [ "$(tools/cargo --which)" = "$(/usr/bin/cargo --version 2>/dev/null)" ]; then
            tools/setup/packages.sh rustfmt-web
        else
            die "there is no cargo fmt: run rustup component add rustfmt"
        fi
        ;;
    clippy) die "there is no cargo clippy, which Debian 12 does not package for rustc-web: install Rust from https://rustup.rs to lint" ;;
    deny) build cargo-deny 0.20.2 "make lint" ;;
    deb)
        tools/setup/packages.sh dpkg-dev
        build cargo-deb 3.8.0 "make deb"
        ;;
    fuzz) build cargo-fuzz 0.13.2 "make fuzz" ;;
    cyclonedx) build cargo-cyclonedx 0.5.9 "make sbom" ;;
    about) build cargo-about 0.9.3 "make deb" --features cli ;;
    *) die "rust_tool.sh knows fmt, clippy, deny, deb, cyclonedx, about and fuzz" ;;
esac
