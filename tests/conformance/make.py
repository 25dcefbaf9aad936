#!/usr/bin/env python3
"""Makes the fixtures of this folder: tiny towers in every form an export may have, and the starter model's text embeddings.

Needs numpy, onnx, onnxruntime and tokenizers.   Usage: make.py STARTER_DIR
"""
import json, os, sys
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as TP, helper as H, numpy_helper as NH
from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
RNG = np.random.default_rng(7)
TEXTS = ["a photo of a cat", "smoke", "forklift blocking a fire exit", "une voiture rouge", "A photo of A CAT", "no people"]


def value(name, kind, *shape):
    return H.make_tensor_value_info(name, kind, list(shape))


def save(name, nodes, inputs, outputs, inits):
    graph = H.make_graph(nodes, name, inputs, outputs, [NH.from_array(a, k) for k, a in inits.items()])
    model = H.make_model(graph, opset_imports=[H.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, os.path.join(HERE, "towers", name + ".onnx"))


W = RNG.standard_normal((192, 4)).astype(np.float32)
flat = H.make_node("Flatten", ["pixel_values"], ["flat"])
dot = H.make_node("MatMul", ["flat", "w"], ["image_embeds"])
save("plain", [flat, dot], [value("pixel_values", TP.FLOAT, "b", 3, 8, 8)], [value("image_embeds", TP.FLOAT, "b", 4)], {"w": W})
save("fixed_batch", [flat, dot], [value("pixel_values", TP.FLOAT, 2, 3, 8, 8)], [value("image_embeds", TP.FLOAT, 2, 4)], {"w": W})
save("half", [flat, dot], [value("pixel_values", TP.FLOAT16, "b", 3, 8, 8)], [value("image_embeds", TP.FLOAT16, "b", 4)],
     {"w": W.astype(np.float16)})
# The scale of the quantised input comes from the whole batch, so a loud neighbour coarsens a quiet picture.
save("dynamic_quant", [flat, H.make_node("DynamicQuantizeLinear", ["flat"], ["q", "s", "z"]),
                       H.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
                       H.make_node("MatMul", ["d", "w"], ["image_embeds"])],
     [value("pixel_values", TP.FLOAT, "b", 3, 8, 8)], [value("image_embeds", TP.FLOAT, "b", 4)], {"w": W})
save("no_embedding", [H.make_node("Reshape", ["pixel_values", "to"], ["last_hidden_state"])],
     [value("pixel_values", TP.FLOAT, "b", 3, 8, 8)], [value("last_hidden_state", TP.FLOAT, "b", 48, 4)],
     {"to": np.array([-1, 48, 4], np.int64)})
# A SigLIP-like text tower: int32, no mask, fixed length, pooled output.
save("text_siglip", [H.make_node("Gather", ["table", "input_ids"], ["rows"]),
                     H.make_node("ReduceMean", ["rows"], ["pooler_output"], axes=[1], keepdims=0)],
     [value("input_ids", TP.INT32, "b", 64)], [value("pooler_output", TP.FLOAT, "b", 4)],
     {"table": RNG.standard_normal((192, 4)).astype(np.float32)})

starter = sys.argv[1]
tok = Tokenizer.from_file(os.path.join(starter, "tokenizer.json"))
text = ort.InferenceSession(os.path.join(starter, "text_model.onnx"))
rows = []
for t in TEXTS:
    ids = np.array([tok.encode(t).ids], np.int64)
    e = text.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
    rows.append({"text": t, "embedding": [round(float(v), 6) for v in e / np.linalg.norm(e)]})
tiny = Tokenizer.from_file(os.path.join(HERE, "tiny-tokenizer", "tokenizer.json"))
tiny.enable_padding(pad_id=0, length=64)
tiny.enable_truncation(64)
siglip = ort.InferenceSession(os.path.join(HERE, "towers", "text_siglip.onnx"))
small = []
for t in TEXTS:
    e = siglip.run(None, {"input_ids": np.array([tiny.encode(t).ids], np.int32)})[0][0]
    small.append({"text": t, "embedding": [round(float(v), 6) for v in e / np.linalg.norm(e)]})
with open(os.path.join(HERE, "starter", "text.json"), "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n]\n")
with open(os.path.join(HERE, "towers", "text_siglip.json"), "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in small) + "\n]\n")
