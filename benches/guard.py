#!/usr/bin/env python3
"""Measures with `cargo bench` and `vtagd bench`, writes what came out as JSON, and compares the ratios with those of a committed baseline.

Only ratios are compared: both sides of one were measured in the same run on the same machine, so that a slower machine or other work
beside it changes both. A ratio is larger where vtagd is better.

  benches/guard.py run                       measures; target/bench/result.json (`make bench`)
  benches/guard.py compare [RESULT BASELINE] prints a table; exit code 1 if a ratio is worse than its tolerance allows, or is missing
  benches/guard.py baseline [RESULT BASELINE] makes the result the new baseline; tolerances that were set by hand stay (`make bench-baseline`)
"""
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULT = ROOT / "target/bench/result.json"
BASELINE = ROOT / "benches/baseline.json"
# How much worse a ratio may be: what it swings by on two shared cores, with something to spare. Another processor has other strengths,
# so that there it is twice as much.
TOLERANCE = 0.2
# Benches of criterion that have a peer in the same run.
PEERS = {
    "score 50 labels, 270 prompts, 1024 values": "bare: 270 rows of 1024 values times one",
    "signature of one 1080p frame": "bare: adding up the bytes of one 1080p frame",
}

# `vtagd bench` of 8 bits against 32, in turn in one process. One thread: two wait for each other after each of hundreds of short steps,
# which is what swings on a machine with other work.
INT8 = ["--arch", "vit-b-32", "--precision", "fp32,int8", "--batch", "8", "--threads", "1", "--seconds", "5", "--json"]


def machine():
    lines = [line.split(":", 1) for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    first = {}
    for key, value in lines:
        first.setdefault(key.strip(), value.strip())
    return {
        "processor": first.get("model name", first.get("Model", "unknown")),
        # Virtual machines tell one name for several generations, of which some have instructions for 8 bits.
        "vnni": any(flag in ("avx512_vnni", "avx_vnni") for flag in first.get("flags", "").split()),
        "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}",
    }


def criterion(folder):
    """Median nanoseconds of each bench that criterion has measured, by its name."""
    found = {}
    for file in sorted(folder.glob("**/new/estimates.json")):
        name = json.loads((file.parent / "benchmark.json").read_text())["full_id"]
        found[name] = json.loads(file.read_text())["median"]["point_estimate"]
    return found


def int8(report):
    """What `vtagd bench --json` has measured of both precisions, as an entry; the ratio is the median of the rounds' own."""
    rows = {row["precision"]: row for row in report["results"]}
    eight, full = rows["int8"], rows["fp32"]
    return {
        "name": f"int8, {report['model']}, batch {eight['batch']}", "unit": "images/s", "value": eight["images_per_second"],
        "peer": "the same in fp32", "peer_value": full["images_per_second"],
        "ratio": statistics.median(ours / peer for ours, peer in zip(eight["rounds"], full["rounds"])),
    }


def entries(told, medians):
    """What the benches told themselves, then criterion's; those without a peer have no ratio."""
    yield from told
    for name, median in medians.items():
        if name in PEERS.values():
            continue
        entry = {"name": name, "unit": "ns", "value": median, "peer": None, "peer_value": None, "ratio": None}
        peer = medians.get(PEERS.get(name))
        if peer:
            entry |= {"peer": PEERS[name], "peer_value": peer, "ratio": peer / median}
        yield entry


def vtagd_bench(arguments):
    """What the release binary, built where it is out of date, measures."""
    for what, command in [("cargo build", [ROOT / "tools/cargo", "build", "--release", "--locked"]),
                          ("vtagd bench", [ROOT / "target/release/vtagd", "bench", *arguments])]:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"bench: {what} ended with {done.returncode}")
    return json.loads(done.stdout)


