#!/usr/bin/env python3
"""What a stream costs, by how many there are: 1, 16, 64 and 250 cameras of 640x360 with a keyframe every 4 s, one sample every 4 s, no model.

Starts one RTSP server (crates/rtsp-server) with a clip that it makes first, and the release daemon with so many streams of it. After a while of warming up it measures the
daemon's processor time and memory, stops it, and looks whether every sampled frame was accounted for. Names the processor. Beside each number of streams stands what a fixed piece of
work costs meanwhile: a processor whose cores are all busy takes longer for the same, and that is no cost of a stream.

Usage: benches/streams_curve.py [--counts 1,16,64,250] [--seconds 60] [--warm-up 30]      (needs `make setup`, `cargo build --release --workspace --bins`)
"""
import argparse
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zlib

from steady import ROOT, cpu_seconds, resident

CLIP = (
    "videotestsrc num-buffers=1500 pattern=ball ! video/x-raw,format=I420,width=640,height=360,framerate=25/1 ! "
    "x264enc speed-preset=veryfast bitrate=500 bframes=0 key-int-max=100 option-string=scenecut=0 ! h264parse ! mp4mux faststart=true ! "
    "filesink location={}"
)
GOAL = 1.1  # a stream of many against a stream of 64


def processor():
    name = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return name[1] if name else "unknown"


def work(until):
    """Milliseconds of processor time for the same piece of work, the middle of what it took once a second."""
    block, took = bytes(n * n % 251 for n in range(400_000)), []
    while time.monotonic() < until:
        before = time.thread_time()
        zlib.compress(block, 6)
        took.append((time.thread_time() - before) * 1000)
        time.sleep(1)
    return statistics.median(took)


def measure(url, number, args):
    release = ROOT / "target/release"
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "vtagd.yaml")
        rows = "".join(f"  - {{ id: camera-{n}, url: \"{url}\" }}\n" for n in range(number))
        config.write_text(
            "model: { path: none }\nsampling: { interval: 4s, decode: keyframes }\nstreams:\n" + rows
            + "api: { listen: off }\nstate: { path: state }\noutbox: { path: \":memory:\" }\nsinks: [{ type: jsonl, path: events.jsonl }]\n"
        )
        text = pathlib.Path(folder, "log")
        with open(text, "w") as log:
            daemon = subprocess.Popen([release / "vtagd", "run", "-c", config], cwd=ROOT, stderr=log)
        try:
            deadline = time.monotonic() + 300
            while text.read_text().count("frames are coming") < number:
                if daemon.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{number} streams: not all came up\n{text.read_text()[-2000:]}")
                time.sleep(0.5)
            time.sleep(args.warm_up)
            before, begun = cpu_seconds(daemon.pid), time.monotonic()
            took = work(begun + args.seconds)
            cores, memory = (cpu_seconds(daemon.pid) - before) / (time.monotonic() - begun), resident(daemon.pid)
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)
        finally:
            daemon.kill()
            daemon.wait()
        accounts = re.findall(r"frames accounted.*", text.read_text())
    whole = len(accounts) == number and all("unaccounted=0" in line for line in accounts)
    return cores, memory, whole, took


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", default="1,16,64,250")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--warm-up", type=float, default=30)
    args = parser.parse_args()
    counts = [int(count) for count in args.counts.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        clip = pathlib.Path(folder, "clip.mp4")
        subprocess.run(["gst-launch-1.0", "-q", *CLIP.format(clip).split()], check=True)
        server = subprocess.Popen(
            [ROOT / "target/release/rtsp_server", "--file", clip], stdout=subprocess.PIPE, text=True
        )
        try:
            url = server.stdout.readline().strip()
            results = {number: measure(url, number, args) for number in counts}
        finally:
            server.kill()
            server.wait()
    print(processor())
    print(f"{'streams':>8} {'cores':>8} {'cores a stream':>15} {'MB':>8} {'MB a stream':>12} {'work, ms':>9}  accounted")
    for number, (cores, memory, whole, took) in results.items():
        print(f"{number:8d} {cores:8.3f} {cores / number:15.4f} {memory:8.1f} {memory / number:12.2f} {took:9.2f}  {whole}")
    missed = [f"{number} streams: frames unaccounted" for number, result in results.items() if not result[2]]
    if 64 in results and 250 in results:
        ratio = (results[250][0] / 250) / (results[64][0] / 64)
        slower = results[250][3] / results[64][3]
        print(f"a stream of 250 costs {ratio:.2f} of one of 64 (goal {GOAL}); other work costs {slower:.2f} meanwhile")
        missed += [f"{ratio:.2f} is more than {GOAL}"] if ratio > GOAL else []
    sys.exit("; ".join(missed) if missed else 0)


if __name__ == "__main__":
    main()
