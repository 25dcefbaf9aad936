#!/usr/bin/env python3
"""What one core makes of each architecture, by `vtagd bench --arch`, as the table of docs/which-model.md.

  benches/which_model.py [--vtagd target/release/vtagd] [--seconds 5] [--archs vit-b-32,...] [--out docs/which-model.md]

The weights are made up and as fast as trained ones; nothing is downloaded. One thread, pictures one by one and by eight, fp32 and int8 in turn. The
largest needs 5 GB of disk for a while, in VTAGD_CACHE. Leave the machine otherwise idle: some twelve minutes. Without --out the table is printed.
"""

import argparse
import json
import os
import platform
import subprocess

ARCHS = ["vit-b-32", "vit-b-16", "siglip-b-16-224", "siglip2-b-16-224", "vit-l-14", "siglip2-so400m-14-224", "vit-h-14"]
BEGIN, END = "<!-- measured: benches/which_model.py -->", "<!-- end of what was measured -->"


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        lines = dict(line.split(":", 1) for line in file if ":" in line)
    named = {name.strip(): value.strip() for name, value in lines.items()}
    flags = [flag for flag in ("avx2", "avx_vnni", "avx512_vnni", "amx_int8") if flag in named.get("flags", "").split()]
    return ", ".join([named.get("model name", platform.machine()), *flags])


def measure(args, arch):
    command = [args.vtagd, "bench", "--arch", arch, "--precision", "fp32,int8", "--threads", "1", "--batch", "1,8", "--seconds", str(args.seconds), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return {(row["precision"], row["batch"]): row for row in json.loads(done.stdout)["results"]}


def table(args):
    load = os.getloadavg()[0]
    lines = ["| architecture | images/s a core, fp32 | int8 | cameras a core, int8 | memory, int8 |", "|---|---|---|---|---|"]
    for arch in args.archs.split(","):
        rows = measure(args, arch)
        best = {precision: max(rows[precision, batch]["images_per_second"] for batch in (1, 8)) for precision in ("fp32", "int8")}
        fast = max((rows["int8", batch] for batch in (1, 8)), key=lambda row: row["images_per_second"])
        digits = lambda speed: f"{speed:.1f}" if speed < 100 else f"{speed:.0f}"
        memory = fast["rss_bytes"] / 1e6
        lines.append(f"| {arch} | {digits(best['fp32'])} | {digits(best['int8'])} | {fast['cameras']} | {memory:.0f} MB |")
        print(lines[-1], flush=True)
    note = f"{processor()}; one thread, the better of batches of 1 and 8, {args.seconds} s each, load of others {load:.1f}. Cameras: at one sample a second, a fifth left for decoding."
    return "\n".join([*lines, "", note])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vtagd", default="target/release/vtagd")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--archs", default=",".join(ARCHS))
    parser.add_argument("--out")
    args = parser.parse_args()
    text = table(args)
    if not args.out:
        print(text)
        return
    with open(args.out, encoding="utf-8") as file:
        page = file.read()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    with open(args.out, "w", encoding="utf-8") as file:
        file.write(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


if __name__ == "__main__":
    main()
