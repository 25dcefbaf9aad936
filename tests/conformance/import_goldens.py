#!/usr/bin/env python3
"""Writes checkpoints.json: checksums of a few canonical tensors of every checkpoint in checkpoints/, read without vtagd.

Safetensors are read with the safetensors package, PyTorch's files with a few lines of Python's own unpickler.
A checksum is the sum of the values and the sum of the values times their place (1, 2, 3, ...), so that an order that is
wrong shows up too.

Needs: numpy, safetensors. Usage: import_goldens.py
"""
import collections
import json
import os
import pickle
import zipfile

import numpy as np
from safetensors.numpy import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "checkpoints")


def read_pickle(path):
    """A zip file of torch.save as numpy arrays."""
    archive = zipfile.ZipFile(path)
    name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
    root = name[: -len("data.pkl")]

    def tensor(storage, offset, shape, strides, *_):
        flat = storage[offset:]
        return np.lib.stride_tricks.as_strided(flat, shape, [s * flat.itemsize for s in strides]).copy()

    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            if name.endswith("Storage"):
                return {"FloatStorage": np.float32, "HalfStorage": np.float16, "LongStorage": np.int64}[name]
            return {"OrderedDict": collections.OrderedDict, "_rebuild_tensor_v2": tensor}[name]

        def persistent_load(self, saved):
            _, kind, key, _, _ = saved
            return np.frombuffer(archive.read(f"{root}data/{key}"), dtype=kind)

    return Reader(archive.open(name)).load()


def load(folder):
    tensors = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.endswith(".safetensors") and not name.startswith("expected"):
            tensors.update(load_file(path))
        elif name.endswith(".bin"):
            tensors.update(read_pickle(path))
    return tensors


def third(array, part):
    rows = array.shape[0] // 3
    return array[part * rows : (part + 1) * rows]


def picked(t):
    """A few tensors of each kind under the canonical names: as they are, cut in three, transposed."""
    if "visual.proj" in t:
        layer, text = "visual.transformer.resblocks.1.", "transformer.resblocks.0."
        return {
            "vision.patch.weight": t["visual.conv1.weight"],
            "vision.class": t["visual.class_embedding"],
            "vision.pre_norm.bias": t["visual.ln_pre.bias"],
            "vision.layers.1.attn.q.weight": third(t[layer + "attn.in_proj_weight"], 0),
            "vision.layers.1.attn.k.bias": third(t[layer + "attn.in_proj_bias"], 1),
            "vision.layers.1.attn.v.weight": third(t[layer + "attn.in_proj_weight"], 2),
            "vision.layers.1.mlp.fc1.weight": t[layer + "mlp.c_fc.weight"],
            "vision.projection.weight": t["visual.proj"].T,
            "text.token": t["token_embedding.weight"],
            "text.position": t["positional_embedding"],
            "text.layers.0.norm2.weight": t[text + "ln_2.weight"],
            "text.layers.0.attn.v.bias": third(t[text + "attn.in_proj_bias"], 2),
            "text.layers.0.mlp.fc2.weight": t[text + "mlp.c_proj.weight"],
            "text.projection.weight": t["text_projection"].T,
        }
    if any(name.startswith("visual.trunk.") for name in t):
        return of_timm(t)
    if "text_model.embeddings.word_embeddings.weight" in t:
        return of_bert(t)
    layer, text = "vision_model.encoder.layers.1.", "text_model.encoder.layers.0."
    out = {
        "vision.patch.weight": t["vision_model.embeddings.patch_embedding.weight"],
        "vision.position": t["vision_model.embeddings.position_embedding.weight"],
        "vision.layers.1.norm1.weight": t[layer + "layer_norm1.weight"],
        "vision.layers.1.attn.k.weight": t[layer + "self_attn.k_proj.weight"],
        "vision.layers.1.mlp.fc2.bias": t[layer + "mlp.fc2.bias"],
        "vision.post_norm.weight": t["vision_model.post_layernorm.weight"],
        "text.token": t["text_model.embeddings.token_embedding.weight"],
        "text.layers.0.attn.out.bias": t[text + "self_attn.out_proj.bias"],
        "text.post_norm.bias": t["text_model.final_layer_norm.bias"],
    }
    if "visual_projection.weight" in t:
        out["vision.class"] = t["vision_model.embeddings.class_embedding"]
        out["vision.pre_norm.weight"] = t["vision_model.pre_layrnorm.weight"]
        out["vision.projection.weight"] = t["visual_projection.weight"]
        out["text.projection.weight"] = t["text_projection.weight"]
    else:
        head = "vision_model.head."
        out["vision.patch.bias"] = t["vision_model.embeddings.patch_embedding.bias"]
        out["vision.head.probe"] = t[head + "probe"]
        out["vision.head.attn.q.weight"] = third(t[head + "attention.in_proj_weight"], 0)
        out["vision.head.attn.v.bias"] = third(t[head + "attention.in_proj_bias"], 2)
        out["vision.head.attn.out.weight"] = t[head + "attention.out_proj.weight"]
        out["vision.head.norm.weight"] = t[head + "layernorm.weight"]
        out["vision.head.mlp.fc1.weight"] = t[head + "mlp.fc1.weight"]
        out["text.projection.weight"] = t["text_model.head.weight"]
        out["text.projection.bias"] = t["text_model.head.bias"]
    return out


