#!/usr/bin/env python3
"""An hour of bad networks: the daemon looks at 16 RTSP cameras, each behind a proxy with random faults, and must not grow. Beside them polled stills,
pushed pictures and MPEG-TS over UDP, which fail now and then too (benches/soak_kinds.py).

Starts one RTSP server (crates/rtsp-server), the proxies (examples/fault_proxy) and the release daemon with a ladder and limits
that are ten times as quick as the real ones. Reads resident memory, threads and open files every five seconds; at the end heals
every proxy, waits until all streams are up, stops the daemon with SIGTERM, and prints the slope of the memory after the warm-up
(freed of how many cameras happened to be away), what is left of threads and files, and whether every sampled frame was accounted for.
Exit code 1 if a goal is missed.

Threads and files at the end are compared with what they were when all streams were up for the first time, before most faults. The
slope of a run of less than half an hour is mostly noise: it is printed, not judged.

Usage: benches/soak.py [--minutes 60] [--streams 16] [--seed 1] [--warm-up 10] [--log FILE]
(needs `make setup`, `cargo build --release --workspace --bins --examples`; --build debug takes the debug build)
"""
import argparse
import collections
import json
import math
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import soak_kinds

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOAL = 1.0  # MB an hour
BLOCKS = 10
LONG = 30  # minutes from which on a slope says something
# What may be left over: a connection of ours to the API, a pipeline that was just replaced, threads that GLib keeps for a while.
SPARE = (4, 6)
RECONNECT = "{ first: 100ms, max: 6s, stable: 6s, first_frame: 3s, stall: 2s }"


