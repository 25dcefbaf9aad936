#!/usr/bin/env python3
"""Reference embeddings: Pillow's resize and ONNX Runtime's Python, to hold `vtagd embed` against.

Reads the same model directory (vision_model.onnx and preprocessor_config.json) and prints the same JSON as
`vtagd embed --json`. With --compare it reads vtagd's answer instead, prints the cosine of every picture, and fails
below 0.9999:

    .setup/venv/bin/python benches/peers/embed_reference.py -m models/starter A.jpg B.png >reference.json
    target/release/vtagd embed -m models/starter --image A.jpg --image B.png --json >ours.json
    .setup/venv/bin/python benches/peers/embed_reference.py -m models/starter --compare ours.json A.jpg B.png
"""
import argparse
import json
import os
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

LEAST_COSINE = 0.9999


def side(value, *names):
    """A side length out of an int or one of the dicts that preprocessor_config.json may hold."""
    return value if isinstance(value, int) else next(value[name] for name in names if name in value)


def resized(picture, config):
    size, how = config["size"], Image.Resampling(config.get("resample", 3))
    if isinstance(size, dict) and "height" in size:
        return picture.resize((size["width"], size["height"]), how)
    shortest = side(size, "shortest_edge")
    scale = lambda length: shortest if length == min(picture.size) else int(shortest * length / min(picture.size))
    return picture.resize((scale(picture.width), scale(picture.height)), how)


def pixels(path, config):
    """[3, height, width] float32, as the file of the model says: resize, centre crop, rescale, normalise."""
    picture = resized(ImageOps.exif_transpose(Image.open(path)).convert("RGB"), config)
    if config.get("do_center_crop", True):
        crop = config["crop_size"]
        width, height = side(crop, "width"), side(crop, "height")
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        picture = picture.crop((left, top, left + width, top + height))
    values = np.asarray(picture, np.float32) * np.float32(config.get("rescale_factor", 1 / 255))
    values = (values - np.float32(config["image_mean"])) / np.float32(config["image_std"])
    return values.transpose(2, 0, 1)


def embeddings(model, files):
    with open(os.path.join(model, "preprocessor_config.json"), encoding="utf-8") as file:
        config = json.load(file)
    session = onnxruntime.InferenceSession(os.path.join(model, "vision_model.onnx"), providers=["CPUExecutionProvider"])
    rows = [session.run(None, {session.get_inputs()[0].name: pixels(path, config)[None]})[0][0] for path in files]
    return [row / np.linalg.norm(row) for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="models/starter")
    parser.add_argument("--compare", metavar="JSON", help="what vtagd embed --json printed for the same pictures")
    parser.add_argument("images", nargs="+")
    args = parser.parse_args()

    reference = embeddings(args.model, args.images)
    if not args.compare:
        images = [{"file": file, "embedding": row.tolist()} for file, row in zip(args.images, reference)]
        print(json.dumps({"model": os.path.basename(os.path.normpath(args.model)), "images": images, "texts": []}))
        return 0
    with open(args.compare, encoding="utf-8") as file:
        ours = json.load(file)["images"]
    if len(ours) != len(reference):
        sys.exit(f"{args.compare} holds {len(ours)} pictures, {len(reference)} were given")
    cosines = [float(np.dot(row, np.float32(image["embedding"]))) for row, image in zip(reference, ours)]
    for file, cosine in zip(args.images, cosines):
        print(f"{cosine:.6f}  {file}")
    return 0 if min(cosines) >= LEAST_COSINE else 1


if __name__ == "__main__":
    sys.exit(main())
