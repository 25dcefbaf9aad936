#!/usr/bin/env python3
"""What the daemon makes of its model: throughput and latency against the bare session, memory, and OpenVINO's bf16.

saturation  ViT-B/32 in int8 with made-up weights, one thread, 640x360 RTSP streams of nothing but keyframes (five a second each), a
            twentieth more of them than it can look at: images/s of the daemon, in turn with `vtagd bench` of the same session, and their
            ratio (goal 0.95). How long the session was busy tells what is lost between runs, and how long a run took what is
            lost because other work (cameras, decoding, preprocessing) runs on the same processor.
half        as many streams as make half of the bare session's rate: how long pictures wait for their run, 99th percentile (goal:
            max_delay + 20 ms), of the buckets of vtagd_queue_wait_seconds. Each stream is a camera of its own, begun at a
            random moment, so that their pictures do not come together.
memory      ViT-H/14 in int8: resident memory of the daemon a minute after it is ready (goal < 1.3 GB), and that the process which
            embedded the labels is gone.
openvino    `vtagd bench` of ViT-B/32 in fp32, batch 8: OpenVINO in bf16 and f32 against the CPU (goal bf16 >= 1.8 of f32).

Each part prints what it measured; exit code 1 if a goal is missed. --smoke takes a few seconds each and says nothing about speed.

Usage: benches/peers/serving.py [--parts saturation,half,memory,openvino] [--smoke]
       (needs `make setup`, `cargo build --release --workspace --bins`; openvino: `make runtime-openvino`; 3 GB of disk in .setup/)
"""
import argparse
import json
import os
import pathlib
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RELEASE = ROOT / "target/release"
WORK = ROOT / ".setup/serving"
KEYFRAMES = 5  # a second, of each stream
MAX_DELAY = 0.05
BATCH = 8
GOAL_RATIO, GOAL_WAIT, GOAL_MB, GOAL_BF16 = 0.95, MAX_DELAY + 0.02, 1300.0, 1.8

LABELS = "set: things\nbackground: [an empty room]\nlabels:\n" + "".join(
    f"  - name: thing {n}\n    prompts: [a photo of thing {n}, a picture of thing {n}]\n" for n in range(25)
)


def clip():
    """The demo clip in 640x360, five frames a second, each of them a keyframe."""
    path = WORK / "keyframes-alone.mp4"
    if not path.exists():
        part = path.with_suffix(".part")
        subprocess.run(
            f"gst-launch-1.0 -q filesrc location={ROOT}/demo/clip.mp4 ! qtdemux ! h264parse ! avdec_h264 ! videoconvertscale ! videorate "
            f"! video/x-raw,format=I420,width=640,height=360,pixel-aspect-ratio=1/1,framerate={KEYFRAMES}/1 "
            f"! x264enc bitrate=1500 key-int-max=1 bframes=0 speed-preset=veryfast option-string=scenecut=0 "
            f"! h264parse ! mp4mux ! filesink location={part}".split(),
            check=True,
        )
        part.rename(path)
    return path


def model(name):
    path = WORK / f"{name}-int8"
    if not path.exists():
        subprocess.run(
            [RELEASE / "vtagd", "model", "import", f"synthetic:{name}", "-p", "int8", "--no-measure", "--out", path], check=True
        )
    return path


class Daemon:
    """`vtagd run` on streams of one URL; stopped in the end, with its accounts read."""

    def __init__(self, folder, bundle, urls, runtime, interval, look=lambda daemon: None):
        self.folder = pathlib.Path(folder)
        (self.folder / "things.yaml").write_text(LABELS)
        with socket.socket() as it:
            it.bind(("127.0.0.1", 0))
            self.port = it.getsockname()[1]
        rows = "".join(f"  - {{ id: camera-{n}, url: \"{url}\" }}\n" for n, url in enumerate(urls))
        config = self.folder / "vtagd.yaml"
        config.write_text(
            f"model: {{ path: {bundle} }}\nruntime: {runtime}\nsampling: {{ interval: {interval}, decode: keyframes }}\n"
            f"streams:\n{rows}labels: [things.yaml]\nsinks: [{{ type: jsonl, path: events.jsonl }}]\n"
            f"api: {{ listen: \"127.0.0.1:{self.port}\" }}\n"
            "state: { path: state }\noutbox: { path: \":memory:\" }\n"
        )
        self.log = self.folder / "log"
        self.process = subprocess.Popen([RELEASE / "vtagd", "run", "-c", config], cwd=ROOT, stderr=open(self.log, "w"))
        self.pid = self.process.pid
        self.wait_up(len(urls), look)

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            return None

    def wait(self, what, done, seconds=300):
        deadline = time.monotonic() + seconds
        while not done():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{what} did not happen:\n{self.log.read_text()}")
            time.sleep(0.2)

    def wait_up(self, streams, look):
        self.wait("ready", lambda: look(self) or self.get("/readyz") is not None)

        def up():
            answer = self.get("/api/v1/streams")
            return answer and sum(stream["state"] == "up" for stream in json.loads(answer)["streams"]) == streams

        self.wait("all streams up", up)

    def counters(self):
        """Sums over all streams, and the cumulated buckets of the wait."""
        sums, buckets = {}, {}
        for line in self.get("/metrics").splitlines():
            if found := re.match(r"(vtagd_\w+?)(?:\{(.*)\})? (\S+)$", line):
                name, labels, value = found[1], found[2] or "", float(found[3])
                if name == "vtagd_queue_wait_seconds_bucket":
                    buckets[float(re.search(r'le="([^"]+)"', labels)[1].replace("+Inf", "inf"))] = value
                else:
                    sums[name] = sums.get(name, 0.0) + value
        return sums, buckets

    def memory(self):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024 / 1e6

    def children(self):
        return pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        accounts = re.findall(r"frames accounted.*", self.log.read_text())
        return code == 0 and bool(accounts) and all("unaccounted=0" in line for line in accounts)