def run():
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    lines = RESULT.with_name("told.jsonl")
    lines.unlink(missing_ok=True)
    measured = ROOT / "target/criterion"
    # Numbers of earlier runs are not this run's.
    for file in measured.glob("**/new/estimates.json"):
        file.unlink()
    environment = {"VTAGD_PEER_PYTHON": str(ROOT / ".setup/venv/bin/python")} | os.environ | {"VTAGD_BENCH_RESULTS": str(lines)}
    done = subprocess.run([ROOT / "tools/cargo", "bench", "--locked"], cwd=ROOT, env=environment)
    if done.returncode:
        sys.exit(f"bench: cargo bench ended with {done.returncode}")
    told = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    told.append(int8(vtagd_bench(INT8)))
    result = {
        "measured": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip(),
        "machine": machine(),
        "results": sorted(entries(told, criterion(measured)), key=lambda entry: entry["name"]),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"bench: {len(result['results'])} numbers are in {RESULT.relative_to(ROOT)}")


def compare(result, baseline):
    """The lines of a table, and how many ratios are worse or missing."""
    ratios = {entry["name"]: entry["ratio"] for entry in result["results"] if entry["ratio"] is not None}
    here, there = result["machine"], baseline["machine"]
    elsewhere = any(here.get(key) != there.get(key, here.get(key)) for key in ("processor", "vnni"))
    rows, bad = [], 0
    for known in baseline["ratios"]:
        name, was = known["name"], known["ratio"]
        tolerance = known.get("tolerance", TOLERANCE) * (2 if elsewhere else 1)
        now = ratios.pop(name, None)
        if now is None:
            verdict = "MISSING: was not measured"
        elif now < was * (1 - tolerance):
            verdict = f"REGRESSION: {1 - now / was:.0%} worse, {tolerance:.0%} allowed"
        elif now > was * (1 + tolerance):
            verdict = f"better by {now / was - 1:.0%}: renew the baseline with make bench-baseline"
        else:
            verdict = "as before"
        bad += verdict[0].isupper()
        rows.append((name, f"{was:.3f}", "-" if now is None else f"{now:.3f}", verdict))
    rows += [(name, "-", f"{now:.3f}", "new: not in the baseline") for name, now in ratios.items()]
    widths = [max(len(row[column]) for row in [*rows, ("ratio", "baseline", "now", "")]) for column in range(3)]
    lines = [f"{name:<{widths[0]}}  {was:>{widths[1]}}  {now:>{widths[2]}}  {verdict}" for name, was, now, verdict in
             [("ratio", "baseline", "now", ""), *rows]]
    if elsewhere:
        name = lambda machine: machine["processor"] + {True: " with VNNI", False: " without VNNI"}.get(machine.get("vnni"), "")
        lines.append(f"The baseline is of another processor ({name(there)}; here {name(here)}): twice the tolerance is allowed.")
    return [line.rstrip() for line in lines], bad


def read(path, remedy):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"bench: cannot read {path}: {error}; {remedy}")


def renewed(result, old):
    """A result as a baseline: its ratios alone, with tolerances that stood in the old one."""
    kept = {known["name"]: known["tolerance"] for known in old.get("ratios", []) if "tolerance" in known}
    ratios = []
    for entry in result["results"]:
        if entry["ratio"] is not None:
            known = {"name": entry["name"], "ratio": round(entry["ratio"], 3)}
            if entry["name"] in kept:
                known["tolerance"] = kept[entry["name"]]
            ratios.append(known)
    return {"measured": result["measured"], "commit": result["commit"], "machine": result["machine"], "ratios": ratios}


def main(arguments):
    command, paths = arguments[0] if arguments else "", [pathlib.Path(path) for path in arguments[1:]]
    if command not in ("run", "compare", "baseline") or len(paths) not in (0, 2) or (command == "run" and paths):
        sys.exit(__doc__)
    if command == "run":
        return run()
    result_file, baseline_file = paths or (RESULT, BASELINE)
    result = read(result_file, "run make bench")
    if command == "baseline":
        old = json.loads(baseline_file.read_text()) if baseline_file.exists() else {}
        baseline_file.write_text(json.dumps(renewed(result, old), indent=1) + "\n")
        print(f"bench: {baseline_file} is the new baseline")
        return None
    lines, bad = compare(result, read(baseline_file, "run make bench-baseline"))
    print(*lines, sep="\n")
    if bad:
        sys.exit(f"bench: {bad} of the ratios {'is' if bad == 1 else 'are'} worse than the baseline allows, or missing")
    print("bench: no ratio is worse than the baseline allows")
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
