#!/usr/bin/env python3
"""What `session.x64quantprecision` costs on this processor: 8-bit graphs with and without it, in turn, one thread.

Of images a second of CPU time, the median of five rounds: other work on the machine takes less from it than from the clock's. Needs `make setup`.
Usage: .setup/venv/bin/python benches/peers/int8_option.py VISION_MODEL.onnx … [--batch 8] [--seconds 2]
"""
import argparse
import statistics
import time

import numpy as np
import onnxruntime


def session(file, option):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", option)
    options.log_severity_level = 3
    made = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = made.get_inputs()[0].name
    return lambda pixels: made.run(None, {name: pixels})[0]


def rate(run, pixels, seconds):
    started, images = time.process_time(), 0
    while (took := time.process_time() - started) < seconds or not images:
        run(pixels)
        images += len(pixels)
    return images / took


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    pixels = np.random.default_rng(1).normal(0, 1, (args.batch, 3, 224, 224)).astype(np.float32)
    runs = {(file, option): session(file, option) for file in args.files for option in "01"}
    same = {file: np.array_equal(*(runs[file, option](pixels) for option in "01")) for file in args.files}
    rates = {key: [] for key in runs}
    for _ in range(5):
        for key, run in runs.items():
            rates[key].append(rate(run, pixels, args.seconds))
    for file in args.files:
        without, with_it = (statistics.median(rates[file, option]) for option in "01")
        answers = "the same" if same[file] else "DIFFERENT"
        print(f"{file}: {without:.1f} images/s without, {with_it:.1f} with it ({with_it / without:.2f}); the embeddings are {answers}")


if __name__ == "__main__":
    main()
