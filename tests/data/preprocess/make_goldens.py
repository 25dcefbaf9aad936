#!/usr/bin/env python3
"""Writes the pictures that tests/preprocessing/preprocess_matches_pillow.rs compares with: what Pillow makes of the same files.

Each golden is the resized and cropped 8-bit picture before normalisation. Needs Pillow and NumPy.
Usage: make_goldens.py IMAGES_DIR   (astronaut.png, chelsea.png, coffee.png, rocket.jpg; all public domain or CC0)
"""
import os
import sys

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}


def shortest(image, side, crop, resample=Image.BICUBIC):
    """Transformers' CLIPImageProcessor: shorter side to `side`, then a centre crop."""
    w, h = image.size
    w, h = (side, int(side * h / w)) if w <= h else (int(side * w / h), side)
    image = image.resize((w, h), resample)
    left, top = (w - crop) // 2, (h - crop) // 2
    return image.crop((left, top, left + crop, top + crop))


def save(image, name):
    image.save(os.path.join(HERE, name), optimize=True)


def main():
    images = sys.argv[1]
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"):
        picture = Image.open(os.path.join(images, name)).convert("RGB")
        save(shortest(picture, 256, 224), f"{name[:-4]}-256-224.golden.png")
        if name == "chelsea.png":
            save(shortest(picture, 224, 224), "chelsea-224-224.golden.png")
            save(picture.resize((224, 224), Image.BICUBIC), "chelsea-squash.golden.png")
    # The hardest content there is for a resampler: noise at full contrast, in shapes that are odd both ways.
    noise = np.random.default_rng(1).choice(np.array([0, 255, 128], np.uint8), (61, 97, 3))
    noise = Image.fromarray(noise)
    save(noise, "noise.png")
    for name, resample in FILTERS.items():
        save(noise.resize((24, 40), resample), f"noise-down-{name}.golden.png")
        save(noise.resize((130, 70), resample), f"noise-up-{name}.golden.png")
    save(shortest(noise, 50, 33), "noise-50-33.golden.png")
    save(noise.convert("L"), "grey.png")
    save(noise.convert("L").resize((24, 40), Image.BICUBIC), "grey-down-bicubic.golden.png")


main()