def bench(*arguments):
    command = [RELEASE / "vtagd", "bench", "--json", *map(str, arguments)]
    answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(answer.stdout)["results"][0]


def bare(bundle, seconds):
    return bench("-m", bundle, "--threads", 1, "--batch", BATCH, "--seconds", seconds)["images_per_second"]


def rates(daemon, seconds):
    """What the daemon did in the next `seconds`: counters a second, and the buckets."""
    before, waits = daemon.counters()
    start = time.monotonic()
    time.sleep(seconds)
    after, later = daemon.counters()
    took = time.monotonic() - start
    gained = {name: (after[name] - before.get(name, 0.0)) / took for name in after}
    return gained, {bound: later[bound] - waits.get(bound, 0.0) for bound in later}


def runtime(size=BATCH):
    return f"{{ threads: 1, sessions: 1, batch: {{ max_size: {size}, max_delay: {int(MAX_DELAY * 1e3)}ms }} }}"


class Cameras:
    """RTSP servers, one for each stream."""

    def __init__(self):
        self.servers, self.urls = [], []

    def some(self, count):
        """The URLs of so many."""
        while len(self.servers) < count:
            command = [RELEASE / "rtsp_server", "--file", clip()]
            self.servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            self.urls.append(self.servers[-1].stdout.readline().strip())
            # A server begins its clip with the first client; what comes together does so by chance.
            time.sleep(random.uniform(0.0, 0.2))
        return self.urls[:count]

    def stop(self):
        for server in self.servers:
            server.kill()


def cpu(stat):
    fields = pathlib.Path(stat).read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpus(pid, cameras):
    """CPU seconds of the process, of its session's thread, and of everybody who is not part of this."""
    tasks = [task for task in pathlib.Path(f"/proc/{pid}/task").iterdir() if "infer" in (task / "comm").read_text()]
    ours = cpu(f"/proc/{pid}/stat")
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, pathlib.Path("/proc/stat").read_text().split()[1:9])
    everybody = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    others = everybody - ours - sum(cpu(f"/proc/{server.pid}/stat") for server in cameras.servers)
    return ours, sum(cpu(task / "stat") for task in tasks), others


def saturation(cameras, smoke):
    bundle, (settle, seconds, rounds) = model("vit-b-32"), (2, 6, 1) if smoke else (5, 15, 3)
    alone, whole = [bare(bundle, seconds)], []
    streams = int(alone[0] * 1.05 / KEYFRAMES) + 1
    good = True
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            daemon = Daemon(folder, bundle, cameras.some(streams), runtime(), "200ms")
            time.sleep(settle)
            before = cpus(daemon.pid, cameras)
            gained, _ = rates(daemon, seconds)
            after = cpus(daemon.pid, cameras)
            used, inside, others = ((now - then) / seconds for then, now in zip(before, after))
            good &= daemon.stop()
        whole.append(gained["vtagd_frames_inferred_total"])
        sampled = gained["vtagd_frames_sampled_total"]
        batch = gained["vtagd_batch_size_sum"] / gained["vtagd_batch_size_count"]
        alone.append(bare(bundle, seconds))
        beside = (alone[-2] + alone[-1]) / 2
        print(
            f"saturation, {streams} streams: {sampled:.1f} sampled/s, {whole[-1]:.1f} inferred/s in batches of {batch:.1f}, session busy "
            f"{gained['vtagd_inference_duration_seconds_sum']:.1%} with {inside:.2f} of {used:.2f} cores, others {others:.2f}; bare {alone[-2]:.1f} and {alone[-1]:.1f} images/s "
            f"before and after: ratio {whole[-1] / beside:.3f}", flush=True
        )
    ratios = [w / ((alone[n] + alone[n + 1]) / 2) for n, w in enumerate(whole)]
    print(f"saturation: median ratio {statistics.median(ratios):.3f} (goal {GOAL_RATIO})", flush=True)
    return good and statistics.median(ratios) >= GOAL_RATIO


