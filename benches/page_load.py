#!/usr/bin/env python3
"""What the page costs: until something is seen, until the label lab has an answer, and what many open pages take of the daemon.

Starts one RTSP camera and the daemon with CAMERAS streams of it, sampled once a second with the starter model, over a past of HOURS hours that is made up
(`cargo bench --bench history -- --fill`; with --past a copy of a folder that was made so). Prints a table: first paint and first picture of five loads in a headless Chromium,
the bytes of the first, and the memory of scripts and of the whole browser in the first minute and after HOLD seconds; how long the lab takes for words that nobody has tried and for the same again
(nothing of it with --hours 0); the CPU of the daemon while nobody looks and while PAGES pages are open,
and what became of the cameras' frames meanwhile. An open page is what it asks for: a live stream, pictures every two seconds, streams every five.

Usage: benches/page_load.py [--cameras 16] [--hours 6] [--pages 50] [--seconds 60] [--hold 0] [--past FOLDER] [--programs target/release]
       (needs `make setup`, `make test-page` once for Chromium, `cargo build --release -p vtagd -p rtsp-server --bins`)
"""
import argparse
import asyncio
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request

from api_load import ROOT, cpu_by_thread, frames, get, processor

WORDS = ["a person on a ladder", "a delivery van", "smoke above a roof", "an open gate", "a dog on a leash"]


