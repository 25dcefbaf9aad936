#!/usr/bin/env python3
"""What a GPU makes of the models, in ten minutes at most: for whoever has a machine with one for a moment, and no network there.

  gpu.sh run [--out FILE] [--pack DIR …]  measures; a table on stdout, JSON in FILE (gpu.json)
  gpu.sh pack DIR [--wheel FILE …]        where the binary was built: everything that such a machine needs, in pieces of 60 MiB
  gpu.sh table FILE                       the table of such a JSON file

`run` measures images/s of image towers with made-up weights in fp16, at several batch sizes: vtagd with CUDA and, where its libraries are there,
with TensorRT, against PyTorch in the same run; whether the embedding of a probe picture agrees with the CPU's; GPU memory; and the daemon,
from frames that need no decoder. What is missing there (a driver, PyTorch, TensorRT, GStreamer, a piece that did not arrive) is a row that says so.
Every step has a limit of its own and ends with the whole; what there was no time for is a row too. The JSON file is written after each
step. Exit code 0: something was measured; 1: nothing; 2: wrong arguments.

`--device cpu` rehearses all of it without a GPU, in fp32; its numbers say nothing of one.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import gpu_pack
from gpu_table import table

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
LIMIT = 570.0  # of ten minutes; what ends it ends a moment later
LEAST = 3.0  # seconds that are worth beginning a step with
ARCHS, BATCHES = ["vit-b-32", "vit-l-14", "vit-h-14"], [1, 8, 32, 128]
FRAME, FRAMES = (640, 360), 60  # what the daemon is fed with: a size that cameras' second streams have
STREAMS = 16


class StepError(Exception):
    """Why a step has no number: `missing` where something is not there, `failed`, or `no time`."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status = status


class GpuMemory(threading.Thread):
    """The most memory that was in use on the first GPU since `begin`, whoever uses it; looked at four times a second."""

    def __init__(self, smi):
        super().__init__(daemon=True)
        asked = [smi, "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-lms", "250"]
        self.process = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.most = 0
        self.start()

    def run(self):
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.most = max(self.most, int(line))

    def begin(self):
        self.most = 0

    def stop(self):
        self.process.kill()
        self.process.wait()


class Run:
    """One run of this script: what there is to measure with, and how much time is left."""

    def __init__(self, args, work):
        self.args, self.work, self.began = args, work, time.monotonic()
        self.on_gpu = args.device == "cuda"
        self.precision = "fp16" if self.on_gpu else "fp32"
        self.peer = os.environ.get("VTAGD_PEER_PYTHON") or sys.executable
        self.memory, self.program, self.library = None, None, args.library
        self.bundles, self.refused = {}, {}
        self.environment = dict(os.environ)
        # What only vtagd is to see: libraries of a pack are not for this machine's Python.
        self.own = {"VTAGD_CACHE": str(work / "cache")}
        self.rows, self.machine = [], {"processor": processor(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}

    def left(self):
        return self.args.limit - (time.monotonic() - self.began)

    def call(self, command, most, **environment):
        """Exit code (None: it ran out of time and was ended), stdout and stderr of a command of at most so many seconds."""
        allowed = min(most, self.left())
        if allowed < LEAST:
            raise StepError("no time", f"{self.args.limit:.0f} s were used up")
        with open(self.work / "stdout", "w+") as out, open(self.work / "stderr", "w+") as err:
            process = self.start(command, out, err, **environment)
            try:
                code = process.wait(allowed)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end(process)
            return (code, *((self.work / name).read_text(errors="replace") for name in ("stdout", "stderr")))

    def start(self, command, out, err, **environment):
        # A group of its own, so that what it starts ends with it.
        return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=self.environment | environment, stdin=subprocess.DEVNULL,
                                stdout=out, stderr=err, start_new_session=True)

    def vtagd(self, *arguments, most, **environment):
        """Its standard output and log."""
        if not self.program:
            raise StepError("missing", "vtagd does not run here, see `program`")
        code, out, err = self.call([self.program, *arguments], most, **self.own, **environment)
        if code is None:
            raise StepError("no time", f"`vtagd {arguments[0]}` was ended after {min(most, self.args.limit):.0f} s at most")
        if code:
            raise StepError("failed", last_line(err) or f"vtagd ended with {code}")
        return out, err


