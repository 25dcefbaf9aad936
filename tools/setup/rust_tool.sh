#!/usr/bin/env bash
# A cargo tool, only for the target that needs it, only if it is missing. Usage: rust_tool.sh fmt|clippy|deny|deb|fuzz
. "$(dirname "$0")/lib.sh"

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
    deny)
        say "installing cargo-deny (a few minutes)"
        tools/cargo install --locked --quiet --version 0.20.2 cargo-deny || die "cannot install cargo-deny: check the network and run make lint again"
        ;;
    deb)
        tools/setup/packages.sh dpkg-dev
        say "installing cargo-deb (a few minutes)"
        tools/cargo install --locked --quiet --version 3.8.0 cargo-deb || die "cannot install cargo-deb: check the network and run make deb again"
        ;;
    fuzz)
        say "installing cargo-fuzz (a few minutes)"
        tools/cargo install --locked --quiet --version 0.13.2 cargo-fuzz || die "cannot install cargo-fuzz: check the network and run make fuzz again"
        ;;
    *) die "rust_tool.sh knows fmt, clippy, deny, deb and fuzz" ;;
esac
