#!/usr/bin/env python3
"""Times what a Python pipeline does with one decoded frame: Pillow's bicubic resize, centre crop, and floats for the model.

The frame comes as raw RGB, so the conversion of the full frame from YUV, which a Python pipeline needs as well, is not even counted.
Prints one JSON object. Needs Pillow and NumPy.
Usage: pillow_preprocess.py FRAME.rgb WIDTH HEIGHT SHORTEST CROP
"""
import json
import statistics
import sys
import time

import numpy as np
import PIL
from PIL import Image

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def preprocess(frame, shortest, crop):
    image = Image.fromarray(frame)
    w, h = image.size
    w, h = (shortest, int(shortest * h / w)) if w <= h else (int(shortest * w / h), shortest)
    image = image.resize((w, h), Image.BICUBIC)
    left, top = (w - crop) // 2, (h - crop) // 2
    pixels = np.asarray(image.crop((left, top, left + crop, top + crop)), np.float32)
    return ((pixels / np.float32(255) - MEAN) / STD).transpose(2, 0, 1).copy()


def main():
    path, width, height, shortest, crop = sys.argv[1], *map(int, sys.argv[2:6])
    frame = np.fromfile(path, np.uint8).reshape(height, width, 3)
    for _ in range(5):
        preprocess(frame, shortest, crop)
    times = []
    until = time.perf_counter() + 2
    while time.perf_counter() < until:
        start = time.perf_counter()
        preprocess(frame, shortest, crop)
        times.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({"pillow": PIL.__version__, "runs": len(times), "median_ms": statistics.median(times)}))


main()
