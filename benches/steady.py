#!/usr/bin/env python3
"""Watches the daemon's memory and accounts while it looks at several RTSP cameras.

Starts one RTSP server (crates/rtsp-server) and the release daemon with N streams of it at one sample a second, reads the
daemon's resident memory every five seconds, stops it with SIGTERM, and prints how much memory grew after the first minute
and whether every sampled frame was accounted for. Exit code 1 if a goal is missed.

Usage: benches/steady.py [--streams 4] [--minutes 10]      (needs `make setup`, `cargo build --release --workspace --bins`)
"""
import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOAL = 5.0  # MB of growth after the first minute


def resident(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=10)
    args = parser.parse_args()
    release = ROOT / "target/release"
    with tempfile.TemporaryDirectory() as folder:
        camera = subprocess.Popen(
            [release / "rtsp_server", "--file", ROOT / "demo/clip.mp4"], stdout=subprocess.PIPE, text=True
        )
        url = camera.stdout.readline().strip()
        config = pathlib.Path(folder, "vtagd.yaml")
        rows = "".join(f"  - {{ id: camera-{n}, url: \"{url}\" }}\n" for n in range(args.streams))
        config.write_text(
            f"sampling: {{ interval: 1s }}\nstreams:\n{rows}labels: [{ROOT}/config/labels/demo.yaml]\n"
            f"sinks: [{{ type: jsonl, path: events.jsonl }}]\napi: {{ listen: \"127.0.0.1:0\" }}\n"
            "state: { path: state }\noutbox: { path: \":memory:\" }\n"
        )
        log = open(pathlib.Path(folder, "log"), "w+")
        daemon = subprocess.Popen([release / "vtagd", "run", "-c", config], cwd=ROOT, stderr=log)
        started, readings = time.monotonic(), []
        try:
            while time.monotonic() - started < args.minutes * 60:
                time.sleep(5)
                if daemon.poll() is not None:
                    break
                readings.append((time.monotonic() - started, resident(daemon.pid)))
                if len(readings) % 12 == 0:
                    print(f"{readings[-1][0]:6.0f} s  {readings[-1][1]:7.1f} MB", flush=True)
            cpu = cpu_seconds(daemon.pid) if daemon.poll() is None else float("nan")
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(30)
        finally:
            daemon.kill()
            camera.kill()
        log.seek(0)
        accounts = re.findall(r"frames accounted.*", log.read())
    settled = [mb for t, mb in readings if t >= 60]
    growth = max(settled) - settled[0] if settled else float("nan")
    whole = len(accounts) == args.streams and all("unaccounted=0" in line for line in accounts)
    print(*accounts, sep="\n")
    print(f"{args.streams} streams, {args.minutes:g} min: {settled[0]:.1f} MB after a minute, grew at most {growth:.1f} MB "
          f"(goal {GOAL}), {cpu:.1f} CPU seconds, exit code {code}, every frame accounted: {whole}")
    sys.exit(0 if growth < GOAL and whole and code == 0 else 1)


if __name__ == "__main__":
    main()