def end(process):
    """Ends a process that `start` has started, and its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def last_line(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("error")), lines[-1] if lines else "")[:800]


def processor():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    found = re.search(r"^(?:model name|Model)\s*:\s*(.*)$", text, re.M)
    return found[1] if found else "unknown"


# What there is to measure with.


def driver(run):
    """The GPU, or the error that ends it all."""
    smi = shutil.which("nvidia-smi") or next((path for path in ["/usr/local/nvidia/bin/nvidia-smi"] if os.access(path, os.X_OK)), None)
    if not smi:
        raise StepError("missing", "no NVIDIA driver: nothing measured (nvidia-smi is not there)")
    fields = ["name", "driver_version", "memory.total", "memory.used"]
    code, out, err = run.call([smi, "-i", "0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"], 30)
    values = [value.strip() for value in out.strip().split(",")]
    if code != 0 or len(values) != len(fields):
        raise StepError("missing", f"no NVIDIA driver: nothing measured (nvidia-smi says: {last_line(err) or last_line(out) or code})")
    run.machine |= {"gpu": values[0], "driver": values[1], "gpu_memory_mib": values[2], "gpu_memory_used_before_mib": values[3]}
    run.memory = GpuMemory(smi)


def unpacked(run):
    """What came in packs."""
    if not run.args.pack:
        return
    folder = run.work / "pack"
    folder.mkdir()
    # A process of its own can be ended.
    code, out, err = run.call([sys.executable, HERE / "gpu_pack.py", folder, *run.args.pack], 120)
    if (folder / "site").is_dir():
        run.environment["PYTHONPATH"] = f"{folder / 'site'}:{run.environment.get('PYTHONPATH', '')}"
    if code is None:
        raise StepError("no time", "unpacking took too long and was ended")
    if code != 0:
        raise StepError("missing", "; ".join(out.splitlines()) or last_line(err))


def gpu_libraries(run):
    """Folders with CUDA's, cuDNN's and TensorRT's libraries: those of Python's wheels, and the usual ones."""
    code, out, _ = run.call([run.peer, "-c", "import json, sys; print(json.dumps(sys.path))"], 30)
    places = [pathlib.Path(place) for place in (json.loads(out) if code == 0 else [])]
    found = [folder for place in places for pattern in ("nvidia/*/lib", "tensorrt_libs") for folder in sorted(place.glob(pattern))]
    return found + [path for path in map(pathlib.Path, ("/usr/local/cuda/lib64", "/usr/local/nvidia/lib64")) if path.is_dir()]


def program(run):
    """A vtagd that starts here, with what it is linked with from the pack where this machine lacks it."""
    packed = run.work / "pack/program"
    candidates = [path for path in (run.args.vtagd, packed / "bin/vtagd", ROOT / "target/release/vtagd") if path and path.exists()]
    if not candidates:
        raise StepError("missing", "no vtagd: build it (cargo build --release), or name it with --vtagd, or bring a pack")
    runtimes = [run.work / "pack/runtime", ROOT / ("runtime-cuda" if run.on_gpu else "runtime")]
    run.library = run.library or next((path for folder in runtimes if (path := folder / "libonnxruntime.so").exists()), None)
    if not run.library:
        raise StepError("missing", "no ONNX Runtime: make runtime-cuda, or name its libonnxruntime.so with --library, or bring a pack")
    folders = gpu_libraries(run) if run.on_gpu else []
    search = lambda folders: ":".join([*map(str, folders), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
    run.own |= {"LD_LIBRARY_PATH": search(folders), "ORT_DYLIB_PATH": str(run.library)}
    code, out, err = run.call([candidates[0], "--version"], 30, **run.own)
    if code and (packed / "libs").is_dir():
        # GStreamer is not installed: its libraries and plug-ins from the pack, and nothing of this machine's.
        run.own |= {"LD_LIBRARY_PATH": search([packed / "libs", *folders]), "GST_PLUGIN_SYSTEM_PATH_1_0": str(packed / "plugins"),
                    "GST_REGISTRY_1_0": str(run.work / "registry.bin")}
        code, out, err = run.call([candidates[0], "--version"], 30, **run.own)
    if code != 0:
        raise StepError("missing", f"{candidates[0]} does not start: {last_line(err) or code}")
    run.program = candidates[0]
    run.machine["vtagd"] = out.strip()


# What is measured.


def bundle(run, arch):
    """A model directory with made-up weights, which knows what the CPU makes of a probe picture."""
    if arch not in run.bundles:
        folder = run.work / f"{arch}-{run.precision}"
        run.vtagd("model", "import", f"synthetic:{arch}", "--precision", run.precision, "--out", folder, most=120)
        run.bundles[arch] = folder
    return run.bundles[arch]


def ours(run, arch, provider):
    """Rows of `vtagd bench` with `provider`, and how near to the CPU's its embedding is."""
    if provider in run.refused:
        raise StepError("failed", f"as for {run.refused[provider]}")
    if provider == "tensorrt":
        needs_tensorrt(run)
    model, batches, options, most = bundle(run, arch), run.args.batches, [], 120
    if provider == "tensorrt":
        # An engine takes a minute and more, and is built for each largest batch.
        batches, options, most = [max(batches)], ["--provider-option", "fp16=true"], 240
    if run.memory:
        run.memory.begin()
    try:
        out, log = run.vtagd("bench", "-m", model, "--batch", ",".join(map(str, batches)), "--seconds", run.args.seconds, "--provider", provider,
                             *options, "--library", run.library, "--json", most=most, VTAGD_LOG="info")
    except StepError as error:
        if error.status == "failed":
            run.refused[provider] = arch
        raise
    cosines = [float(found) for line in log.splitlines() if "image tower loaded" in line for found in re.findall(r"\bcosine=([\d.]+)", line)]
    probe = {"what": "probe", "cosine": min(cosines)} if cosines else {"what": "probe", "status": "failed", "reason": "the log tells no cosine"}
    yield {"by": f"vtagd {provider}"} | probe
    most_used = run.memory.most if run.memory else None
    for row in json.loads(out)["results"]:
        yield {"by": f"vtagd {provider}", "batch": row["batch"], "images_per_second": row["images_per_second"], "latency_ms": row["latency_ms"],
               "rss_bytes": row["rss_bytes"], "gpu_memory_most_mib": most_used}