def post(url, path, body, kind="application/json"):
    request = urllib.request.Request(url + path, data=body, headers={"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


class Daemon:
    """One with so many streams of the camera, and its API's address."""

    def __init__(self, folder, programs, source, cameras):
        rows = "".join(f'  - {{ id: camera-{n}, url: "{source}" }}\n' for n in range(cameras)) if cameras else ""
        streams = f"streams:\n{rows}" if rows else "streams: []\n"
        config = pathlib.Path(folder, "vtagd.yaml")
        config.write_text(
            f"{streams}labels: [{ROOT}/config/labels/demo.yaml]\nsinks: [{{ type: jsonl, path: events.jsonl }}]\nstate: {{ path: state }}\n"
            'outbox: { path: outbox.db }\nhistory: { path: kept, max_size: 8GiB }\nsnapshots: { path: snapshots }\napi: { listen: "127.0.0.1:0" }\n'
        )
        self.log = pathlib.Path(folder, "log")
        with open(self.log, "w") as log:
            env = {**os.environ, "NO_COLOR": "1"}
            self.process = subprocess.Popen([programs / "vtagd", "run", "-c", config], cwd=ROOT, stderr=log, env=env)
        while not (found := re.search(r"API listens.*?127\.0\.0\.1:(\d+)", self.log.read_text())):
            time.sleep(0.1)
            if self.process.poll() is not None:
                raise SystemExit(self.log.read_text())
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"
        while True:
            try:
                if get(self.url, "/readyz")["ready"]:
                    break
            except OSError:
                pass
            time.sleep(0.2)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(40)
        finally:
            self.process.kill()


class Connection:
    """One that is kept, as a browser keeps it; as cheap for the asker as can be."""

    def __init__(self, port):
        self.port, self.reader, self.writer = port, None, None

    async def ask(self, path, tag=None):
        """The answer's status and ETag. A connection that was closed meanwhile is made anew."""
        for fresh in (self.reader is None, True):
            if fresh:
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            known = f"If-None-Match: {tag}\r\n" if tag else ""
            self.writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{known}\r\n".encode())
            try:
                head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            except (asyncio.IncompleteReadError, ConnectionError):
                if fresh:
                    raise
                continue
            if length := re.search(r"(?im)^content-length: (\d+)\r$", head):
                await self.reader.readexactly(int(length[1]))
            found = re.search(r"(?im)^etag: (.*)\r$", head)
            return int(head.split()[1]), found[1] if found else tag


async def page(port, streams, seconds, statuses, number):
    """What an open page asks for, on two connections."""
    async def live():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /api/v1/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        statuses.append(int((await reader.readline()).split()[1]))
        while await reader.readline():
            pass

    async def again():
        kept, tag, at = Connection(port), None, 0
        # Pages are not opened in the same moment.
        await asyncio.sleep(number * 0.04 % 2)
        while True:
            status, tag = await kept.ask(pictures, tag)
            statuses.append(status)
            if at % 5 < 2:
                statuses.append((await kept.ask("/api/v1/streams"))[0])
            at += 1
            await asyncio.sleep(2)

    pictures = f"/api/v1/pictures?streams={','.join(streams[:64])}&max_side=320"
    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(live(), again())
    except TimeoutError:
        pass


async def pages(port, streams, count, seconds):
    statuses = []
    await asyncio.gather(*(page(port, streams, seconds, statuses, number) for number in range(count)))
    return statuses


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cameras", type=int, default=16)
    parser.add_argument("--hours", type=float, default=6)
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--hold", type=float, default=0)
    parser.add_argument("--past", type=pathlib.Path)
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "target/release")
    args = parser.parse_args()
    programs = args.programs.resolve()
    print(f"{processor()}; load {os.getloadavg()[0]:.1f}")
    camera = subprocess.Popen([programs / "rtsp_server", "--file", ROOT / "demo/clip.mp4"], stdout=subprocess.PIPE, text=True)
    try:
        source = camera.stdout.readline().strip()
        with tempfile.TemporaryDirectory() as folder:
            first = Daemon(folder, programs, source, 0)
            embedded = post(first.url, "/api/v1/embed", json.dumps({"texts": ["a wall"]}).encode())
            model, dim = embedded["model"]["fingerprint"], len(embedded["texts"][0]["embedding"])
            first.stop()
            if args.past:
                shutil.copytree(args.past, f"{folder}/kept", dirs_exist_ok=True)
            elif args.hours > 0:
                fill = ["cargo", "bench", "--locked", "--bench", "history", "--", "--fill", f"{folder}/kept", model, str(dim), str(args.cameras), str(args.hours)]
                made = subprocess.run(fill, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip().splitlines()[-1]
                print(f"a past of {args.cameras} cameras x {args.hours} h: {made}")
            daemon = Daemon(folder, programs, source, args.cameras)
            try:
                measure(args, daemon)
            finally:
                code = daemon.stop()
            accounts = re.findall(r"frames accounted.*", daemon.log.read_text())
    finally:
        camera.kill()
    print(*accounts, sep="\n")
    print(f"exit code {code}")


def measure(args, daemon):
    time.sleep(10)
    paint = ["node", "tests/browser/paint.mjs", f"{daemon.url}/", str(args.hold)]
    painted = json.loads(subprocess.run(paint, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)
    for name in ("first_paint_ms", "first_picture_ms"):
        print(f"{name:34} {painted[name]}, median {painted[name][2]}")
    files, everything = (painted["first_load_bytes"][key] / 1000 for key in ("files", "all"))
    print(f"{'first load':34} {files:.1f} kB of files, {everything:.1f} kB with answers and the first pictures")
    if held := painted["held"]:
        for what, key in (("scripts of the cameras' page", "cameras"), ("scripts of the events' page", "events"), ("the larger page's process", "page"), ("the whole browser with both", "browser")):
            values = [one[key] / 1e6 for one in held]
            print(f"{what:34} {values[0]:.1f} MB after a minute, {values[-1]:.1f} MB after {len(values)}, at most {max(values):.1f} MB; each {max(len(values) // 12, 1)} minutes {[round(one) for one in values[::max(len(values) // 12, 1)]]}")

    def lab(words):
        body = {"label": words, "prompts": [words], "hours": args.hours}
        begun = time.monotonic()
        told = post(daemon.url, "/api/v1/labels/demo/try", json.dumps(body).encode())
        rows = sum(one["rows"] for one in told["streams"])
        return time.monotonic() - begun, rows, told["is_whole"]

    # Of no past there is nothing to try: the API wants 0.05 hours or more.
    for what, all_words in (("the lab, words that are new", WORDS), ("the lab, the same again", WORDS)) if args.hours > 0 else ():
        took = [lab(words) for words in all_words]
        times = sorted(seconds for seconds, _, _ in took)
        print(f"{what:34} {[round(seconds, 2) for seconds, _, _ in took]} s, median {times[len(times) // 2]:.2f} s, {took[-1][1]} rows, whole: {took[-1][2]}")

    def look(name, work):
        before, cpu, begun = frames(daemon.url), cpu_by_thread(daemon.process.pid), time.monotonic()
        said = work()
        passed = time.monotonic() - begun
        after = frames(daemon.url)
        used = {thread: seconds - cpu.get(thread, 0) for thread, seconds in cpu_by_thread(daemon.process.pid).items()}
        api = sum(seconds for thread, seconds in used.items() if "api" in thread.lower() or "tokio" in thread.lower())
        counts = {key: after[key] - before[key] for key in after}
        print(f"{name:34} daemon {sum(used.values()) / passed:5.2f} cores, API threads {100 * api / passed:5.2f} % of a core; frames {counts} {said}")

    streams = [row["id"] for row in get(daemon.url, "/api/v1/streams")["streams"]]

    def open_pages():
        statuses = asyncio.run(pages(daemon.port, streams, args.pages, args.seconds))
        return f"; answers {({status: statuses.count(status) for status in sorted(set(statuses))})}"

    look("nobody looks", lambda: time.sleep(args.seconds) or "")
    look(f"{args.pages} open pages", open_pages)
    look("nobody looks", lambda: time.sleep(args.seconds) or "")


if __name__ == "__main__":
    main()
