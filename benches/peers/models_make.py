#!/usr/bin/env python3
"""Makes what models_table.py compares: a checkpoint with random weights of a real architecture, and its exports.

In DIR: `checkpoint/` as Transformers saves it (for `vtagd model import`), `legacy/` and `dynamo/` with the image tower as
torch.onnx.export writes it, `dynamic/` with one of these quantised by ONNX Runtime's plain recipe, `pixels.npy` with eight made-up pictures and `embeddings.npy` with PyTorch's answers to them. What is there already stays.

Needs what tools/pins/bench-peers.txt lists. Usage: models_make.py ARCH DIR
"""
import argparse
import gzip
import json
import pathlib
import shutil
import time
import warnings

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "tests/conformance/clip-tokenizer/tokenizer.json.gz"
PICTURES = 8


def tower(width, layers, heads):
    return {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * width}


# image tower, patch, text tower, dimensions, activation: as published by OpenAI (B/32, L/14) and LAION (H/14)
ARCHS = {
    "vit-b-32": (tower(768, 12, 12), 32, tower(512, 12, 8), 512, "quick_gelu"),
    "vit-l-14": (tower(1024, 24, 16), 14, tower(768, 12, 12), 768, "quick_gelu"),
    "vit-h-14": (tower(1280, 32, 16), 14, tower(1024, 24, 16), 1024, "gelu"),
}


def checkpoint(arch, folder):
    image, patch, text, dim, act = ARCHS[arch]
    config = CLIPConfig(
        vision_config=image | {"patch_size": patch, "image_size": 224, "hidden_act": act, "projection_dim": dim},
        text_config=text | {"hidden_act": act, "projection_dim": dim, "bos_token_id": 49406, "eos_token_id": 49407},
        projection_dim=dim,
    )
    torch.manual_seed(20)
    work = folder.with_name("checkpoint.part")
    shutil.rmtree(work, ignore_errors=True)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        # Trained norms and biases are not ones and zeros; what a graph does with them should show in the cosine.
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.normal_(0, 0.02)
            elif "norm" in name:
                value.normal_(1, 0.1)
    model.save_pretrained(work)
    side = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    (work / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"} | side))
    (work / "tokenizer.json").write_bytes(gzip.decompress(TOKENIZER.read_bytes()))
    (work / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}))
    work.rename(folder)


def pixels():
    """[8, 3, 224, 224]: coloured blots of several sizes and some noise, about as spread as normalised photographs."""
    random = np.random.default_rng(20)
    pictures = random.normal(0, 0.1, (PICTURES, 3, 224, 224))
    for side in (2, 4, 8, 16, 32):
        blots = random.normal(0, 1.2 / np.sqrt(side), (PICTURES, 3, side + 1, side + 1))
        blots = torch.nn.functional.interpolate(torch.from_numpy(blots), (224, 224), mode="bicubic", align_corners=True)
        pictures += blots.numpy()
    return pictures.clip(-1.9, 2.2).astype(np.float32)


class Embeds(torch.nn.Module):
    """The image tower with nothing but the embedding for an output."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model(pixel_values=pixel_values).image_embeds


def export(model, folder, dynamo):
    work = folder.with_name(folder.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    file = work / "vision_model.onnx"
    names = {"input_names": ["pixel_values"], "output_names": ["image_embeds"]}
    example = (torch.from_numpy(pixels()[:2]),)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=64)}}
            torch.onnx.export(Embeds(model), example, str(file), dynamo=True, external_data=True, dynamic_shapes=shapes, **names)
        else:
            axes = {"pixel_values": {0: "batch"}, "image_embeds": {0: "batch"}}
            torch.onnx.export(Embeds(model), example, str(file), dynamo=False, opset_version=17, dynamic_axes=axes, **names)
            gather(file)
    work.rename(folder)


def gather(file):
    """The legacy exporter leaves a file a tensor beside a model over 2 GB; one data file is what people ship."""
    others = [path for path in file.parent.iterdir() if path != file]
    if others:
        import onnx

        model = onnx.load(file)
        for path in [file, *others]:
            path.unlink()
        onnx.save(model, file, save_as_external_data=True, location=file.name + "_data")


def dynamic(source, folder):
    """ONNX Runtime's own recipe: weights in 8 bits a channel, one range for all of an activation."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    work = folder.with_name("dynamic.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    large = sum(path.stat().st_size for path in source.parent.iterdir()) > 2**31
    quantize_dynamic(
        onnx.load(source) if not large else str(source), work / source.name, op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True, weight_type=QuantType.QInt8, use_external_data_format=large,
    )
    work.rename(folder)


def step(what, folder, make):
    if folder.exists():
        return
    started = time.monotonic()
    try:
        make()
        print(f"{what}: {time.monotonic() - started:.0f} s", flush=True)
    except Exception as error:  # one exporter that fails must not cost the others
        print(f"{what}: failed: {str(error).strip().splitlines()[0][:200]}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arch", choices=ARCHS)
    parser.add_argument("dir", type=pathlib.Path)
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    step("checkpoint", args.dir / "checkpoint", lambda: checkpoint(args.arch, args.dir / "checkpoint"))
    model = CLIPVisionModelWithProjection.from_pretrained(args.dir / "checkpoint").eval()
    if not (args.dir / "embeddings.npy").exists():
        np.save(args.dir / "pixels.npy", pixels())
        with torch.inference_mode():
            np.save(args.dir / "embeddings.npy", Embeds(model)(torch.from_numpy(pixels())).numpy())
    step("legacy export", args.dir / "legacy", lambda: export(model, args.dir / "legacy", dynamo=False))
    step("dynamo export", args.dir / "dynamo", lambda: export(model, args.dir / "dynamo", dynamo=True))
    del model
    exports = [path for path in (args.dir / "legacy", args.dir / "dynamo") if path.exists()]
    if exports:
        source = exports[0] / "vision_model.onnx"
        step("quantize_dynamic", args.dir / "dynamic", lambda: dynamic(source, args.dir / "dynamic"))


if __name__ == "__main__":
    main()
