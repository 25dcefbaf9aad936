#!/usr/bin/env bash
# The image, as a person would run it: with podman, a root that cannot be written, no capabilities, a user that is nobody. Usage: test_image.sh IMAGE.tar
#
# The demo clip is played from every kind of source, and each must lead to tags; then reload, health check, a restart over the same state, an orderly
# end. KINDS="file-mp4 rtsp" tries those alone; nothing but file-mp4 is where the image is for another architecture, as qemu is slow.
. "$(dirname "$0")/roots.sh"
own_mounts "$@"

archive=$(realpath "${1:?an image}")
tools/setup/packages.sh podman crun curl ffmpeg openssl python3-gi gir1.2-gst-rtsp-server-1.0
[ -e demo/clip.mp4 ] || tools/setup/clip.sh
work=$(mktemp -d)
# In memory: much is written that nobody keeps.
mount -t tmpfs -o mode=755 test-image "$work"
# A store of its own, gone at the end: the images of this machine are not touched. Before `finish`, which ends and removes all
# containers that it finds.
podman() { TMPDIR=$work command podman --root "$work/store" --runroot "$work/run" --cgroup-manager cgroupfs --log-level error "$@"; }
cameras=
finish() {
    podman kill --all >/dev/null 2>&1 || true
    podman rm --all --force >/dev/null 2>&1 || true
    exec 5>&- || true
    [ -z "$cameras" ] || within 20 eval "! kill -0 $cameras" || kill "$cameras" 2>/dev/null || true
    podman unmount --all >/dev/null 2>&1 || true
    umount -R -l "$work/store" "$work" 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap finish EXIT
# A machine without cgroups that podman knows, such as a container: a view of them, for this script alone. None is made or changed.
[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup || die "this kernel has no cgroup2, which podman needs"
# within SECONDS COMMAND...: waits until the command succeeds.
within() {
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.3; done
}
started() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }'; }

begun=$(started)
say "loading $(basename "$archive")"
podman load -q -i "$archive" | sed 's/^/  /'
name=$(podman images --format '{{.Repository}}:{{.Tag}}' | head -n 1)
arch=$(podman image inspect --format '{{.Architecture}}' "$name")
can_run "$arch"
patience=${PATIENCE:-1}
if [ "$arch" != "$(debian_arch)" ]; then patience=$((10 * patience)) KINDS=${KINDS:-file-mp4}; fi

# All that it may do, and no more to write into than Docker gives by compose.yaml. The network is this machine's, for the cameras on loopback.
run=(--read-only --read-only-tmpfs=false --tmpfs /tmp --cap-drop all --security-opt no-new-privileges --cgroups disabled --network host --ulimit nofile=4096:4096 --ulimit nproc=4096:4096)
config=$work/config state=$work/state
mkdir -m 755 "$config" && mkdir -m 700 "$state"
port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

[ "$(podman run --rm "${run[@]}" "$name" version --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["version"])')" ] || die "it does not start"
user=$(podman image inspect --format '{{.Config.User}}' "$name")
[ "${user%%:*}" -gt 0 ] || die "the image runs as root"
say "what is in it"
cat >"$work/look.sh" <<'SH'
wrong() { echo "  $*"; exit 1; }
! touch /x 2>/dev/null || wrong "the root can be written"
touch /state/x || wrong "/state cannot be written"
! touch /config/x 2>/dev/null || wrong "/config can be written"
[ -z "$(find / -xdev -type f -perm /6000 2>/dev/null)" ] || wrong "programs that make root of a user"
SH
podman run --rm "${run[@]}" -v "$work/look.sh:/look.sh:ro" --entrypoint /bin/sh "$name" /look.sh || die "rights are not as they should be"
# Who makes an image out of this one still has apt. The writable root of this line is the reason why not all of run[@].
podman run --rm "${run[@]:1}" --user 0 --entrypoint /usr/bin/apt-get "$name" check >"$work/log" 2>&1 || { cat "$work/log" >&2; die "the list of packages is not whole"; }
podman run --rm "${run[@]}" "$name" doctor --json >"$work/doctor" 2>/dev/null || true # there is no configuration yet
/usr/bin/python3 - "$work/doctor" <<'PY' || die "a kind of source or a codec is missing"
import json, sys
lines = [line for line in json.load(open(sys.argv[1]))["results"] if line["area"] in ("sources", "decoders")]
bad = [line["found"] for line in lines if line["level"] == "fail"]
print("  " + "\n  ".join(line["found"] for line in lines if line["level"] == "ok"))
sys.exit(f"  missing: {bad}" if bad or not lines else 0)
PY

say "cameras of every kind"
mkfifo "$work/stop"
/usr/bin/python3 tools/image/kinds.py demo/clip.mp4 "$config" "$port" <"$work/stop" >"$work/kinds" 2>"$work/kinds.log" &
cameras=$!
exec 5>"$work/stop"
within $((180 * patience)) grep -q ready "$work/kinds" || { cat "$work/kinds.log" >&2; die "the cameras do not start"; }
kinds=${KINDS:-$(sed -n 's/^ready //p' "$work/kinds")}
/usr/bin/python3 - "$config/streams.yaml" $kinds <<'PY'
import json, pathlib, sys
file = pathlib.Path(sys.argv[1])
streams = [stream for stream in json.loads(file.read_text())["streams"] if stream["id"] in sys.argv[2:]]
file.write_text(json.dumps({"streams": streams}, indent=1))
PY
podman run --rm "${run[@]}" --entrypoint /bin/cat "$name" /usr/share/doc/vtagd/examples/labels/demo.yaml >"$config/demo.yaml"
head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$config/api.token"
cat >"$config/vtagd.yaml" <<YAML
instance: image
model: { path: starter }
sampling: { interval: 1s }
include: [streams.yaml]
labels: [demo.yaml]
events: { enter: 0.6, exit: 0.3, after: 1s, after_exit: 1s, cooldown: 5s }
sinks:
  - { type: jsonl, path: /state/events.jsonl }
outbox: { path: /state/outbox.db }
api: { listen: 127.0.0.1:$port, token: { file: api.token } }
YAML
chmod 644 "$config"/*

# A number that no user here has, as any orchestrator may choose one.
anybody=(--user 54321:0 -v "$config:/config:ro" -v "$state:/state" --name vtagd)
say "a state folder that belongs to somebody else"
code=0
podman run --rm "${run[@]}" "${anybody[@]}" "$name" >"$work/out" 2>&1 || code=$?
[ "$code" -eq 2 ] || { cat "$work/out" >&2; die "it should end with 2, and ends with $code"; }
grep -q '/state cannot be written.*chown 54321' "$work/out" || { cat "$work/out" >&2; die "it does not say which folder cannot be written, and what helps"; }
chown 54321:0 "$state"

begin() { podman run --detach "${run[@]}" "${anybody[@]}" "$name" >/dev/null; }
healthy() { podman exec vtagd /usr/bin/vtagd status --json -c /config/vtagd.yaml; }
ready() { value /readyz; }
logs() { podman logs vtagd 2>&1 | tail -n 30 >&2; die "$1"; }
value() { curl -fs -H "Authorization: Bearer $(cat "$config/api.token")" "http://127.0.0.1:$port$1"; }
tagged() {
    local kind
    for kind in $kinds; do grep 'tag.start' "$state/events.jsonl" 2>/dev/null | grep -q "/streams/$kind\"" || { missing=$kind; return 1; }; done
}
say "running as user 54321, from: $kinds"
moment=$(started)
begin
within $((60 * patience)) ready || logs "it does not become ready"
say "  ready after $(since "$moment") s"
within $((60 * patience)) grep -q tag.start "$state/events.jsonl" || logs "no tag"
say "  first tag $(since "$moment") s after its start, $(since "$begun") s after the image was there"
missing=
within $((150 * patience)) tagged || { podman exec vtagd /usr/bin/vtagd status >&2 || true; logs "no tag from a stream of the kind $missing"; }
say "  tags from every kind after $(since "$moment") s"
within 60 healthy || logs "the health check fails"
[ -z "$(podman inspect --format '{{.HostConfig.CapAdd}}' vtagd | tr -d '[] ')" ] || die "it has capabilities"

say "reloading"
sed -i 's/^instance: image/instance: renamed/' "$config/vtagd.yaml"
podman kill --signal HUP vtagd >/dev/null
reloaded() { value /metrics | grep -q '^vtagd_config_reloads_total{result="applied"} 1'; }
within $((30 * patience)) reloaded || logs "the reload was not applied"

say "stopping, and starting again over the same state"
before=$(grep -c . "$state/events.jsonl")
podman stop --time 30 vtagd >/dev/null
code=$(podman inspect --format '{{.State.ExitCode}}' vtagd)
[ "$code" -eq 0 ] || logs "SIGTERM ends it with $code"
podman logs vtagd 2>&1 | grep 'frames accounted' | tail -n 1 | grep -qE 'unaccounted["=: ]+0' || logs "it did not drain"
[ "$(stat -c %u "$state/outbox.db")" -eq 54321 ] || die "the outbox is not where it should be"
podman rm vtagd >/dev/null
begin
within $((60 * patience)) ready || logs "it does not start again"
kept() { [ "$(value '/api/v1/events?limit=500' | python3 -c 'import json, sys; print(len(json.load(sys.stdin)["events"]))')" -ge $((before < 500 ? before : 500)) ]; }
within 20 kept || logs "the events of before are not in the outbox"
podman stop --time 30 vtagd >/dev/null
say "passed: $(wc -w <<<"$kinds") kinds, $(grep -c . "$state/events.jsonl") events"