def resident(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def count(pid, what):
    return len(os.listdir(f"/proc/{pid}/{what}"))


def slope(points):
    """Least squares over the means of ten parts of the time, for readings that follow each other are not independent.

    Megabytes an hour, and their standard error.
    """
    length = -(-len(points) // BLOCKS)
    blocks = [points[at : at + length] for at in range(0, len(points), length)]
    means = [[statistics.fmean(column) for column in zip(*block)] for block in blocks]
    n = len(means)
    if n < 3:
        return float("nan"), float("nan")
    mean_t, mean_v = (statistics.fmean(column) for column in zip(*means))
    spread = sum((t - mean_t) ** 2 for t, _ in means)
    growth = sum((t - mean_t) * (v - mean_v) for t, v in means) / spread
    rest = sum((v - mean_v - growth * (t - mean_t)) ** 2 for t, v in means)
    return growth * 3600, math.sqrt(rest / (n - 2) / spread) * 3600


def at_equal_load(readings):
    """Time and memory of each reading, as they would be with the mean number of threads.

    A camera that is away has no pipeline: its threads are gone, and so are some 9 MB. How many are away is the faults' chance, not
    what the daemon keeps. What a thread goes with in memory comes from a regression on time and threads (Frisch and Waugh, 1933).
    """
    times, memory, threads = zip(*[reading[:3] for reading in readings])

    def without_trend(values):
        line = statistics.linear_regression(times, values)
        return [value - line.slope * t - line.intercept for t, value in zip(times, values)]

    swing = without_trend(threads)
    of_a_thread = statistics.linear_regression(swing, without_trend(memory)).slope if any(swing) else 0
    mean = statistics.fmean(threads)
    return [(t, mb - of_a_thread * (n - mean)) for t, mb, n in zip(times, memory, threads)]


def streams(url):
    with urllib.request.urlopen(f"{url}/api/v1/streams", timeout=10) as answer:
        return json.load(answer)["streams"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--warm-up", type=float, help="minutes that do not count (10, or a third of a short run)")
    parser.add_argument("--mean", type=float, default=20, help="seconds between two faults of one stream")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--build", choices=["release", "debug"], default="release")
    parser.add_argument("--log", type=pathlib.Path, help="keep the daemon's log there")
    args = parser.parse_args()
    warm_up = min(10, args.minutes / 3) if args.warm_up is None else args.warm_up
    build = ROOT / "target" / args.build
    children, faults, healed = [], collections.Counter(), threading.Event()
    kinds = soak_kinds.Kinds((ROOT / "tests/data/preprocess/rocket.jpg").read_bytes(), args.seed)
    whole_number = args.streams + kinds.count()
    with tempfile.TemporaryDirectory() as folder:
        try:
            camera = subprocess.Popen(
                [build / "rtsp_server", "--file", ROOT / "demo/clip.mp4"], stdout=subprocess.PIPE, text=True
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
            rows += kinds.rows()
            config = pathlib.Path(folder, "vtagd.yaml")
            config.write_text(
                f"model: {{ path: none }}\nsampling: {{ interval: 1s }}\nreconnect: {RECONNECT}\nstreams:\n{rows}"
                f"api: {{ listen: \"127.0.0.1:0\" }}\n"
                "state: { path: state }\noutbox: { path: \":memory:\" }\n"
            )
            text = args.log or pathlib.Path(folder, "log")
            with open(text, "w") as log:
                daemon = subprocess.Popen([build / "vtagd", "run", "-c", config], cwd=ROOT, stderr=log)
            children.append(daemon)

            def alive():
                if daemon.poll() is not None or proxy.poll() is not None or camera.poll() is not None:
                    print(text.read_text()[-4000:], file=sys.stderr)
                    sys.exit("soak: the daemon, the proxies or the camera have ended by themselves")

            while not (address := re.search(r"address=(\S+)\s", text.read_text())):
                alive()
                time.sleep(0.1)
            url = f"http://{address[1]}"
            kinds.begin_to_push(url)
            started, readings, healthy = time.monotonic(), [], None
            while time.monotonic() - started < args.minutes * 60:
                # Often until all are up for the first time: faults begin soon.
                time.sleep(5 if healthy else 0.2)
                alive()
                now = time.monotonic() - started
                reading = (now, resident(daemon.pid), count(daemon.pid, "task"), count(daemon.pid, "fd"))
                if not healthy and all(row["state"] == "up" for row in streams(url)):
                    healthy = reading
                    print("{:6.0f} s  {:7.1f} MB  {:4d} threads  {:4d} files, all streams up".format(*reading), flush=True)
                if healthy:
                    readings.append(reading)
                if len(readings) % 12 == 11:
                    print("{:6.0f} s  {:7.1f} MB  {:4d} threads  {:4d} files".format(*reading), flush=True)
            if not healthy:
                sys.exit("soak: the streams were never all up at once")
            proxy.stdin.close()
            kinds.heal()
            healed.wait(30)
            deadline, up = time.monotonic() + 60, 0
            while time.monotonic() < deadline and up < whole_number:
                time.sleep(0.5)
                up = sum(row["state"] == "up" for row in streams(url))
            rows = streams(url)
            with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
                metrics = answer.read().decode()
            abandoned = sum(float(n) for n in re.findall(r"(?m)^vtagd_pipelines_abandoned_total\S* (\S+)$", metrics))
            # Pipelines that were just replaced are stopped, and GLib lets go of its idle threads, a while later.
            deadline = time.monotonic() + 30
            while True:
                left = (count(daemon.pid, "task"), count(daemon.pid, "fd"))
                tidy = all(now <= before + spare for now, before, spare in zip(left, healthy[2:], SPARE))
                if tidy or time.monotonic() > deadline:
                    break
                time.sleep(1)
            ran = time.monotonic() - started
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(30)
        finally:
            kinds.stop()
            for child in children:
                child.kill()
                child.wait()
        log = text.read_text()
        accounts = re.findall(r"frames accounted.*", log)
        # One line a minute and stream at most, whatever is dropped.
        told = collections.Counter(re.findall(r"frames were dropped in the last minute stream=(\S+)", log))
    settled = [reading for reading in readings if reading[0] >= warm_up * 60]
    growth, error = slope(at_equal_load(settled))
    plain, its_error = slope([reading[:2] for reading in settled])
    whole = len(accounts) == whole_number and all("unaccounted=0" in line for line in accounts)
    sampled = sum(int(n) for n in re.findall(r"sampled=(\d+)", " ".join(accounts)))
    reconnects = sum(row["reconnects"] for row in rows)
    dropped = sum(int(n) for line in accounts for n in re.findall(r'"(?!no_model|shutdown)\w+": (\d+)', line))
    quiet = all(lines <= ran / 60 for lines in told.values()) and (dropped == 0 or args.minutes < LONG or bool(told))
    print(f"faults: {dict(faults)}")
    print(f"{whole_number} streams, {args.minutes:g} min, {sum(faults.values()) - faults['pass']} faults, {reconnects} reconnects, "
          f"{up} up at the end, {abandoned:.0f} pipelines left behind, {sampled} frames sampled, every frame accounted: {whole}")
    print(f"{dropped} sampled frames dropped, told in {sum(told.values())} lines of the log")
    judged = f"goal {GOAL:g}" if args.minutes >= LONG else "too short a run to judge"
    print(f"memory {settled[0][1]:.1f} MB after the warm-up, {readings[-1][1]:.1f} MB at the end, "
          f"slope {growth:+.2f} ± {error:.2f} MB/h at an equal number of threads ({judged}), {plain:+.2f} ± {its_error:.2f} as it is")
    print(f"threads and files: {healthy[2:]} when all were up first, {left} at the end, most seen "
          f"{(max(r[2] for r in readings), max(r[3] for r in readings))}; exit code {code}")
    goals = {
        "memory": args.minutes < LONG or growth < GOAL,
        "accounts": whole,
        "streams": up == whole_number,
        "threads and files": tidy,
        "drops told once a minute": quiet,
        "exit code": code == 0,
    }
    missed = [goal for goal, reached in goals.items() if not reached]
    print(f"missed: {', '.join(missed)}" if missed else "every goal reached")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