def needs_tensorrt(run):
    folders = run.own.get("LD_LIBRARY_PATH", "").split(":")
    linker = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout if shutil.which("ldconfig") else ""
    if not any(list(pathlib.Path(folder).glob("libnvinfer.so.*")) for folder in folders if folder) and "libnvinfer.so." not in linker:
        raise StepError("missing", "libnvinfer.so is not there: TensorRT is not installed")


def peer(run, arch):
    """Rows of PyTorch, each way to run it."""
    batches = ",".join(map(str, run.args.batches))
    command = [run.peer, HERE / "peers/gpu_torch.py", arch, run.args.device, "float16" if run.on_gpu else "float32", batches, run.args.seconds]
    code, out, err = run.call(command, 120)
    answers = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    for answer in answers:
        if "what" in answer:
            run.machine["pytorch"] = answer["what"]
        elif "way" not in answer:
            raise StepError("missing", answer["reason"])
        else:
            way = answer.pop("way")
            yield {"by": f"PyTorch {way}"} | ({"status": "failed"} if "reason" in answer else {}) | answer
    if code != 0:
        reason = "it took too long and was ended; what it had measured is kept" if code is None else last_line(err)
        yield {"by": "PyTorch", "status": "no time" if code is None else "failed", "reason": reason}


def daemon(run, arch):
    """Images/s of the whole way of a frame, from files of raw frames: no decoder, everything else as with cameras."""
    model, folder = bundle(run, arch), run.work / "daemon"
    folder.mkdir()
    (width, height), batch = FRAME, max(run.args.batches)
    with open(folder / "frames.y4m", "wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420jpeg\n".encode())
        for _ in range(FRAMES):
            file.write(b"FRAME\n" + os.urandom(width * height * 3 // 2))
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        port = it.getsockname()[1]
    (folder / "things.yaml").write_text("set: things\nbackground: [w1 w2]\nlabels: [{ name: thing, prompts: [w3 w4] }]\n")
    provider = "cuda" if run.on_gpu else "cpu"
    streams = "".join(f"  - {{ id: file-{n}, url: \"file://{folder}/frames.y4m\", pace: fast, loop: true }}\n" for n in range(STREAMS))
    (folder / "vtagd.yaml").write_text(
        f"model: {{ path: {model} }}\nruntime: {{ library: {run.library}, providers: [{provider}], strict: true, batch: {{ max_size: {batch} }} }}\n"
        f"sampling: {{ interval: 40ms, decode: all }}\nstreams:\n{streams}labels: [things.yaml]\n"
        f"sinks: [{{ type: jsonl, path: events.jsonl }}]\napi: {{ listen: \"127.0.0.1:{port}\" }}\n"
        "state: { path: state }\noutbox: { path: \":memory:\" }\n"
    )
    if not run.program:
        raise StepError("missing", "vtagd does not run here, see `program`")
    if run.left() < 30:
        raise StepError("no time", f"{run.args.limit:.0f} s were used up")
    log = folder / "log"
    with open(log, "w") as err:
        process = run.start([run.program, "run", "-c", folder / "vtagd.yaml"], subprocess.DEVNULL, err, **run.own)
        try:
            inferred = lambda: counter(port, "vtagd_frames_inferred_total")
            deadline = time.monotonic() + min(90.0, run.left() - 10)
            while not ready(inferred, 2 * batch):
                if process.poll() is not None:
                    raise StepError("failed", f"the daemon ended: {last_line(log.read_text())}")
                if time.monotonic() > deadline:
                    raise StepError("no time", f"no batch was inferred in time; its log ends with: {last_line(log.read_text())}")
                time.sleep(0.2)
            before, started, gained = inferred(), time.monotonic(), 0.0
            # Counted batch by batch: several of them, so that the first and the last weigh little.
            while (took := time.monotonic() - started) < 2 * run.args.seconds or gained < 4 * batch:
                if took > 30 or run.left() < 5:
                    raise StepError("no time", f"{gained:.0f} pictures in {took:.0f} s are too few to tell")
                time.sleep(0.1)
                gained = inferred() - before
            rate = gained / (time.monotonic() - started)
        finally:
            end(process)
    yield {"by": "the daemon, raw frames", "batch": batch, "images_per_second": rate, "streams": STREAMS, "frame": f"{width}x{height}"}


def counter(port, name):
    """The sum of a counter over all streams."""
    # Whatever proxy the environment names: it is not for this machine.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", answer.read().decode(), re.M))


def ready(read, enough):
    try:
        return read() >= enough
    except OSError:  # nobody listens yet
        return False


def steps(run):
    """What is measured, the most wanted first: name, architecture, and what gives the rows."""
    provider = "cuda" if run.on_gpu else "cpu"
    for index, arch in enumerate(run.args.archs):
        yield provider, arch, lambda arch=arch: ours(run, arch, provider)
        yield "pytorch", arch, lambda arch=arch: peer(run, arch)
        if index == 0:
            yield "daemon", arch, lambda arch=arch: daemon(run, arch)
    if run.on_gpu:
        for arch in run.args.archs:
            yield "tensorrt", arch, lambda arch=arch: ours(run, arch, "tensorrt")


def attempt(run, step, arch, rows):
    """Adds the rows of a step, or the one that says why there are none, and writes the file."""
    common = {"step": step} | ({"model": arch, "precision": run.precision} if arch else {})
    print(f"gpu: {step} {arch or ''}, {run.left():.0f} s left", file=sys.stderr, flush=True)
    good = True
    try:
        for row in rows() or ():
            run.rows.append(common | {"status": "measured"} | row)
    except StepError as error:
        good = False
        run.rows.append(common | {"status": error.status, "reason": str(error)})
    except Exception as error:  # a step that was not thought of well enough must not cost the others
        good = False
        run.rows.append(common | {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:500]})
    write(run)
    return good


def report(run):
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"measured": now, "device": run.args.device, "machine": run.machine, "limit_s": run.args.limit,
            "took_s": round(time.monotonic() - run.began, 1), "rows": run.rows}


