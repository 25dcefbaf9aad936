#!/usr/bin/env bash
# promtool, which checks the alert rules and the dashboard of ops/: .setup/promtool, out of Debian's prometheus package. The package is not
# installed: it would start a Prometheus that listens, and brings a dozen others.
. "$(dirname "$0")/lib.sh"

tool=$state/promtool
if "$tool" --version >/dev/null 2>&1; then exit 0; fi
if ! command -v apt-get >/dev/null; then
    command -v promtool >/dev/null || say "this is no Debian: put Prometheus's promtool on the path to run the tests"
    exit 0
fi
need_room 120 "promtool"
make_work
as_root=()
update=1
if [ "$(id -u)" -ne 0 ]; then
    # Downloading needs no rights; lists that are older than the package do.
    if command -v sudo >/dev/null && sudo -v; then as_root=(sudo); else update=; fi
fi
if [ -n "$update" ]; then
    quietly "updating the package lists" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update
fi
say "Fetching promtool (19 MB)"
# apt checks the package against Debian's signatures.
fetch_deb() { cd "$work" && exec apt-get -q -o APT::Sandbox::User=root download prometheus; }
quietly "fetching promtool" fetch_deb
unpack() { dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar -xf - -C "$work" ./usr/bin/promtool; }
quietly "unpacking promtool" unpack
chmod 755 "$work/usr/bin/promtool"
mv -f "$work/usr/bin/promtool" "$tool"
say "promtool is $tool"
