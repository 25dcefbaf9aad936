#!/usr/bin/env python3
"""One contender of models_table.py, kept alive: loads a model, then answers a JSON line on stdin with one on stdout.

`{"batch": 8, "seconds": 3}` runs batches of that size for that long (once at least) and answers images, seconds and memory (with
`"warm": true` it finds out before in how large parts it runs the batch best; with `"whole": true` it runs it as it is);
`{"embed": "OUT.npy"}` writes the embeddings of the pictures. The first answer, after loading, says what it is.

Usage: models_worker.py KIND MODEL PIXELS THREADS
KIND: torch | onnxruntime | onnxruntime-beside (one thread a run, as many runs at once) | openvino-f32 | openvino-bf16
"""
import concurrent.futures
import json
import os
import pathlib
import re
import sys
import time

import numpy as np


def with_torch(model, threads):
    import torch
    from transformers import CLIPVisionModelWithProjection

    torch.set_num_threads(threads)
    tower = CLIPVisionModelWithProjection.from_pretrained(model).eval()

    def run(pixels):
        with torch.inference_mode():
            return tower(pixel_values=torch.from_numpy(pixels)).image_embeds.numpy()

    return run, f"PyTorch {torch.__version__.split('+')[0]}"


def with_onnxruntime(model, threads):
    import onnxruntime

    # What src/infer/provider.rs asks for.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(["image_embeds"], {name: pixels})[0], f"ONNX Runtime {onnxruntime.__version__}"


def beside(run, threads):
    """As `runtime.sessions` has it on the CPU: single runs of one session at once, each of which takes an even part of the pictures."""
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    return lambda pixels: np.concatenate(list(pool.map(run, np.array_split(pixels, min(threads, len(pixels))))))


def with_openvino(model, threads, precision):
    import openvino

    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError("this processor has no bf16 arithmetic")
    compiled = core.compile_model(
        model,
        "CPU",
        {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"},
    )
    return lambda pixels: compiled(pixels)["image_embeds"], f"OpenVINO {openvino.__version__.split('-')[0]}"


def best_chunk(run, pictures):
    """Pictures that are best run at once: the whole batch, or a part that saves a twentieth of the time, as src/infer/chunk.rs has it."""
    count, times, begun = len(pictures), {}, time.perf_counter()
    for _ in range(3):
        for size in sorted({1 << bit for bit in range(count.bit_length())} | {count}):
            started = time.perf_counter()
            run(pictures[:size])
            times[size] = min(times.get(size, float("inf")), (time.perf_counter() - started) / size)
        if time.perf_counter() - begun > 10:
            break  # long runs are steady enough
    best = min(times, key=times.get)
    return best if times[best] <= 0.95 * times[count] else count


def memory():
    status = pathlib.Path("/proc/self/status").read_text()
    kib = lambda key: int(re.search(rf"{key}:\s+(\d+)", status)[1])
    return {"rss_mib": kib("VmRSS") / 1024, "peak_mib": kib("VmHWM") / 1024}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main():
    kind, model, pixels, threads = sys.argv[1:]
    pictures = np.load(pixels)
    # What libraries print belongs into the log.
    answers, threads = os.fdopen(os.dup(1), "w"), int(threads)
    os.dup2(2, 1)
    answer = lambda **values: print(json.dumps(values), file=answers, flush=True)
    load = {
        "torch": lambda: with_torch(model, threads),
        "onnxruntime": lambda: with_onnxruntime(model, threads),
        "onnxruntime-beside": lambda: with_onnxruntime(model, 1),
        "openvino-f32": lambda: with_openvino(model, threads, "f32"),
        "openvino-bf16": lambda: with_openvino(model, threads, "bf16"),
    }[kind]
    try:
        started = time.perf_counter()
        run, what = load()
        if kind == "onnxruntime-beside":
            run = beside(run, threads)
        answer(what=what, load_seconds=time.perf_counter() - started, **memory())
    except Exception as error:
        answer(error=str(error).strip().splitlines()[0])
        return
    for line in sys.stdin:
        order = json.loads(line)
        if "embed" in order:
            # One by one: what a picture's neighbours do to it is not the question here.
            np.save(order["embed"], np.concatenate([unit(run(pictures[i : i + 1])) for i in range(len(pictures))]))
            answer(**memory())
            continue
        batch = np.ascontiguousarray(pictures[: order["batch"]])
        if order.get("warm"):
            run(batch)
            chunk = best_chunk(run, batch)
        step = len(batch) if order.get("whole") else chunk
        started, images, elapsed = time.perf_counter(), 0, 0.0
        while elapsed < order["seconds"] or not images:
            for start in range(0, len(batch), step):
                run(batch[start : start + step])
            images += len(batch)
            elapsed = time.perf_counter() - started
        answer(images=images, seconds=elapsed, chunk=step, **memory())


if __name__ == "__main__":
    main()
