#!/usr/bin/env python3
"""Imported graphs against the field: images/s, memory and agreement of CLIP image towers on this machine, as one table.

For each architecture a checkpoint with random weights is made, exported by PyTorch, and imported by `vtagd model import`. Every
contender is a process that stays alive; they run in turn, round after round, with as many threads, so that what disturbs one
disturbs all. Numbers are medians of rounds, ratios medians of each round's own ratio to the export: the faster of
torch.onnx.export's two forms, in the same ONNX Runtime as ours and with the same options. Each runs a batch whole or in the parts in
which it is fastest, as the daemon does; the export does both, since nobody cuts batches for whoever runs it by himself, and each
contender is compared with both. Where memory is short, contenders run in groups, the export in each.

Needs `cargo build --release`. Python packages (tools/pins/bench-peers.txt, 6 GB) go to .setup/bench-venv once, unless
VTAGD_BENCH_PYTHON names a Python that has them; VTAGD_BENCH_OPENVINO_PYTHON one for OpenVINO alone. Models go to --work, about
15 GB for all three. Leave the machine alone meanwhile: the load is written down, and a busy machine is marked.

Usage: benches/peers/models_table.py [--archs vit-b-32,vit-l-14,vit-h-14] [--batches 1,8] [--quick] [--write]
"""
import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PINS = ROOT / "tools/pins/bench-peers.txt"
PAGE = ROOT / "docs/benchmarks.md"
START, END = "<!-- models_table.py writes from here -->", "<!-- models_table.py writes to here -->"
ARCHS = ["vit-b-32", "vit-l-14", "vit-h-14"]
PRECISIONS = ["fp32", "int8", "int4"]
EXPORTS = ["legacy", "dynamo"]
# key: what the table calls it, the worker's kind, the model below the architecture's folder
CONTENDERS = {
    "torch": ("PyTorch f32", "torch", "checkpoint"),
    "legacy": ("ONNX Runtime f32, export (TorchScript)", "onnxruntime", "legacy/vision_model.onnx"),
    "dynamo": ("ONNX Runtime f32, export (dynamo)", "onnxruntime", "dynamo/vision_model.onnx"),
    "legacy-beside": ("the same export (TorchScript), two runs at once", "onnxruntime-beside", "legacy/vision_model.onnx"),
    "dynamic": ("ONNX Runtime int8, export (quantize_dynamic)", "onnxruntime", "dynamic/vision_model.onnx"),
    "openvino-f32": ("OpenVINO f32", "openvino-f32", "legacy/vision_model.onnx"),
    "openvino-bf16": ("OpenVINO bf16", "openvino-bf16", "legacy/vision_model.onnx"),
    "fp32": ("vtagd fp32", "onnxruntime", "fp32/vision_model.onnx"),
    "int8": ("vtagd int8", "onnxruntime", "int8/vision_model.onnx"),
    "int8-beside": ("vtagd int8, `sessions: 2`", "onnxruntime-beside", "int8/vision_model.onnx"),
    "int4": ("vtagd int4", "onnxruntime", "int4/vision_model.onnx"),
}


def say(text):
    print(text, file=sys.stderr, flush=True)


def fail(text):
    sys.exit(f"models_table: {text}")


def bench_python():
    """A Python with the peers: the one that was named, or one made here."""
    named = os.environ.get("VTAGD_BENCH_PYTHON")
    if named:
        return named
    venv = ROOT / ".setup/bench-venv"
    stamp, python = venv / ".stamp", venv / "bin/python"
    if not stamp.is_file() or stamp.read_text() != PINS.read_text():
        say("making .setup/bench-venv (6 GB, minutes)")
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r", PINS]
        subprocess.run(pip, check=True)
        stamp.write_text(PINS.read_text())
    return str(python)


def import_ours(arch, work, keep):
    """Imports the checkpoint in each precision; what that took."""
    binary, taken = ROOT / "target/release/vtagd", {}
    if not binary.is_file():
        fail(f"{binary} is missing: run cargo build --release")
    for precision in PRECISIONS:
        out = work / precision
        if keep and out.is_dir():
            continue
        shutil.rmtree(out, ignore_errors=True)
        command = [binary, "model", "import", "--no-measure", work / "checkpoint", "--out", out, "--precision", precision]
        started = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        errors = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            fail(f"importing {arch} in {precision} failed: {errors.strip()}")
        taken[precision] = {"seconds": time.monotonic() - started, "peak_mib": usage.ru_maxrss / 1024}
        say(f"{arch}: imported in {precision}, {taken[precision]['seconds']:.0f} s, {taken[precision]['peak_mib']:.0f} MiB")
    return taken


