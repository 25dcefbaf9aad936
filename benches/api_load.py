#!/usr/bin/env python3
"""What programs that read the API cost: live clients, single pictures, and more connections than there is room for.

Starts one RTSP camera and the release daemon with four streams of it, sampled twice a second with the starter model. Then, one after the other: a quiet while
(nobody looks), CLIENTS clients of `/api/v1/live`, and the same time with a 1080p JPEG after the other sent to `/api/v1/tag`. Prints
a table: CPU of the daemon and of its API threads, how late an event comes (from the time in its UUIDv7 to the client), how long a picture takes, and what
became of the cameras' frames meanwhile. At last 200 connections for live at once: how many are refused, and whether the others go on.

Usage: benches/api_load.py [--clients 50] [--seconds 30]      (needs `make setup`, `cargo build --release -p vtagd -p rtsp-server --bins`)
"""
import argparse
import asyncio
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
STREAMS = 4
TICK = os.sysconf("SC_CLK_TCK")


def processor():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    return f"{re.search(r'model name.*: (.*)', text)[1]}, {os.cpu_count()} cores"


def cpu_by_thread(pid):
    """CPU seconds of each thread's name."""
    used = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            name, fields = re.fullmatch(r"\d+ \((.*)\) (.*)", (task / "stat").read_text().strip()).groups()
        except FileNotFoundError:
            continue
        fields = fields.split()
        used[name] = used.get(name, 0) + (int(fields[11]) + int(fields[12])) / TICK
    return used


def get(url, path):
    with urllib.request.urlopen(url + path, timeout=60) as answer:
        return json.load(answer)


def frames(url):
    total = {"sampled": 0, "inferred": 0, "reused": 0, "lost": 0}
    for row in get(url, "/api/v1/streams")["streams"]:
        counts = row["accounting"]
        for key in ("sampled", "inferred", "reused"):
            total[key] += counts[key]
        total["lost"] += sum(counts["dropped"].values())
    return total


def percentile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else float("nan")


async def live(port, heard, seconds, opened):
    """One client of the live stream; notes how late each event is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /api/v1/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    status = int((await reader.readline()).split()[1])
    opened.append(status)
    if status == 200:
        try:
            async with asyncio.timeout(seconds):
                while line := await reader.readline():
                    heard["lines"] = heard.get("lines", 0) + 1
                    if line.startswith(b"id: "):
                        made = int(line[4:].strip().replace(b"-", b"")[:12], 16) / 1000
                        heard.setdefault("late", []).append(time.time() - made)
        except TimeoutError:
            pass
    writer.close()


async def many(port, clients, seconds):
    heard, opened = {}, []
    await asyncio.gather(*(live(port, heard, seconds, opened) for _ in range(clients)), return_exceptions=True)
    return heard, opened


def jpeg(folder):
    """A picture of 1920 x 1080."""
    place = pathlib.Path(folder, "picture.jpg")
    source = "videotestsrc num-buffers=1 pattern=smpte ! video/x-raw,width=1920,height=1080 ! jpegenc quality=90"
    subprocess.run([*f"gst-launch-1.0 -q {source} ! filesink".split(), f"location={place}"], check=True)
    return place.read_bytes()


def tag(url, picture, seconds):
    took, refused = [], 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        request = urllib.request.Request(url + "/api/v1/tag", data=picture, headers={"Content-Type": "image/jpeg"})
        try:
            urllib.request.urlopen(request, timeout=60).read()
            took.append(time.monotonic() - begun)
        except urllib.error.HTTPError:
            refused += 1
        time.sleep(0.25)
    return took, refused


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30)
    args = parser.parse_args()
    release = ROOT / "target/release"
    print(f"{processor()}; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        picture = jpeg(folder)
        camera = subprocess.Popen([release / "rtsp_server", "--file", ROOT / "demo/clip.mp4"], stdout=subprocess.PIPE, text=True)
        source = camera.stdout.readline().strip()
        config = pathlib.Path(folder, "vtagd.yaml")
        rows = "".join(f"  - {{ id: camera-{n}, url: \"{source}\" }}\n" for n in range(STREAMS))
        config.write_text(
            f"sampling: {{ interval: 500ms }}\nevents: {{ after: 0s, cooldown: 0s }}\nstreams:\n{rows}labels: [{ROOT}/config/labels/demo.yaml]\n"
            'sinks: [{ type: jsonl, path: events.jsonl }]\napi: { listen: "127.0.0.1:0" }\nstate: { path: state }\noutbox: { path: outbox.db }\n'
        )
        log = open(pathlib.Path(folder, "log"), "w+")
        daemon = subprocess.Popen([release / "vtagd", "run", "-c", config], cwd=ROOT, stderr=log, env={**os.environ, "NO_COLOR": "1"})
        try:
            text = ""
            while "ready streams" not in text or '"ready"' in text:
                time.sleep(0.2)
                text = pathlib.Path(log.name).read_text()
                if daemon.poll() is not None or '"message":"ready"' in text:
                    break
            port = int(re.search(r"127\.0\.0\.1:(\d+)", text)[1])
            url = f"http://127.0.0.1:{port}"
            time.sleep(10)

            def measure(name, work):
                before, cpu, begun = frames(url), cpu_by_thread(daemon.pid), time.monotonic()
                said = work()
                passed = time.monotonic() - begun
                after = frames(url)
                used = {thread: seconds - cpu.get(thread, 0) for thread, seconds in cpu_by_thread(daemon.pid).items()}
                api = sum(seconds for thread, seconds in used.items() if "api" in thread.lower() or "tokio" in thread.lower())
                counts = {key: after[key] - before[key] for key in after}
                print(f"{name:34} daemon {sum(used.values()) / passed:5.2f} cores, API threads {100 * api / passed:5.2f} % of a core; frames {counts}; {said}")

            def nobody():
                time.sleep(args.seconds)
                return ""

            def clients():
                heard, opened = asyncio.run(many(port, args.clients, args.seconds))
                late = [1000 * seconds for seconds in heard.get("late", [])]
                return (f"{opened.count(200)} clients heard {heard.get('lines', 0)} lines, {len(late)} events: "
                        f"p50 {percentile(late, 0.5):.0f} ms, p99 {percentile(late, 0.99):.0f} ms")

            def pictures():
                took, refused = tag(url, picture, args.seconds)
                return (f"{len(took)} pictures, {refused} refused: p50 {1000 * percentile(took, 0.5):.0f} ms, "
                        f"p99 {1000 * percentile(took, 0.99):.0f} ms")

            measure("nobody looks", nobody)
            measure(f"{args.clients} live clients", clients)
            measure("nobody looks", nobody)
            measure("a 1080p JPEG after the other", pictures)

            def crowd():
                heard, opened = asyncio.run(many(port, 200, 5))
                return f"200 connections: {opened.count(200)} served, {len(opened) - opened.count(200)} refused with {sorted(set(opened) - {200})}"

            measure("200 connections", crowd)
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(30)
        finally:
            daemon.kill()
            camera.kill()
        accounts = re.findall(r"frames accounted.*", pathlib.Path(log.name).read_text())
    print(*accounts, sep="\n")
    print(f"exit code {code}")


if __name__ == "__main__":
    main()