def write(run):
    part = run.args.out.with_name(run.args.out.name + ".part")
    part.write_text(json.dumps(report(run), indent=1) + "\n")
    part.replace(run.args.out)


def measure(args):
    # What ends this from outside ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="vtagd-gpu-", dir=args.work) as work:
        run = Run(args, pathlib.Path(work))
        try:
            if run.on_gpu and not attempt(run, "driver", None, lambda: driver(run)):
                reason = run.rows[-1]["reason"]
                run.rows += [{"step": step, "model": arch, "status": "missing", "reason": reason} for step, arch, _ in steps(run)]
                write(run)
                print(reason)
                return 1
            attempt(run, "pack", None, lambda: unpacked(run))
            attempt(run, "program", None, lambda: program(run))
            for step, arch, rows in steps(run):
                attempt(run, step, arch, rows)
        finally:
            if run.memory:
                run.memory.stop()
        print(table(report(run)))
        return 0 if any("images_per_second" in row for row in run.rows) else 1


def listed(kind, known=None):
    def parse(text):
        values = [kind(value) for value in text.split(",")]
        if known and not set(values) <= set(known) or not known and min(values) < 1:
            raise argparse.ArgumentTypeError(f"{text}: choose from {', '.join(map(str, known))}" if known else f"{text}: write numbers from 1 up")
        return values

    return parse