class Contender:
    """A worker process."""

    def __init__(self, key, python, work, threads, log):
        self.key, (self.name, kind, model) = key, CONTENDERS[key]
        command = [python, HERE / "models_worker.py", kind, work / model, work / "pixels.npy", str(threads)]
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=env
        )
        self.about = self.read()
        self.rounds, self.whole, self.memory, self.chunks = {}, {}, {}, {}

    def read(self):
        line = self.child.stdout.readline()
        return json.loads(line) if line else {"error": f"{self.name} ended; see the log"}

    def ask(self, **order):
        self.child.stdin.write(json.dumps(order) + "\n")
        self.child.stdin.flush()
        answer = self.read()
        if "error" in answer:
            fail(answer["error"])
        self.memory = {key: answer[key] for key in ("rss_mib", "peak_mib")}
        return answer

    def end(self):
        self.child.stdin.close()
        self.child.wait(30)


def available_gib():
    fields = dict(line.split(":") for line in pathlib.Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) / 2**20


def need_gib(key, work):
    """Weights once more than they are on disk, while a session packs them."""
    _, _, model = CONTENDERS[key]
    path = work / model
    folder = path if path.is_dir() else path.parent
    return 0.4 + 2.2 * sum(file.stat().st_size for file in folder.glob("*vision*" if folder != path else "*")) / 2**30


def groups(keys, work, room):
    """Lists of keys that fit into memory together, the exports in the first and `None` for the winner in each other."""
    rest = [key for key in keys if key not in EXPORTS]
    group, used = [key for key in EXPORTS if key in keys], sum(need_gib(key, work) for key in EXPORTS if key in keys)
    while rest:
        fitting = [key for key in rest if used + need_gib(key, work) <= room]
        if not fitting and len(group) > 1:
            yield group
            group, used = [None], need_gib("legacy", work)
            continue
        key = (fitting or rest)[0]
        group.append(key)
        rest.remove(key)
        used += need_gib(key, work)
    yield group


def run_group(arch, work, keys, args, pythons, log):
    """Starts the group's workers and runs them in turn; those that started, with their rounds."""
    running = []
    for key in keys:
        say(f"{arch}: loading {CONTENDERS[key][0]}")
        contender = Contender(key, pythons[key.startswith("openvino")], work, args.threads, log)
        if "error" in contender.about:
            say(f"{arch}: {contender.name} is left out: {contender.about['error']}")
        running.append(contender)
    alive = [c for c in running if "error" not in c.about]
    for contender in alive:
        contender.ask(embed=str(work / f"{contender.key}.npy"))
    for batch in args.batches:
        for index in range(args.rounds):
            # Another one begins each round.
            turn = alive[index % len(alive) :] + alive[: index % len(alive)]
            for contender in turn:
                ran = contender.ask(batch=batch, seconds=args.seconds, warm=index == 0)
                contender.rounds.setdefault(batch, []).append(ran["images"] / ran["seconds"])
                contender.chunks[batch] = ran["chunk"]
                if contender.key in EXPORTS and ran["chunk"] != batch:
                    ran = contender.ask(batch=batch, seconds=args.seconds, whole=True)
                contender.whole.setdefault(batch, []).append(ran["images"] / ran["seconds"])
            line = ", ".join(f"{c.key} {c.rounds[batch][-1]:.2f}" for c in alive)
            say(f"{arch}: batch {batch}, round {index + 1}: {line} (load {os.getloadavg()[0]:.1f})")
    for contender in running:
        contender.end()
    return running


def winner(running, batches):
    exports = [c for c in running if c.key in EXPORTS and "error" not in c.about]
    if not exports:
        fail("no export runs: see the log")
    return max(exports, key=lambda c: statistics.median(c.rounds[max(batches)]))


