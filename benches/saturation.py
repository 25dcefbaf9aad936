#!/usr/bin/env python3
"""CPU a frame when the box is full, of two or more ways to run, taking turns.

Each turn starts the daemon anew with four streams of the demo clip in real time, of which every frame is sampled with the starter model: more than two
cores can infer. After a warm-up it counts the CPU seconds of the process and the frames that were inferred. The ways take turns, so that what else the machine
does meets all of them. Prints CPU milliseconds a frame of each (median, lowest to highest) and the ratio to the first, paired by turn.

Ways: `history` (off, in memory, on disk), or `--binary NAME=PATH` for each of several programs with one configuration.

Usage: benches/saturation.py [--seconds 15] [--turns 5] [--binary NAME=PATH …]      (needs `make setup`, `cargo build --release`)
"""
import argparse
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
STREAMS = 4
WARM_UP = 4.0
TICK = os.sysconf("SC_CLK_TCK")


def processor():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    return f"{re.search(r'model name.*: (.*)', text)[1]}, {os.cpu_count()} cores"


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def inferred(url):
    with urllib.request.urlopen(url + "/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(r"^vtagd_frames_inferred_total\S* (\S+)$", text, re.M))


def turn(binary, history, seconds):
    """CPU seconds a frame of one run."""
    with tempfile.TemporaryDirectory() as folder:
        section = {"disk": "history: {}\n"}.get(history, "")
        each = ", history: off" if history == "off" else ""
        rows = "".join(
            f"  - {{ id: camera-{n}, url: \"file://{ROOT}/demo/clip.mp4\", pace: live, loop: true{each} }}\n"
            for n in range(STREAMS)
        )
        config = pathlib.Path(folder, "vtagd.yaml")
        config.write_text(
            f"sampling: {{ interval: 10ms, decode: all }}\nstreams:\n{rows}labels: [{ROOT}/config/labels/demo.yaml]\n{section}"
            "state: { path: state }\noutbox: { path: \":memory:\" }\napi: { listen: \"127.0.0.1:0\" }\n"
        )
        with open(pathlib.Path(folder, "log"), "w+") as log:
            command = [binary, "run", "-c", config]
            daemon = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log)
            try:
                deadline, url = time.monotonic() + 120, None
                text = ""
                while url is None or " ready streams=" not in text:
                    text = pathlib.Path(log.name).read_text()
                    found = re.search(r"127\.0\.0\.1:\d+(?=\s)", text)
                    url = found and f"http://{found[0]}"
                    if daemon.poll() is not None or time.monotonic() > deadline:
                        sys.exit(f"the daemon does not run:\n{text}")
                    time.sleep(0.1)
                time.sleep(WARM_UP)
                before = cpu_seconds(daemon.pid), inferred(url)
                time.sleep(seconds)
                if daemon.poll() is not None:
                    sys.exit(pathlib.Path(log.name).read_text())
                after = cpu_seconds(daemon.pid), inferred(url)
            finally:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait()
    return (after[0] - before[0]) / (after[1] - before[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--binary", action="append", default=[], metavar="NAME=PATH")
    args = parser.parse_args()
    release = ROOT / "target/release/vtagd"
    ways = {name: (path, "off") for name, path in (each.split("=", 1) for each in args.binary)}
    ways = ways or {f"history {history}": (release, history) for history in ("off", "memory", "disk")}
    found = {name: [] for name in ways}
    for number in range(args.turns):
        # The order turns too: who comes first meets a cooler machine.
        for name in sorted(ways, reverse=number % 2 == 1):
            found[name].append(turn(*ways[name], args.seconds))
            print(f"turn {number + 1} of {args.turns}: {name} {found[name][-1] * 1000:.2f} ms a frame", file=sys.stderr)
    print(f"{processor()}, load {os.getloadavg()[0]:.1f}; {args.turns} turns of {args.seconds:.0f} s\n")
    print("| | CPU ms a frame (lowest to highest) | against the first, by turn |\n|---|---|---|")
    first = found[next(iter(ways))]
    for name, values in found.items():
        ratio = statistics.median(value / of for value, of in zip(values, first))
        low, high = min(values) * 1000, max(values) * 1000
        print(f"| {name} | {statistics.median(values) * 1000:.2f} ({low:.2f} to {high:.2f}) | {(ratio - 1) * 100:+.1f} % |")


if __name__ == "__main__":
    main()
