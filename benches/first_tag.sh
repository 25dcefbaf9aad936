#!/usr/bin/env bash
# From a fresh Debian to the first tag, in seconds, and what size things have; fails where a limit is passed. Usage: first_tag.sh PACKAGE.deb IMAGE.tar
#
# The network is not counted: what the package depends on lies in a root file system that was made before (tools/image.sh keeps it), as it would in
# apt's cache, and the image lies in a file. A start counts from nothing: no cache of label texts, no registry of GStreamer. Needs root; for a
# package of this machine's architecture. `make first-tag` calls it; docs/benchmarks.md has what it printed.
. "$(dirname "$0")/../tools/roots.sh"
own_mounts "$@"
tools/setup/packages.sh podman crun curl
[ -e demo/clip.mp4 ] || tools/setup/clip.sh

deb=$(realpath "${1:?a package}") image=$(realpath "${2:?an image}")
[ "$(dpkg-deb -f "$deb" Architecture)" = "$(debian_arch)" ] || die "under emulation nothing is measured: give it a package for $(debian_arch)"
work=$(mktemp -d)
# In memory, so that what is measured is not somebody else's disk.
mount -t tmpfs -o mode=755 first-tag "$work"
# A store of its own, before `finish`, which removes all containers that it finds.
podman() { TMPDIR=$work command podman --root "$work/store" --runroot "$work/run" --cgroup-manager cgroupfs --log-level error "$@"; }
pid=
finish() {
    [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true
    podman rm --all --force >/dev/null 2>&1 || true
    umount -R -l "$work" 2>/dev/null || true
    rmdir "$work"
}
trap finish EXIT
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }
# within SECONDS COMMAND...: waits until the command succeeds, and looks often, as it is measured.
within() {
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || die "not in time: $*"; sleep 0.02; done
}
bad=0
# row WHAT VALUE LIMIT UNIT: one line, and whether the limit holds.
row() {
    local mark=
    awk -v v="$2" -v l="$3" 'BEGIN { exit !(v > l) }' && mark="  TOO MUCH" bad=1
    printf '%-66s %8s %-3s (at most %s)%s\n' "$1" "$2" "$4" "$3" "$mark"
}
config() {
    cat <<YAML
streams: [{ id: clip, url: "file://clip.mp4", loop: true }]
labels: [demo.yaml]
events: { enter: 0.5, exit: 0.3, after: 0s, after_exit: 0s, cooldown: 0s }
sinks: [{ type: jsonl, path: "$1" }]
api: { listen: 127.0.0.1:$port }
YAML
}
port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
ready() { curl -fs "http://127.0.0.1:$port/readyz"; }

root=$here/$roots/depends-$(debian_arch)
[ -d "$root" ] || die "there is no $root: run make image first"
tree=$work/tree
overlay "$root" "$tree"
enter "$tree"
cp "$deb" "$tree/root/vtagd.deb"
begun=$(now)
inside "$tree" apt-get install -y --no-install-recommends /root/vtagd.deb >"$work/log" 2>&1 || { cat "$work/log" >&2; die "the package could not be installed"; }
installed=$(since "$begun")
inside "$tree" install -d -o vtagd -g vtagd /var/lib/vtagd /var/cache/vtagd
cp demo/clip.mp4 "$tree/etc/vtagd/clip.mp4"
cp "$tree/etc/vtagd/labels/demo.yaml" "$tree/etc/vtagd/demo.yaml"
config /var/lib/vtagd/events.jsonl >"$tree/etc/vtagd/vtagd.yaml"
events=$tree/var/lib/vtagd/events.jsonl
run() {
    started=$(now)
    # Not `inside`: what is started is to be the process that is asked and ended.
    chroot "$tree" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/var/lib/vtagd STATE_DIRECTORY=/var/lib/vtagd CACHE_DIRECTORY=/var/cache/vtagd \
        setpriv --reuid=vtagd --regid=vtagd --init-groups vtagd run -c /etc/vtagd/vtagd.yaml >/dev/null 2>"$work/vtagd.log" &
    pid=$!
    within 60 ready
}
stop() { kill "$pid"; wait "$pid" || die "it did not end well: $(tail -n 1 "$work/vtagd.log")"; pid=; }
run
cold=$(since "$started")
within 60 grep -q tag.start "$events"
package=$(since "$begun")
# FIELD of the process's memory in MB, once batches have run for a while.
memory() { awk -v field="$1:" '$1 == field { printf "%.0f", $2 / 1000 }' "/proc/$pid/status"; }
sleep 20
first=$(memory VmRSS)
stop
run
warm=$(since "$started")
sleep 20
rss=$(memory VmRSS) own=$(memory RssAnon)
stop

[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -m 755 "$work/config" && install -d -o 10001 -m 750 "$work/state"
cp demo/clip.mp4 "$tree/etc/vtagd/demo.yaml" "$work/config/"
config /state/events.jsonl >"$work/config/vtagd.yaml"
chmod 644 "$work/config"/*
begun=$(now)
podman load -q -i "$image" >/dev/null
loaded=$(since "$begun")
podman run --detach --read-only --cap-drop all --cgroups disabled --network host --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 \
    -v "$work/config:/config:ro" -v "$work/state:/state" "$(podman images --format '{{.Repository}}:{{.Tag}}' | head -n 1)" >/dev/null
within 60 grep -q tag.start "$work/state/events.jsonl"
container=$(since "$begun")
podman stop --all --time 30 >/dev/null

row "binary, without symbols" "$(awk -v b="$(stat -c %s "$tree/usr/bin/vtagd")" 'BEGIN { printf "%.1f", b / 1e6 }')" 26 MB
row "package" "$(awk -v b="$(stat -c %s "$deb")" 'BEGIN { printf "%.1f", b / 1e6 }')" 60 MB
row "image, a file" "$(awk -v b="$(stat -c %s "$image")" 'BEGIN { printf "%.0f", b / 1e6 }')" 250 MB
row "start to ready, nothing cached (again: $warm s)" "$cold" 1.5 s
row "memory with one camera (its own: $own MB; first start: $first MB)" "$rss" 180 MB
row "package: fresh Debian to first tag (installed after $installed s)" "$package" 90 s
row "image: file to first tag (loaded after $loaded s)" "$container" 60 s
[ $bad -eq 0 ] || die "a limit is passed; is the machine quiet?"
