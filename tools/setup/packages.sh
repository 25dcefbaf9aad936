#!/usr/bin/env bash
# Debian packages: asks dpkg what is missing and calls apt-get only then, through sudo only where it must.
# Usage: packages.sh [PACKAGE...]    without names: those of tools/pins/debian-packages.txt
. "$(dirname "$0")/lib.sh"

if ! command -v dpkg-query >/dev/null; then
    say "this is no Debian: make sure that GStreamer 1.22 or newer with its plugins and headers is installed"
    exit 0
fi
if [ $# -gt 0 ]; then wanted=("$@"); else mapfile -t wanted < <(grep -v '^#' tools/pins/debian-packages.txt); fi
installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null | sed -n 's/^installed //p' || true)
missing=()
for package in "${wanted[@]}"; do
    grep -qx "$package" <<<"$installed" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "not root, and there is no sudo: run as root: apt-get install ${missing[*]}; then run make setup again"
    as_root=(sudo)
    sudo -v || die "sudo was refused: run as root: apt-get install ${missing[*]}; then run make setup again"
fi
make_work
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q "$@" </dev/null; }
say "Debian packages: ${missing[*]}"
quietly "updating the package lists" apt update
quietly "installing Debian packages" apt install -y --no-install-recommends "${missing[@]}"