def cosine(python, work, key):
    code = (
        "import sys,numpy as n;a,b=(n.load(p) for p in sys.argv[1:]);"
        "print(((a*b).sum(1)/n.linalg.norm(a,axis=1)/n.linalg.norm(b,axis=1)).min())"
    )
    files = [work / "embeddings.npy", work / f"{key}.npy"]
    return float(subprocess.run([python, "-c", code, *files], check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(arch, args, pythons, log):
    work = args.work / arch
    make = [pythons[False], HERE / "models_make.py", arch, work]
    subprocess.run(make, check=True, stdout=sys.stderr, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    imports = import_ours(arch, work, args.keep)
    keys = [key for key, (_, _, model) in CONTENDERS.items() if key in args.contenders and (work / model).exists()]
    rows, export = {}, None
    for group in groups(keys, work, args.memory or available_gib() - 3):
        keys = [export if key is None else key for key in group]
        running = run_group(arch, work, keys, args, pythons, log)
        export = export or winner(running, args.batches).key
        base = next(c for c in running if c.key == export)
        for c in running:
            if c.key in rows:
                continue
            if "error" in c.about:
                rows[c.key] = {"name": c.name, "error": c.about["error"]}
                continue
            speeds = {
                str(batch): {
                    "images_per_second": statistics.median(speeds),
                    "of_export": statistics.median(a / b for a, b in zip(speeds, base.whole[batch])),
                    "of_export_in_parts": statistics.median(a / b for a, b in zip(speeds, base.rounds[batch])),
                    "whole": statistics.median(c.whole[batch]),
                    "rounds": speeds,
                    "chunk": c.chunks[batch],
                }
                for batch, speeds in c.rounds.items()
            }
            rows[c.key] = {"name": c.name, "by": c.about["what"], "load_seconds": c.about["load_seconds"], **c.memory}
            rows[c.key] |= {"cosine": cosine(pythons[False], work, c.key), "batches": speeds, "with": keys}
    return {"export": export, "imports": imports, "rows": {key: rows[key] for key in CONTENDERS if key in rows}}


def digits(value):
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(found, args):
    head = ["model", "what runs"]
    for batch in args.batches:
        head += [f"images/s, batch {batch}", "of export", *(["in parts"] if batch > 1 else [])]
    head += ["memory, MB", "peak", "cosine"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for arch, result in found.items():
        for key, row in result["rows"].items():
            if "error" in row:
                cells = ["–"] * (len(head) - 2)
            else:
                cells = []
                for batch in args.batches:
                    speed = row["batches"][str(batch)]
                    parts = "" if speed["chunk"] == batch else f" ({speed['chunk']})"
                    if parts and key in EXPORTS:
                        parts += f", whole {digits(speed['whole'])}"
                    cells += [digits(speed["images_per_second"]) + parts, f"{speed['of_export']:.2f}"]
                    cells += [f"{speed['of_export_in_parts']:.2f}"] if batch > 1 else []
                cells += [f"{row['rss_mib']:.0f}", f"{row['peak_mib']:.0f}", f"{row['cosine']:.6f}"]
            name = f"**{row['name']}**" if key == result["export"] else row["name"]
            lines.append("| " + " | ".join([arch, name, *cells]) + " |")
    return "\n".join(lines)


def processor():
    info = pathlib.Path("/proc/cpuinfo").read_text()
    flags = info.split("flags", 1)[-1].split("\n", 1)[0].split()
    known = ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"]
    name = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "unknown")
    return f"{name}, {os.cpu_count()} cores, {', '.join(flag for flag in known if flag in flags)}"


def text(report, args):
    busy = max(report["load"])
    versions = sorted({row["by"] for r in report["archs"].values() for row in r["rows"].values() if "by" in row})
    lines = [
        f"Machine: {report['processor']}. {', '.join(versions)}; {args.threads} threads, median of {args.rounds} rounds of "
        f"{args.seconds:g} s. In brackets: pictures in a run, where a batch ran faster in parts; *of export* is against the export's run of the whole batch, *in parts* against its best. Load besides us at the beginning: {report['load'][0]:.1f}."
        + (" **The machine was busy: compare ratios only.**" if busy > args.threads + 1 else ""),
        "",
        table(report["archs"], args),
        "",
    ]
    left_out = {row["name"]: row["error"] for r in report["archs"].values() for row in r["rows"].values() if "error" in row}
    lines += [f"{name} was left out: {why}." for name, why in left_out.items()]
    imports = [
        f"{arch} {precision} {taken['seconds']:.0f} s and {taken['peak_mib']:.0f} MB"
        for arch, r in report["archs"].items()
        for precision, taken in r["imports"].items()
    ]
    if imports:
        lines += ["", f"`vtagd model import --no-measure` of these checkpoints took: {', '.join(imports)} at its peak."]
    return "\n".join(lines)


def write(page):
    before, _, rest = PAGE.read_text().partition(START)
    _, found, after = rest.partition(END)
    if not found:
        fail(f"{PAGE} has not the lines {START} and {END}")
    PAGE.write_text(f"{before}{START}\n{page}\n{END}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", type=lambda s: s.split(","), default=ARCHS)
    parser.add_argument("--batches", type=lambda s: [int(n) for n in s.split(",")], default=[1, 8])
    parser.add_argument("--contenders", type=lambda s: s.split(","), default=list(CONTENDERS), help=", ".join(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of one contender in one round, one batch at least")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", type=float, help="GiB that contenders may fill together [what is free, less 3]")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / ".setup/bench-models")
    parser.add_argument("--keep", action="store_true", help="do not import again what was imported before")
    parser.add_argument("--json", type=pathlib.Path, help="write everything that was measured")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--quick", action="store_true", help="two rounds of one second")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 2, 1
    unknown = [a for a in args.archs if a not in ARCHS] + [c for c in args.contenders if c not in CONTENDERS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join([*ARCHS, *CONTENDERS])}")
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    named = bench_python()
    pythons = {False: named, True: os.environ.get("VTAGD_BENCH_OPENVINO_PYTHON", named)}
    report = {"processor": processor(), "system": platform.platform(), "load": [os.getloadavg()[0]], "archs": {}}
    with open(args.work / "log", "w") as log:
        say(f"what the contenders print goes to {args.work / 'log'}")
        for arch in args.archs:
            report["archs"][arch] = measure(arch, args, pythons, log)
            report["load"].append(os.getloadavg()[0])
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    page = text(report, args)
    print(page)
    if args.write:
        write(page)


if __name__ == "__main__":
    main()