def of_timm(t):
    trunk, block, text = "visual.trunk.", "visual.trunk.blocks.0.", "text.transformer.resblocks.0."
    out = {
        "vision.patch.bias": t[trunk + "patch_embed.proj.bias"],
        "vision.position": t[trunk + "pos_embed"][0],
        "vision.layers.0.norm2.weight": t[block + "norm2.weight"],
        "vision.layers.0.attn.out.weight": t[block + "attn.proj.weight"],
        "vision.layers.0.mlp.fc2.bias": t[block + "mlp.fc2.bias"],
        "vision.post_norm.bias": t[trunk + "norm.bias"],
        "text.token": t["text.token_embedding.weight"],
        "text.layers.0.attn.k.weight": third(t[text + "attn.in_proj_weight"], 1),
    }
    if block + "attn.qkv.weight" in t:
        pool, kv = trunk + "attn_pool.", t[trunk + "attn_pool.kv.weight"]
        out["vision.layers.0.attn.v.bias"] = third(t[block + "attn.qkv.bias"], 2)
        out["vision.layers.0.mlp.fc1.weight"] = t[block + "mlp.fc1.weight"]
        out["vision.head.probe"] = t[pool + "latent"]
        out["vision.head.attn.k.weight"] = kv[: len(kv) // 2]
        out["vision.head.attn.v.weight"] = kv[len(kv) // 2 :]
        out["vision.head.mlp.fc1.bias"] = t[pool + "mlp.fc1.bias"]
    else:
        out["vision.class"] = t[trunk + "cls_token"][0, 0]
        out["vision.layers.0.attn.k.weight"] = t[block + "attn.k_proj.weight"]
        out["vision.layers.0.attn.norm.bias"] = t[block + "attn.norm.bias"]
        out["vision.layers.0.mlp.gate.weight"] = t[block + "mlp.fc1_g.weight"]
        out["vision.layers.0.mlp.fc1.bias"] = t[block + "mlp.fc1_x.bias"]
        out["vision.layers.0.mlp.norm.weight"] = t[block + "mlp.norm.weight"]
        out["vision.projection.bias"] = t[trunk + "head.bias"]
    return out


def of_bert(t):
    embeddings, layer = "text_model.embeddings.", "text_model.encoder.layer.1."
    return {
        "vision.class": t["vision_model.embeddings.class_embedding"],
        "vision.pre_norm.weight": t["vision_model.pre_layrnorm.weight"],
        "vision.projection.weight": t["visual_projection.weight"],
        "text.token": t[embeddings + "word_embeddings.weight"],
        # Chinese CLIP looks at 52 tokens.
        "text.position": t[embeddings + "position_embeddings.weight"][:52],
        "text.segment": t[embeddings + "token_type_embeddings.weight"][:1],
        "text.embed_norm.bias": t[embeddings + "LayerNorm.bias"],
        "text.layers.1.attn.q.weight": t[layer + "attention.self.query.weight"],
        "text.layers.1.attn.out.bias": t[layer + "attention.output.dense.bias"],
        "text.layers.1.norm1.weight": t[layer + "attention.output.LayerNorm.weight"],
        "text.layers.1.mlp.fc1.weight": t[layer + "intermediate.dense.weight"],
        "text.layers.1.norm2.bias": t[layer + "output.LayerNorm.bias"],
        "text.projection.weight": t["text_projection.weight"],
    }


goldens = {}
for checkpoint in sorted(os.listdir(ROOT)):
    rows = {}
    for name, array in picked(load(os.path.join(ROOT, checkpoint))).items():
        flat = np.ascontiguousarray(array).astype(np.float64).ravel()
        places = np.arange(1, flat.size + 1)
        rows[name] = {"shape": list(array.shape), "sum": float(flat.sum()), "placed": float((flat * places).sum())}
    goldens[checkpoint] = rows
with open(os.path.join(HERE, "checkpoints.json"), "w") as f:
    json.dump(goldens, f, indent=1)
    f.write("\n")
