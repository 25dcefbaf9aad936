#!/usr/bin/env python3
"""CPU time of watching RTSP cameras: the daemon at one sample per group of pictures, beside OpenCV reading every frame.

Makes a clip once (the demo clip at 1920x1080, 25 frames/s, H.264, a keyframe every 2 s; .setup/decode/clip.mp4), serves it from a
process of its own (crates/rtsp-server, nothing is encoded), and reads utime + stime of the watching process alone from
/proc/PID/stat. No model: decoding and preprocessing only. Beside them GStreamer with nothing of ours (gst-launch-1.0): receiving alone,
and receiving and decoding keyframes, both thrown away. No pipeline of ours can cost less. With --many, that many streams in one daemon:
start-up, cores, memory, accounts, for each mode of --decode in turn (one may stand there several times). Exit code 1 if a goal is missed.

OpenCV lives in a virtual environment of its own:
  python3 -m venv .setup/opencv && .setup/opencv/bin/pip install opencv-python-headless
Usage: benches/peers/decode_cpu.py [--seconds 60] [--decode keyframes,auto,all] [--many 64] [--interval 2s] [--gop 50] [--cores 1.0] [--no-opencv] [--no-bare]
       [--clip FILE] [--program FILE]
       (needs `make setup`, `cargo build --release --workspace --bins`)
"""
import argparse
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

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RELEASE = ROOT / "target/release"
CLIP = ROOT / ".setup/decode/clip.mp4"
OPENCV = ROOT / ".setup/opencv/bin/python"
WARM_UP = 15
GOAL_SECONDS, GOAL_RATIO, GOAL_CORES, GOAL_MB, GOAL_START = 1.0, 20.0, 1.0, 1500.0, 30.0

READ_ALL = """
import sys, cv2
camera = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)
print(cv2.__version__, flush=True)
frames = 0
while True:
    ok, frame = camera.read()
    if not ok:
        sys.exit("OpenCV: the stream ended")
    frames += 1
    if frames % 25 == 0:
        print(frames, flush=True)
"""


# rtspsrc as in pipelines/rtsp.gst.
RECEIVE = "rtspsrc location={} protocols=tcp latency=200 drop-on-latency=true do-retransmission=false"
BARE = {
    "receiving alone": "fakesink sync=false",
    "receiving, keyframes decoded": "rtph264depay ! h264parse ! identity drop-buffer-flags=delta-unit "
    "! avdec_h264 max-threads=1 direct-rendering=false ! fakesink sync=false",
}


def make_clip(clip, gop):
    if clip.exists():
        return
    clip.parent.mkdir(parents=True, exist_ok=True)
    part = clip.with_suffix(".part")
    encode = f"x264enc bitrate=4000 key-int-max={gop} bframes=0 speed-preset=veryfast option-string=scenecut=0"
    subprocess.run(
        f"gst-launch-1.0 -q filesrc location={ROOT}/demo/clip.mp4 ! qtdemux ! h264parse ! avdec_h264 ! videoconvertscale "
        f"! video/x-raw,format=I420,width=1920,height=1080,pixel-aspect-ratio=1/1 ! {encode} ! h264parse ! mp4mux "
        f"! filesink location={part}".split(),
        check=True,
    )
    part.rename(clip)


def cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def status(pid, key):
    return int(re.search(rf"{key}:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


def measured(pid, seconds):
    """CPU seconds that the process uses in the next `seconds`."""
    before, start = cpu(pid), time.monotonic()
    time.sleep(seconds)
    used, took = cpu(pid) - before, time.monotonic() - start
    return used * seconds / took


class Daemon:
    def __init__(self, folder, url, streams, decode, interval, program):
        rows = "".join(f"  - {{ id: camera-{n}, url: \"{url}\" }}\n" for n in range(streams))
        config = pathlib.Path(folder, "vtagd.yaml")
        config.write_text(
            f"model: {{ path: none }}\nsampling: {{ interval: {interval}, decode: {decode} }}\nstreams:\n{rows}"
            f"sinks: [{{ type: jsonl, path: events.jsonl }}]\napi: {{ listen: \"127.0.0.1:{free_port()}\" }}\n"
            "state: { path: state }\noutbox: { path: \":memory:\" }\n"
        )
        self.api = re.search(r"127\.0\.0\.1:\d+", config.read_text().split("api:")[1])[0]
        self.log = pathlib.Path(folder, "log")
        self.started = time.monotonic()
        self.process = subprocess.Popen([program, "run", "-c", config], cwd=ROOT, stderr=open(self.log, "w"))
        self.pid = self.process.pid

    def streams(self):
        try:
            with urllib.request.urlopen(f"http://{self.api}/api/v1/streams", timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return None

    def wait_up(self, streams, deadline):
        while time.monotonic() - self.started < deadline:
            reports = self.streams()
            reports = reports["streams"] if isinstance(reports, dict) else reports
            if reports and sum(1 for report in reports if report["state"] == "up") == streams:
                return time.monotonic() - self.started
            time.sleep(0.2)
        return float("inf")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        accounts = re.findall(r"frames accounted.*", self.log.read_text())
        return code, accounts


def free_port():
    import socket

    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def one(url, decode, seconds, args):
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(folder, url, 1, decode, args.interval, args.program)
        try:
            daemon.wait_up(1, 60)
            time.sleep(WARM_UP)
            used = measured(daemon.pid, seconds)
        finally:
            code, accounts = daemon.stop()
        print(f"vtagd, decode {decode}: {used:.2f} CPU seconds for {seconds:g} s, "
              f"{status_line(accounts)}, exit code {code}", flush=True)
        return used


def status_line(accounts):
    return "; ".join(accounts)[:300]


def opencv(url, seconds):
    reader = subprocess.Popen([OPENCV, "-c", READ_ALL, url], stdout=subprocess.PIPE, text=True)
    try:
        version = reader.stdout.readline().strip()
        last = ["0"]

        def follow():
            for line in reader.stdout:
                last[0] = line.strip()

        threading.Thread(target=follow, daemon=True).start()
        time.sleep(WARM_UP)
        frames, used = int(last[0]), measured(reader.pid, seconds)
        frames = int(last[0]) - frames
        print(f"OpenCV {version}, every frame: {used:.2f} CPU seconds for {seconds:g} s, {frames} frames", flush=True)
        return used
    finally:
        reader.kill()


def bare(url, what, seconds):
    pipeline = f"gst-launch-1.0 -q {RECEIVE.format(url)} ! {BARE[what]}"
    process = subprocess.Popen(pipeline.split(), stdout=subprocess.DEVNULL)
    try:
        time.sleep(WARM_UP)
        used = measured(process.pid, seconds)
        if process.poll() is not None:
            sys.exit("gst-launch-1.0 has ended by itself")
    finally:
        process.kill()
        process.wait()
    print(f"GStreamer alone, {what}: {used:.2f} CPU seconds for {seconds:g} s", flush=True)


def many(url, streams, seconds, decode, args):
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(folder, url, streams, decode, args.interval, args.program)
        try:
            start = daemon.wait_up(streams, 120)
            time.sleep(WARM_UP)
            used = measured(daemon.pid, seconds)
            memory, peak = status(daemon.pid, "VmRSS") / 1024, status(daemon.pid, "VmHWM") / 1024
            threads = status(daemon.pid, "Threads")
            reports = daemon.streams()
        finally:
            code, accounts = daemon.stop()
        reports = reports["streams"] if isinstance(reports, dict) else reports
        reconnects = sum(report["reconnects"] for report in reports)
        whole = len(accounts) == streams and all("unaccounted=0" in line for line in accounts)
        total = lambda key: sum(int(n) for line in accounts for n in re.findall(rf"\b{key}=(\d+)", line))
        print(f"{streams} streams, decode {decode}: all up after {start:.1f} s, {used / seconds:.2f} cores, {memory:.0f} MB "
              f"(peak {peak:.0f}), {threads} threads, {reconnects} reconnects, {total('sampled')} sampled, "
              f"every frame accounted: {whole}, exit code {code}", flush=True)
        print(accounts[0] if accounts else "no accounts")
        return start < GOAL_START and used / seconds < args.cores and memory < GOAL_MB and whole and code == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--decode", default="keyframes,auto")
    parser.add_argument("--many", type=int, default=0)
    parser.add_argument("--interval", default="2s", help="one sample so often")
    parser.add_argument("--gop", type=int, default=50, help="frames from keyframe to keyframe")
    parser.add_argument("--cores", type=float, default=GOAL_CORES, help="the goal of --many")
    parser.add_argument("--clip", type=pathlib.Path, help="made if it is not there")
    parser.add_argument("--program", type=pathlib.Path, default=RELEASE / "vtagd")
    parser.add_argument("--no-opencv", action="store_true")
    parser.add_argument("--no-bare", action="store_true")
    args = parser.parse_args()
    clip = args.clip or (CLIP if args.gop == 50 else CLIP.with_name(f"clip-{args.gop}.mp4"))
    make_clip(clip, args.gop)
    server = subprocess.Popen([RELEASE / "rtsp_server", "--file", clip], stdout=subprocess.PIPE, text=True)
    good = True
    try:
        url = server.stdout.readline().strip()
        if args.many:
            for decode in args.decode.split(","):
                good &= many(url, args.many, args.seconds, decode, args)
            sys.exit(0 if good else 1)
        used = {decode: one(url, decode, args.seconds, args) for decode in args.decode.split(",")}
        best = used.get("keyframes", min(used.values()))
        good = best * 60 / args.seconds <= GOAL_SECONDS
        if not args.no_bare:
            for what in BARE:
                bare(url, what, args.seconds)
        if not args.no_opencv:
            ratio = opencv(url, args.seconds) / best
            good &= ratio >= GOAL_RATIO
            print(f"ratio {ratio:.1f} (goal {GOAL_RATIO:g}), {best:.2f} s (goal {GOAL_SECONDS:g})")
    finally:
        server.kill()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
