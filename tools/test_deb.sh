#!/usr/bin/env bash
# The package in a Debian 12 that holds nothing but what the package depends on: installed, used as the service's user, upgraded,
# removed, purged. Usage: test_deb.sh PACKAGE.deb [ROOT]    needs root, about 1 GB in TMPDIR and a Debian mirror; or ROOT, a root file
# system with the dependencies already in it, which is changed and left.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'test-deb: %s\n' "$*"; }
die() { printf 'test-deb: %s\n' "$*" >&2; exit 1; }

deb=$(realpath "${1:?a package}")
[ "$(id -u)" -eq 0 ] || die "needs root, to make a root file system and to go into it: run sudo make test-deb"
command -v mmdebstrap >/dev/null || die "mmdebstrap is missing: apt-get install mmdebstrap"
work=$(mktemp -d)
trap 'umount "$root/proc" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
root=${2:-$work/root}
# Nothing of this shell gets in: PATH is the only variable.
inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@"; }
as_service() { inside setpriv --reuid=vtagd --regid=vtagd --init-groups env STATE_DIRECTORY=/var/lib/vtagd CACHE_DIRECTORY=/var/cache/vtagd "$@"; }

if [ $# -lt 2 ]; then
    say "making a clean Debian 12"
    # The first of alternatives, without versions: what apt would take.
    depends=$(dpkg-deb -f "$deb" Depends | sed 's/([^)]*)//g; s/|[^,]*//g; s/ //g')
    apt-config dump | grep -E '^Acquire::https?' >"$work/apt.conf" || true
    mmdebstrap --quiet --variant=minbase --aptopt="$work/apt.conf" --aptopt='APT::Install-Recommends "false"' \
        --include="$depends" bookworm "$root" >"$work/log" 2>&1 || { cat "$work/log"; die "the clean root could not be made"; }
fi
mount -t proc proc "$root/proc"
install() { cp "$1" "$root/tmp/vtagd.deb"; inside dpkg --force-confold -i /tmp/vtagd.deb >"$work/log" 2>&1 || { cat "$work/log"; die "dpkg failed"; }; }
# A package with the same files and a higher version, whose own configuration has changed.
newer() {
    dpkg-deb -R "$deb" "$work/newer"
    sed -i 's/^Version: .*/&+newer/' "$work/newer/DEBIAN/control"
    echo '# a line of the newer version' >>"$work/newer/etc/vtagd/vtagd.yaml"
    (cd "$work/newer" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | xargs -0 md5sum >DEBIAN/md5sums)
    dpkg-deb --root-owner-group -b "$work/newer" "$work/newer.deb" >/dev/null
    rm -rf "$work/newer"
}

say "installing"
install "$deb"
inside getent passwd vtagd | grep -q ':/usr/sbin/nologin$' || die "no service user without a shell"
for group in video render; do
    inside id -nG vtagd | grep -qw "$group" || die "the service user is not in the group $group"
done
[ "$(inside stat -c '%U:%G %a' /etc/vtagd/secrets)" = "root:vtagd 750" ] || die "/etc/vtagd/secrets can be read by others"
inside dpkg-query -W -f '${Conffiles}' vtagd | grep -q /etc/vtagd/vtagd.yaml || die "vtagd.yaml is no conffile"
for file in man/man1/vtagd.1.gz man/man1/vtagd-run.1.gz bash-completion/completions/vtagd zsh/vendor-completions/_vtagd \
    fish/vendor_completions.d/vtagd.fish doc/vtagd/copyright doc/vtagd/LICENSE.onnxruntime doc/vtagd/starter/NOTICE; do
    [ -s "$root/usr/share/$file" ] || die "/usr/share/$file is missing"
done
inside ldd /usr/bin/vtagd /usr/lib/vtagd/libonnxruntime.so | grep 'not found' && die "a library is not among Depends"
# Of the unpacked package: its own unit finds its own binary.
inside systemd-analyze verify --man=no --recursive-errors=no /usr/lib/systemd/system/vtagd.service >"$work/log" 2>&1 || { cat "$work/log"; die "verify"; }
[ ! -s "$work/log" ] || { cat "$work/log"; die "systemd does not understand the unit"; }
inside systemd-analyze security --offline=yes --threshold=15 /usr/lib/systemd/system/vtagd.service >"$work/log" 2>&1 || { cat "$work/log"; die "the unit is exposed too much"; }

say "running as the service user"
# StateDirectory= and CacheDirectory= of the unit do this on a booted system.
inside install -d -o vtagd -g vtagd -m 750 /var/lib/vtagd /var/cache/vtagd
as_service vtagd check >"$work/log" 2>&1 || { cat "$work/log"; die "the configuration of the package does not pass its own check"; }
cp demo/clip.mp4 "$root/var/lib/vtagd/clip.mp4"
cat >"$root/var/lib/vtagd/test.yaml" <<'YAML'
streams: [{ id: clip, url: "file:///var/lib/vtagd/clip.mp4", pace: fast }]
labels: [/etc/vtagd/labels/demo.yaml]
events: { enter: 0.5, exit: 0.3, after: 0s, after_exit: 0s, cooldown: 0s }
sinks: [{ type: jsonl, path: "-" }]
api: { listen: "off" }
YAML
as_service timeout 600 vtagd run -c /var/lib/vtagd/test.yaml >"$work/events" 2>"$work/log" || { cat "$work/log"; die "run failed"; }
grep -q '"dev.vtagd.tag.start"' "$work/events" || { cat "$work/log"; die "no tag of the demo clip"; }
say "$(grep -c . "$work/events") events of the demo clip"

say "upgrading"
echo '# mine' >>"$root/etc/vtagd/vtagd.yaml"
echo secret >"$root/etc/vtagd/secrets/dock3"
newer
install "$work/newer.deb"
inside dpkg-query -W -f '${Version}' vtagd | grep -q '+newer$' || die "not upgraded"
grep -qx '# mine' "$root/etc/vtagd/vtagd.yaml" || die "an upgrade has lost the configuration"
! grep -q 'of the newer version' "$root/etc/vtagd/vtagd.yaml" || die "an upgrade has changed the configuration"
grep -q 'of the newer version' "$root/etc/vtagd/vtagd.yaml.dpkg-dist" || die "the new configuration is not offered"
[ -s "$root/var/lib/vtagd/clip.mp4" ] || die "an upgrade has lost the state"

say "removing and purging"
inside dpkg -r vtagd >"$work/log" 2>&1 || { cat "$work/log"; die "remove failed"; }
[ ! -e "$root/usr/bin/vtagd" ] && grep -qx '# mine' "$root/etc/vtagd/vtagd.yaml" || die "removing must keep the configuration"
inside dpkg -P vtagd >"$work/log" 2>&1 || { cat "$work/log"; die "purge failed"; }
[ ! -e "$root/etc/vtagd/vtagd.yaml" ] && [ ! -e "$root/var/lib/vtagd" ] && [ ! -e "$root/var/cache/vtagd" ] || die "a purge has left files"
[ -s "$root/etc/vtagd/secrets/dock3" ] || die "a purge has taken a file that the package never brought"
left=$(find "$root/usr" -path '*vtagd*' | head)
[ -z "$left" ] || die "left behind: $left"
say "passed"
