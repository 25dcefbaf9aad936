#!/usr/bin/env bash
# Rust: the toolchain on the path if it is new enough, else Debian's newest packaged one (rustc-web, cargo-web).
. "$(dirname "$0")/lib.sh"

if tools/cargo --which >/dev/null 2>&1; then exit 0; fi
command -v dpkg-query >/dev/null || die "$(tools/cargo --which 2>&1): install it from https://rustup.rs"
tools/setup/packages.sh rustc-web cargo-web
tools/cargo --which >/dev/null 2>&1 \
    || die "Debian's rustc-web is older than rust-version in Cargo.toml: add bookworm-security to the apt sources, or install Rust from https://rustup.rs"
say "Rust: $(tools/cargo --which)"
