#!/usr/bin/env python3
"""Real daemons at real inference servers: NVIDIA's Triton and MLServer, on loopback.

`make test-fleet` runs it. A line for each thing that is checked; the first that is wrong ends it. Everything lies in a temporary folder.
"""

import atexit
import pathlib
import shutil
import sys
import tempfile

from inference_servers import ROOT, Box, MlServer, Triton, until

MODEL = ROOT / "models/starter"
CLIP = ROOT / "demo/clip.mp4"
LABELS = """set: seen
labels: [ { name: road, prompts: ["a road with cars"] }, { name: desk, prompts: ["a desk"] } ]
background: [ "a wall" ]
"""


def check(what, good, told=""):
    """Says what was checked."""
    print(f"{'ok' if good else 'FAILED'}: {what}", flush=True)
    if not good:
        sys.exit(str(told))


def config(folder, providers, pace="fast", more=""):
    """One stream of the demo clip; every start is told."""
    (folder / "seen.yaml").write_text(LABELS)
    loop = ", loop: true" if pace == "live" else ""
    return (
        f"model: {{ path: {MODEL} }}\nruntime: {{ providers: {providers}, threads: 2{more} }}\nsampling: {{ interval: 500ms }}\n"
        f"events: {{ enter: 0.3, exit: 0.2, after: 0s }}\nlabels: [ {folder / 'seen.yaml'} ]\n"
        f"streams: [ {{ id: a, url: \"file://{CLIP}\", pace: {pace}{loop} }} ]"
    )


def remote(server, scheme="grpc", more=""):
    """The server, as the configuration names it."""
    port = server.grpc if scheme == "grpc" else server.http
    return f'{{ remote: {{ url: "{scheme}://127.0.0.1:{port}", model: {server.name}, timeout: 20s{more} }} }}'


def tags(box):
    """What its events say: label, kind, media time, score; and who computed."""
    data = [(event["type"], event["data"]) for event in box.told()]
    rows = [(d["label"], kind, d["media_start"], d["media_end"], d["score"]) for kind, d in data]
    return rows, {d["model"].get("provider") for _, d in data}


def same(folder, name, providers, local):
    """A daemon with these providers tells what one without a server does."""
    box = Box(folder / name, config(folder, providers))
    check(f"{name}: the daemon ends by itself", box.wait() == 0, (box.folder / "log").read_text())
    ours, computed = tags(box)
    check(f"{name}: its events are computed by the server", computed == {"remote"}, computed)
    alike = len(ours) == len(local) and all(
        a[:4] == b[:4] and abs(a[4] - b[4]) < 0.01 for a, b in zip(ours, local)
    )
    check(f"{name}: {len(ours)} events, those of the local model", alike, f"{ours}\n{local}")


def main():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vtagd-fleet-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    box = Box(folder / "local", config(folder, "[cpu]"))
    check("local: the daemon ends by itself", box.wait() == 0, (box.folder / "log").read_text())
    local, computed = tags(box)
    check(f"local: {len(local)} events by the cpu", local and computed == {"cpu"}, computed)

    triton = Triton(folder, MODEL)
    atexit.register(triton.stop)
    triton.start()
    same(folder, "triton-grpc-u8", f"[ {remote(triton)} ]", local)
    same(folder, "triton-http-u8", f"[ {remote(triton, 'http')} ]", local)
    same(folder, "triton-small-messages", f"[ {remote(triton, more=', max_message: 1MiB')} ]", local)

    live = config(folder, f"[ {remote(triton).replace('20s', '3s')}, cpu ]", "live")
    box = Box(folder / "outage", live)
    atexit.register(box.stop)
    until("the daemon is ready", lambda: box.readiness().get("ready"))
    check("outage: the server computes", box.readiness()["server"]["state"] == "up", box.readiness())
    triton.stop()
    until("the fallback computes", lambda: box.metric("vtagd_remote_fallback_pictures_total") > 2)
    readiness = box.readiness()
    check("outage: the cpu stands in, and it is ready", readiness["ready"] and readiness["provider"] == "cpu", readiness)
    check("outage: it says that the server is away", readiness["server"]["state"] == "away", readiness)
    triton.start()
    until("the server computes again", lambda: box.readiness()["server"]["state"] == "up")
    before = box.metric("vtagd_remote_requests_total", 'outcome="ok"')
    until("pictures go there", lambda: box.metric("vtagd_remote_requests_total", 'outcome="ok"') > before + 2)
    sampled = box.metric("vtagd_frames_sampled_total")
    check(f"outage: {sampled:.0f} frames sampled, none lost to inference", box.metric("vtagd_frames_dropped_total", 'reason="inference"') == 0)
    box.stop()
    triton.stop()

    mlserver = MlServer(folder, MODEL)
    atexit.register(mlserver.stop)
    mlserver.start()
    same(folder, "mlserver-grpc", f"[ {remote(mlserver)} ]", local)
    box = Box(folder / "mlserver-http", config(folder, f"[ {remote(mlserver, 'http')} ]", more=", strict: true"))
    check("mlserver-http: JSON tensors are refused at the start", box.wait() != 0)
    log = (box.folder / "log").read_text()
    check("mlserver-http: with what to do", "use grpc://" in log or "binary" in log, log)
    print("all is well")


if __name__ == "__main__":
    main()
