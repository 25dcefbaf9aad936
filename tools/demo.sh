#!/usr/bin/env bash
# The demo: a camera on loopback that shows four photographs, and vtagd saying what it sees. Called by `make demo`.
# Ends by itself after three different tags; with FOREVER=1 it goes on until Ctrl-C. Whatever happens, its processes
# are ended by their ids.
set -euo pipefail
cd "$(dirname "$0")/.."

TAGS=3
SECONDS_AT_MOST=180
vtagd=target/release/vtagd
camera=target/release/rtsp_server
clip=demo/clip.mp4
config=demo/demo.yaml
events=demo/events.jsonl
camera_pid=
vtagd_pid=
follow_pid=

say() { printf 'demo: %s\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

# Asks a process to end, waits ten seconds for it, then insists.
end() {
    local pid=$1
    [ -n "$pid" ] || return 0
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}
finish() {
    trap '' INT TERM HUP
    end "$follow_pid"
    end "$vtagd_pid"
    end "$camera_pid"
}
trap finish EXIT
trap 'echo; say "stopped"; exit 130' INT
trap 'exit 143' TERM HUP

# A port of 127.0.0.1 nobody listens on: the wanted one, or one of the next ten.
free_port() {
    local port
    for port in $(seq "$1" $(($1 + 10))); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
    die "the ports $1 to $(($1 + 10)) are all taken"
}

[ -e "$clip" ] || die "there is no $clip: run make setup"
say "building the release (some minutes the first time)"
tools/build_progress.py tools/cargo build --release --locked -p vtagd -p rtsp-server --bins || die "the build failed, see above"

mkdir -p demo
rm -f demo/camera.url
# setsid: Ctrl-C is for this script, which then ends its processes in order.
setsid "$camera" --file "$clip" --port 0 >demo/camera.url 2>demo/camera.log &
camera_pid=$!
for _ in $(seq 100); do
    if [ -s demo/camera.url ] || ! kill -0 "$camera_pid" 2>/dev/null; then break; fi
    sleep 0.1
done
[ -s demo/camera.url ] || die "the camera did not start: $(tail -n 1 demo/camera.log)"
url=$(cat demo/camera.url)
listen=127.0.0.1:$(free_port 8642)

# Whoever has the link may use the page; it is new each time.
(umask 077 && head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >demo/api.token)
sed -e "s#url: rtsp://.*#url: $url#" -e "s#listen: .*#listen: $listen, token: { file: api.token } }#" config/demo.yaml >"$config"
: >"$events"
say "camera   $url"
say "page     http://$listen/#token=$(cat demo/api.token)"
say "health   http://$listen/healthz"
say "events   $events (log: demo/vtagd.log)"
echo

# On a terminal vtagd prints readable lines itself; elsewhere it prints JSON, so the follower makes the lines.
follow=(/usr/bin/python3 tools/demo_events.py "$events" --seconds "$SECONDS_AT_MOST")
if [ -n "${FOREVER-}" ]; then follow+=(--tags 0); else follow+=(--tags "$TAGS"); fi
if [ -t 1 ]; then
    setsid "$vtagd" run -c "$config" 2>demo/vtagd.log &
else
    follow+=(--print)
    setsid "$vtagd" run -c "$config" >/dev/null 2>demo/vtagd.log &
fi
vtagd_pid=$!

# The follower ends when it has seen enough; vtagd ending first is a failure.
"${follow[@]}" &
follow_pid=$!
rc=0
wait -n "$follow_pid" "$vtagd_pid" || rc=$?
if ! kill -0 "$vtagd_pid" 2>/dev/null; then
    tail -n 5 demo/vtagd.log >&2
    die "vtagd ended early (its whole log: demo/vtagd.log)"
fi
[ "$rc" -eq 0 ] || die "fewer than $TAGS different tags in $SECONDS_AT_MOST s: see demo/vtagd.log"
echo
say "$TAGS different tags seen; events are in $events. FOREVER=1 make demo goes on until Ctrl-C"
