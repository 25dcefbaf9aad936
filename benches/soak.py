#!/usr/bin/env python3
"""An hour of bad networks: the daemon looks at 16 RTSP cameras, each behind a proxy with random faults, and must not grow.

Starts one RTSP server (examples/rtsp_server), the proxies (examples/fault_proxy) and the release daemon with a ladder and limits
that are ten times as quick as the real ones. Reads resident memory, threads and open files every five seconds; at the end heals
every proxy, waits until all streams are up, stops the daemon with SIGTERM, and prints the slope of the memory after the warm-up,
what is left of threads and files, and whether every sampled frame was accounted for. Exit code 1 if a goal is missed.

Usage: benches/soak.py [--minutes 60] [--streams 16] [--seed 1] [--warm-up 5]
(needs `make setup`, `cargo build --release --bins --examples`; --build debug takes the debug build)
"""
import argparse
import collections
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOAL = 1.0  # MB an hour
RECONNECT = "{ first: 100ms, max: 6s, stable: 6s, first_frame: 3s, stall: 2s }"


def resident(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def count(pid, what):
    return len(os.listdir(f"/proc/{pid}/{what}"))


def slope(points):
    """Least squares: megabytes an hour."""
    n = len(points)
    if n < 2:
        return float("nan")
    mean_t, mean_v = sum(t for t, _ in points) / n, sum(v for _, v in points) / n
    over = sum((t - mean_t) * (v - mean_v) for t, v in points)
    return over / sum((t - mean_t) ** 2 for t, _ in points) * 3600


def streams(url):
    with urllib.request.urlopen(f"{url}/api/v1/streams", timeout=10) as answer:
        return json.load(answer)["streams"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--warm-up", type=float, default=5, help="minutes that do not count")
    parser.add_argument("--mean", type=float, default=20, help="seconds between two faults of one stream")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--build", choices=["release", "debug"], default="release")
    args = parser.parse_args()
    build = ROOT / "target" / args.build
    children, faults, healed = [], collections.Counter(), threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        try:
            camera = subprocess.Popen(
                [build / "examples/rtsp_server", "--file", ROOT / "demo/clip.mp4"], stdout=subprocess.PIPE, text=True
            )
            children.append(camera)
            port, mount = re.search(r":(\d+)(/.*)", camera.stdout.readline().strip()).groups()
            proxy = subprocess.Popen(
                [build / "examples/fault_proxy", "--target", port, "--count", str(args.streams), "--seed", str(args.seed),
                 "--mean", str(args.mean)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            children.append(proxy)
            ports = proxy.stdout.readline().split()

            def listen():
                for line in proxy.stdout:
                    if line.strip() == "healed":
                        healed.set()
                    else:
                        faults[line.split()[2]] += 1

            threading.Thread(target=listen, daemon=True).start()
            rows = "".join(f"  - {{ id: camera-{n}, url: \"rtsp://127.0.0.1:{p}{mount}\" }}\n" for n, p in enumerate(ports))
            config = pathlib.Path(folder, "vtagd.yaml")
            config.write_text(
                f"model: {{ path: none }}\nsampling: {{ interval: 1s }}\nreconnect: {RECONNECT}\nstreams:\n{rows}"
                f"api: {{ listen: \"127.0.0.1:0\" }}\n"
            )
            log = open(pathlib.Path(folder, "log"), "w+")
            daemon = subprocess.Popen([build / "vtagd", "run", "-c", config], cwd=ROOT, stderr=log)
            children.append(daemon)
            text = pathlib.Path(folder, "log")
            while not (address := re.search(r"address=(\S+)", text.read_text())):
                time.sleep(0.1)
            url = f"http://{address[1]}"
            started, readings = time.monotonic(), []
            while time.monotonic() - started < args.minutes * 60 and daemon.poll() is None:
                time.sleep(5)
                now = time.monotonic() - started
                readings.append((now, resident(daemon.pid), count(daemon.pid, "task"), count(daemon.pid, "fd")))
                if len(readings) % 12 == 0:
                    print("{:6.0f} s  {:7.1f} MB  {:4d} threads  {:4d} files".format(*readings[-1]), flush=True)
            proxy.stdin.close()
            healed.wait(30)
            deadline, up = time.monotonic() + 60, 0
            while time.monotonic() < deadline and up < args.streams:
                time.sleep(0.5)
                up = sum(row["state"] == "up" for row in streams(url))
            rows = streams(url)
            with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
                metrics = answer.read().decode()
            abandoned = sum(float(n) for n in re.findall(r"vtagd_pipelines_abandoned_total\S* (\S+)", metrics))
            left = (count(daemon.pid, "task"), count(daemon.pid, "fd"))
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(30)
        finally:
            for child in children:
                child.kill()
        accounts = re.findall(r"frames accounted.*", text.read_text())
    settled = [reading for reading in readings if reading[0] >= args.warm_up * 60]
    growth = slope([(t, mb) for t, mb, *_ in settled])
    whole = len(accounts) == args.streams and all("unaccounted=0" in line for line in accounts)
    sampled = sum(int(n) for n in re.findall(r"sampled=(\d+)", " ".join(accounts)))
    reconnects = sum(row["reconnects"] for row in rows)
    # Healthy, every stream has the same pipeline: threads and files are as many as at their healthiest, plus a few of ours.
    print(f"faults: {dict(faults)}")
    print(f"{args.streams} streams, {args.minutes:g} min, {sum(faults.values()) - faults['pass']} faults, {reconnects} reconnects, "
          f"{up} up at the end, {abandoned:.0f} pipelines left behind, {sampled} frames sampled, every frame accounted: {whole}")
    print(f"memory {settled[0][1] if settled else float('nan'):.1f} MB after the warm-up, {readings[-1][1]:.1f} MB at the end, slope "
          f"{growth:+.2f} MB/h (goal {GOAL:g}); threads and files at the end {left}, most seen "
          f"{(max(r[2] for r in readings), max(r[3] for r in readings))}; exit code {code}")
    per_stream = (left[0] / args.streams, left[1] / args.streams)
    print(f"threads and files for each stream: {per_stream[0]:.1f}, {per_stream[1]:.1f}")
    sys.exit(0 if growth < GOAL and whole and up == args.streams and code == 0 else 1)


if __name__ == "__main__":
    main()
