#!/usr/bin/env python3
"""What an inference server costs and gains, on one machine: a batch there and here, eight boxes at one server, and the processor time of a box.

Both sides of a ratio run in the same command, in turn, with one thread of inference fewer than there are cores: a server elsewhere does not share
its cores with a box's decoders, and they would hold up each of its operators here. For the same reason the server has half of the cores where it serves
many boxes, or the client without a daemon, and those have the rest. `tests/foreign/setup_fleet.sh` makes the environments; then
    VTAGD=target/release/vtagd python3 benches/peers/fleet.py [--seconds 20] [--boxes 8] [--cameras 4]
prints a line a number and, at the end, one JSON object.
"""

import argparse
import atexit
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/foreign"))
from inference_servers import PLACE, ROOT, Box, Triton, until  # noqa: E402

MODEL = ROOT / "models/starter"
CLIP = ROOT / "demo/clip.mp4"
CORES = sorted(os.sched_getaffinity(0))
THREADS = max(1, len(CORES) - 1)
HALF = max(1, len(CORES) // 2)
FRAMES = ("vtagd_frames_inferred_total", "vtagd_frames_reused_total", "vtagd_frames_dropped_total")

# As a client without a daemon: threads that each send one picture after the other.
BARE = """
import sys, threading, time, numpy, tritonclient.grpc as grpc
port, threads, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
done, stop = [0] * threads, time.time() + seconds
def box(at):
    client = grpc.InferenceServerClient(f"127.0.0.1:{port}")
    pixels = numpy.random.default_rng(at).integers(0, 256, (4, 224, 224, 3), dtype=numpy.uint8)
    while time.time() < stop:
        asked = grpc.InferInput("pictures", pixels.shape, "UINT8")
        asked.set_data_from_numpy(pixels)
        client.infer("vision", [asked])
        done[at] += len(pixels)
all = [threading.Thread(target=box, args=(at,)) for at in range(threads)]
[one.start() for one in all]; [one.join() for one in all]
print(sum(done) / seconds)
"""


def small_clip(folder, pictures=5):
    """The demo clip as a camera's second stream: 640 × 360, so many pictures a second, each by itself (MJPEG), so that decoding is what it is there."""
    clip = folder / f"small-{pictures}.mkv"
    size, rate = "video/x-raw,width=640,height=360", f"video/x-raw,framerate={pictures}/1"
    way = f"filesrc location={CLIP} ! decodebin ! videoconvert ! videoscale ! {size} ! videorate ! {rate} ! jpegenc ! matroskamux ! filesink location={clip}"
    subprocess.run(["gst-launch-1.0", "-q", *way.split()], check=True)
    return clip


def config(folder, providers, streams, pace, interval, threads, max_size=8, pictures=5):
    """Streams of one clip."""
    clip = folder / f"small-{pictures}.mkv"
    rows = ", ".join(f'{{ id: c{at}, url: "file://{clip}", pace: {pace}, loop: true }}' for at in range(streams))
    (folder / "seen.yaml").write_text('set: seen\nlabels: [ { name: road } ]\nbackground: [ "a wall" ]\n')
    return (
        f"model: {{ path: {MODEL} }}\n"
        f"runtime: {{ providers: {providers}, threads: {threads}, sessions: 1, preprocess_threads: 1, batch: {{ max_size: {max_size} }} }}\n"
        f"sampling: {{ interval: {interval}, decode: keyframes }}\nlabels: [ {folder / 'seen.yaml'} ]\nstreams: [ {rows} ]"
    )


def remote(server):
    return f'[ {{ remote: {{ url: "grpc://127.0.0.1:{server.grpc}", model: vision, timeout: 20s }} }} ]'


def watched(box, seconds):
    """What changes of a box's numbers within so many seconds, once it is warm."""
    until("the box is ready", lambda: box.readiness().get("ready"))
    until("it has looked at frames", lambda: box.metric(FRAMES[0]) > 8)
    names = ["vtagd_inference_duration_seconds_sum", "vtagd_inference_duration_seconds_count", "vtagd_batch_size_sum", FRAMES[0]]
    before = [box.metric(name) for name in names] + [box.cpu()]
    time.sleep(seconds)
    # On a machine with much else to do a few seconds may see no run.
    until("some batches were run", lambda: box.metric(names[1]) > before[1] + 2)
    after = [box.metric(name) for name in names] + [box.cpu()]
    return [b - a for a, b in zip(before, after)]


@contextlib.contextmanager
def serving(folder, threads, cores):
    """A server of these cores."""
    triton = Triton(pathlib.Path(tempfile.mkdtemp(prefix="server-", dir=folder)), MODEL, threads=threads)
    # What is started has them from here.
    os.sched_setaffinity(0, cores)
    try:
        triton.start()
        os.sched_setaffinity(0, CORES)
        yield triton
    finally:
        triton.stop()


def a_batch(folder, triton, seconds, result):
    """A full batch of eight, here and there, three times in turn."""
    times = {"local": [], "remote": []}
    cpu = {"local": [], "remote": []}
    for turn in range(3):
        for kind, providers in (("local", "[cpu]"), ("remote", remote(triton))):
            box = Box(folder / f"batch-{kind}-{turn}", config(folder, providers, 8, "fast", "200ms", THREADS))
            took, runs, pictures, frames, used = watched(box, seconds)
            box.stop()
            times[kind].append(took / runs)
            cpu[kind].append(used / max(frames, 1))
            print(f"{kind}: {1e3 * took / runs:.1f} ms a batch of {pictures / runs:.1f}, {1e3 * used / max(frames, 1):.1f} ms of processor a frame")
    best = {kind: sorted(values)[1] for kind, values in times.items()}
    result["batch_ms"] = {kind: round(1e3 * value, 2) for kind, value in best.items()}
    result["batch_ratio"] = round(best["remote"] / best["local"], 3)
    spent = {kind: sorted(values)[1] for kind, values in cpu.items()}
    result["box_cpu_ratio"] = round(spent["remote"] / spent["local"], 3)
    print(f"remote/local: {result['batch_ratio']} of the time of a batch (goal 1.15), {result['box_cpu_ratio']} of a box's processor time (goal 0.25)")


def many_boxes(folder, triton, boxes, cameras, seconds, result):
    """So many daemons at one server, and what a client without one gets of it. Their cameras show more than it can look at: seven pictures a second."""
    client = [PLACE / "triton/bin/python", "-c", BARE, str(triton.grpc), str(boxes), str(seconds)]
    bare = float(subprocess.run(client, check=True, capture_output=True, text=True).stdout)
    fleet = []
    for at in range(boxes):
        # One after the other: the first leaves in the cache what all of them need.
        box = Box(folder / f"box-{at}", config(folder, remote(triton), cameras, "live", "140ms", 1, cameras, 7))
        atexit.register(box.stop)
        until("a box is ready", lambda box=box: box.readiness().get("ready"))
        until("it has looked at frames", lambda box=box: box.metric(FRAMES[0]) > 8)
        fleet.append(box)
    pictures, runs, busy = triton.statistics()
    began, before = time.monotonic(), sum(box.metric(FRAMES[0]) for box in fleet)
    time.sleep(seconds)
    frames = sum(box.metric(FRAMES[0]) for box in fleet) - before
    rate = frames / (time.monotonic() - began)
    more, again, later = triton.statistics()
    share = (later - busy) / (time.monotonic() - began)
    for box in fleet:
        box.stop()
    lost = [box.folder for box in fleet if box.process.returncode != 0]
    result["fleet"] = {
        "boxes": boxes,
        "cameras": cameras,
        "bare_pictures_per_second": round(bare, 1),
        "pictures_per_second": round(rate, 1),
        "ratio": round(rate / bare, 3),
        "mean_batch": round((more - pictures) / max(again - runs, 1), 2),
        "server_busy": round(share, 2),
        "boxes_with_unaccounted_frames": len(lost),
    }
    print(f"{boxes} boxes of {cameras} cameras: {rate:.1f} pictures/s of {bare:.1f} that a bare client gets, mean batch {result['fleet']['mean_batch']} (goals 0.9, 3); the server computed {100 * share:.0f} % of the time")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--boxes", type=int, default=8)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--only", choices=["batch", "fleet"])
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vtagd-fleet-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    small_clip(folder)
    small_clip(folder, 7)
    result = {}
    if args.only != "fleet":
        with serving(folder, THREADS, CORES) as triton:
            a_batch(folder, triton, args.seconds, result)
    if args.only != "batch":
        with serving(folder, HALF, CORES[:HALF]) as triton:
            os.sched_setaffinity(0, CORES[HALF:] or CORES)
            many_boxes(folder, triton, args.boxes, args.cameras, args.seconds, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