def quantile(buckets, share):
    """Between the bounds of the bucket that it lies in."""
    total, below, low = buckets[float("inf")], 0.0, 0.0
    for bound in sorted(buckets):
        if buckets[bound] >= share * total:
            inside = buckets[bound] - below
            return low + (bound - low) * ((share * total - below) / inside if inside else 1.0)
        below, low = buckets[bound], bound
    return float("nan")


def half(cameras, smoke):
    bundle, (settle, seconds) = model("vit-b-32"), (2, 10) if smoke else (5, 40)
    alone = bare(bundle, 4 if smoke else 10)
    streams = max(1, round(alone / 2 / KEYFRAMES))
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(folder, bundle, cameras.some(streams), runtime(), "200ms")
        time.sleep(settle)
        before = cpus(daemon.pid, cameras)[2]
        gained, waits = rates(daemon, seconds)
        others = (cpus(daemon.pid, cameras)[2] - before) / seconds
        good = daemon.stop()
    within = waits[GOAL_WAIT] / waits[float("inf")]
    batch = gained["vtagd_batch_size_sum"] / gained["vtagd_batch_size_count"]
    run = gained["vtagd_inference_duration_seconds_sum"] / gained["vtagd_inference_duration_seconds_count"]
    print(
        f"half load, {streams} streams: {gained['vtagd_frames_inferred_total']:.1f} of {alone:.1f} images/s in batches of {batch:.1f}, "
        f"a run {run * 1e3:.0f} ms, others {others:.2f} cores; wait before the run: p50 {quantile(waits, 0.5) * 1e3:.0f} ms, "
        f"p99 {quantile(waits, 0.99) * 1e3:.0f} ms; {within:.2%} within {GOAL_WAIT * 1e3:.0f} ms (goal 99 %)", flush=True
    )
    return good and within >= 0.99


def memory(cameras, smoke):
    bundle = model("vit-h-14")
    with tempfile.TemporaryDirectory() as folder:
        cache = {**os.environ, "VTAGD_CACHE": folder}
        # A cache of its own: the labels are embedded anew.
        os.environ.update(cache)
        towers, peak = set(), 0.0

        def look(daemon):
            nonlocal peak
            for child in daemon.children():
                towers.add(child)
                try:
                    text = pathlib.Path(f"/proc/{child}/status").read_text()
                    peak = max(peak, int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024 / 1e6)
                except (OSError, TypeError):
                    pass

        daemon = Daemon(folder, bundle, cameras.some(1), runtime(), "2s", look)
        at_start = daemon.memory()
        for _ in range(2 if smoke else 12):
            time.sleep(5)
        steady, left = daemon.memory(), daemon.children()
        inferred = daemon.counters()[0]["vtagd_frames_inferred_total"]
        good = daemon.stop()
    print(
        f"memory, vit-h-14 int8, one stream, batches of {BATCH}: {at_start:.0f} MB when ready, {steady:.0f} MB at the end "
        f"(goal < {GOAL_MB:.0f}), {inferred:.0f} pictures; labels embedded by {len(towers)} process(es) of up to {peak:.0f} MB, "
        f"{len(left)} of them left", flush=True
    )
    return good and steady < GOAL_MB and bool(towers) and not left


def openvino(_cameras, smoke):
    library = ROOT / "runtime-openvino/libonnxruntime.so"
    if not library.exists():
        print("openvino: run `make runtime-openvino` first", flush=True)
        return False
    common = ["--arch", "vit-b-32", "--precision", "fp32", "--batch", BATCH, "--seconds", 1 if smoke else 20]
    provider = ["--provider", "openvino", "--library", library, "--provider-option"]
    found = {
        "bf16": bench(*common, *provider, "precision=bf16"),
        "f32": bench(*common, *provider, "precision=f32"),
        "cpu": bench(*common, "--provider", "cpu"),
    }
    speed = {name: row["images_per_second"] for name, row in found.items()}
    print(
        f"openvino, vit-b-32 fp32, batch {BATCH}: bf16 {speed['bf16']:.1f}, f32 {speed['f32']:.1f}, cpu {speed['cpu']:.1f} images/s; "
        f"bf16 {speed['bf16'] / speed['f32']:.2f} of f32 and {speed['bf16'] / speed['cpu']:.2f} of cpu (goal {GOAL_BF16})", flush=True
    )
    return speed["bf16"] / speed["f32"] >= GOAL_BF16


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"saturation": saturation, "half": half, "memory": memory, "openvino": openvino}
    parser.add_argument("--parts", default=",".join(parts))
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    cameras = Cameras()
    try:
        good = [parts[part](cameras, args.smoke) for part in args.parts.split(",")]
    finally:
        cameras.stop()
    sys.exit(0 if args.smoke or all(good) else 1)


if __name__ == "__main__":
    main()