def positive(text):
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: write a number above 0")
    return value


def main():
    parser = argparse.ArgumentParser(prog="gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    path = lambda text: pathlib.Path(text).resolve()
    it = commands.add_parser("run", help="measures")
    it.add_argument("--out", type=path, default=path("gpu.json"), help="the JSON file [gpu.json]")
    it.add_argument("--pack", type=path, action="append", default=[], help="a folder with pieces of a pack; may be given several times")
    it.add_argument("--vtagd", type=path, help="the binary [of the pack, else target/release/vtagd]")
    it.add_argument("--library", type=path, help="ONNX Runtime [of the pack, else runtime-cuda/libonnxruntime.so]")
    it.add_argument("--limit", type=positive, default=LIMIT, help=f"seconds for all of it [{LIMIT:.0f}]")
    it.add_argument("--archs", type=listed(str, [*ARCHS, "vit-b-16"]), default=ARCHS, help=f"[{','.join(ARCHS)}]")
    it.add_argument("--batches", type=listed(int), default=BATCHES, help=f"[{','.join(map(str, BATCHES))}]")
    it.add_argument("--seconds", type=positive, default=2.0, help="of measuring for each batch size [2]")
    it.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a rehearsal without a GPU")
    it.add_argument("--work", type=path, help="where temporary files go, 6 GB of them [TMPDIR, /tmp]")
    it = commands.add_parser("pack", help="gathers what a machine without a network needs")
    it.add_argument("folder", type=path)
    it.add_argument("--vtagd", type=path, default=ROOT / "target/release/vtagd")
    it.add_argument("--runtime", type=path, default=ROOT / "runtime-cuda", help="a folder with ONNX Runtime and its providers [runtime-cuda]")
    it.add_argument("--wheel", type=path, action="append", default=[], help="a wheel that is to be importable there; may be given several times")
    it.add_argument("--piece", type=int, default=gpu_pack.PIECE, help=f"most bytes of a piece [{gpu_pack.PIECE}]")
    it = commands.add_parser("table", help="the table of a JSON file")
    it.add_argument("file", type=path)
    args = parser.parse_args()
    try:
        if args.command == "run":
            return measure(args)
        if args.command == "table":
            print(table(json.loads(args.file.read_text())))
        else:
            print(*gpu_pack.pack(args.folder, args.vtagd, args.runtime, args.wheel, max(1, args.piece)), sep="\n")
        return 0
    except (OSError, ValueError, gpu_pack.PackError) as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
