#!/usr/bin/env python3
"""Where the time of an image tower in int8 goes, and what ONNX Runtime's fused operators, and OpenVINO, would make of it. One thread.

All times are CPU time, so that other work on the machine takes less from them. Contenders take turns. `VISION_MODEL.onnx` is of `vtagd model import
--precision int8` (CLIP's architecture), or what `vtagd bench --arch` makes while it runs.
  .setup/venv/bin/python benches/peers/int8_operators.py profile VISION_MODEL.onnx … [--batch 8]    by operator
  … fuse INT8.onnx [--batch 8]       the same graph with SkipLayerNormalization, MultiHeadAttention, one product for q, k and v: times, and the cosine
  … openvino FP32.onnx INT8.onnx     OpenVINO, with 8-bit inputs made at run time for the same 8-bit weights (needs openvino, tools/pins/bench-peers.txt)
"""

import argparse
import collections
import json
import pathlib
import re
import statistics
import tempfile
import time

import numpy as np
import onnx
from onnx import helper, numpy_helper


def pictures(batch):
    return np.random.default_rng(1).normal(0, 1, (batch, 3, 224, 224)).astype(np.float32)


def session(file, profile=None):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def runner(file):
    made = session(file)
    name = made.get_inputs()[0].name
    return lambda pixels: made.run(None, {name: pixels})[0]


def compare(runs, pixels, rounds):
    """Contenders in turn; each by its median, and its answers by the first's."""
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.process_time()
            run(pixels)
            times[name].append(1e3 * (time.process_time() - began) / len(pixels))
    first, wanted = next(iter(runs)), next(iter(runs.values()))(pixels)
    for name, run in runs.items():
        rows, middle = run(pixels), statistics.median(times[name])
        cosine = (rows * wanted).sum(-1) / np.linalg.norm(rows, axis=-1) / np.linalg.norm(wanted, axis=-1)
        faster = statistics.median(times[first]) / middle
        print(f"{name}: {middle:.1f} ms a picture, {faster:.2f} × as fast as the first, cosine {cosine.min():.6f}", flush=True)


def profile(file, batch, rounds):
    """Each node by its fastest quarter, summed by operator."""
    with tempfile.TemporaryDirectory() as folder:
        made = session(file, pathlib.Path(folder) / "run")
        name, pixels = made.get_inputs()[0].name, pictures(batch)
        for _ in range(rounds):
            made.run(None, {name: pixels})
        events = json.loads(pathlib.Path(made.end_profiling()).read_text())
    nodes = collections.defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            nodes[event["args"]["op_name"], event["args"].get("node_index")].append(event["dur"])
    sums, counts = collections.Counter(), collections.Counter()
    for (operator, _), took in nodes.items():
        sums[operator] += sorted(took)[len(took) // 4]
        counts[operator] += 1
    whole = sum(sums.values())
    print(f"{file}, batch {batch}: {whole / 1e3 / batch:.2f} ms a picture")
    for operator, took in sums.most_common(14):
        print(f"  {operator} ({counts[operator]}): {took / 1e3 / batch:.3f} ms, {100 * took / whole:.1f} %")


class Graph:
    """A graph that is changed in place; its nodes stay in an order in which they can run."""

    def __init__(self, file):
        self.model = onnx.load(file)
        self.graph = self.model.graph
        self.known = {value.name: value for value in self.graph.initializer}
        if not any(opset.domain == "com.microsoft" for opset in self.model.opset_import):
            self.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        self.look()

    def look(self):
        self.makers = {output: node for node in self.graph.node for output in node.output}
        self.layers = sorted({int(found[1]) for name in self.makers if (found := re.match(r"vision\.layers\.(\d+)\.", name))})

    def replace(self, old, new):
        """`new` where the last of `old` was."""
        places = [list(self.graph.node).index(node) for node in old]
        for node in reversed(new):
            self.graph.node.insert(max(places) + 1, node)
        for node in old:
            self.graph.node.remove(node)
        self.look()

    def constant(self, name, value):
        if name not in self.known:
            self.known[name] = numpy_helper.from_array(value, name)
            self.graph.initializer.append(self.known[name])
        return name

    def value(self, name):
        return numpy_helper.to_array(self.known[name])

    def save(self, file):
        """Without what nobody uses."""
        wanted, nodes = {output.name for output in self.graph.output}, []
        for node in reversed(self.graph.node):
            if wanted & set(node.output):
                nodes.append(node)
                wanted |= set(node.input)
        constants = [value for value in self.graph.initializer if value.name in wanted]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(reversed(nodes))
        self.graph.initializer.extend(constants)
        onnx.save(self.model, file)

    def skip_norms(self):
        """Bias, residual sum and norm in one."""
        for norm in [node for node in self.graph.node if node.op_type == "LayerNormalization"]:
            add = self.makers.get(norm.input[0])
            if add is None or add.op_type != "Add" or "result" not in add.input[1]:
                continue
            reshape = self.makers[add.input[1]]
            bias = self.makers[reshape.input[0]]
            tokens = f"{bias.input[0]}.tokens"
            inputs = [tokens, add.input[0], norm.input[1], norm.input[2], bias.input[1]]
            epsilon = next(each.f for each in norm.attribute if each.name == "epsilon")
            made = helper.make_node("SkipLayerNormalization", inputs, [norm.output[0], "", "", add.output[0]], domain="com.microsoft", epsilon=epsilon)
            first = helper.make_node("Reshape", [bias.input[0], reshape.input[1]], [tokens])
            self.replace([bias, reshape, add], [first, made])
            self.replace([norm], [])

    def attention(self):
        """Everything between q, k, v and the last layer of attention in one."""
        names = [f"{part}.{step}" for part in "qkv" for step in ("split", "heads")]
        names += ["scores", "weights", "mixed", "mixed.tokens", "joined"]
        for layer in self.layers:
            own = f"vision.layers.{layer}.attn."
            old = [self.makers[own + name] for name in names]
            scale = next((each.f for each in self.makers[own + "scores"].attribute if each.name == "alpha"), 1.0)
            new, inputs = [], []
            for part in "qkv":
                split = self.makers[f"{own}{part}.split"]
                _, tokens, heads, width = self.value(split.input[1])
                shape = self.constant(f"attention.shape.{tokens}", np.array([-1, tokens, heads * width], np.int64))
                inputs.append(f"{own}{part}.whole")
                new.append(helper.make_node("Reshape", [split.input[0], shape], inputs[-1:]))
            new.append(helper.make_node("MultiHeadAttention", inputs, [own + "joined"], domain="com.microsoft", num_heads=int(heads), scale=scale))
            self.replace(old, new)

    def one_product(self):
        """q, k and v out of one product. The last layer, whose q is of one token, stays."""
        for layer in self.layers[:-1]:
            own = f"vision.layers.{layer}.attn."
            products = [self.makers[f"{own}{part}.columns"] for part in "qkv"]
            rows = [self.makers[f"{own}{part}.product"] for part in "qkv"]
            weight = np.concatenate([self.value(node.input[1]) for node in products], axis=1)
            self.constant(own + "qkv.int8", weight)
            self.constant(own + "qkv.scale", np.concatenate([self.value(node.input[3]) for node in products]))
            sizes = self.constant("qkv.sizes", np.array([weight.shape[1] // 3] * 3, np.int64))
            first = products[0].input
            inputs = [first[0], own + "qkv.int8", first[2], own + "qkv.scale", *first[4:]]
            new = [
                helper.make_node("MatMulIntegerToFloat", inputs, [own + "qkv.columns"], domain="com.microsoft"),
                helper.make_node("Mul", [own + "qkv.columns", rows[0].input[1]], [own + "qkv.product"]),
                helper.make_node("Split", [own + "qkv.product", sizes], [node.output[0] for node in rows], axis=1),
            ]
            # Before the first who uses them.
            place = list(self.graph.node).index(products[0])
            for node in reversed(new):
                self.graph.node.insert(place, node)
            for node in products + rows:
                self.graph.node.remove(node)
            self.look()

    def unpacked(self):
        """8-bit layers as products of floats with unpacked weights: what OpenVINO makes 8-bit inputs for."""
        for node in [node for node in self.graph.node if node.op_type == "MatMulIntegerToFloat"]:
            rows = self.makers[node.input[0]].input[0]
            scaled = next(other for other in self.graph.node if node.output[0] in other.input)
            weight = f"{node.input[1]}.float"
            new = [
                helper.make_node("DequantizeLinear", [node.input[1], node.input[3]], [weight], axis=1),
                helper.make_node("MatMul", [rows, weight], [scaled.output[0]]),
            ]
            self.replace([node, scaled], new)


def openvino(file, batch, **options):
    import openvino as ov

    core = ov.Core()
    model = core.read_model(file)
    model.reshape({model.inputs[0].any_name: [batch, 3, 224, 224]})
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", **options}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda pixels: request.infer([pixels])[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["profile", "fuse", "openvino"])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    if args.what == "profile":
        for file in args.files:
            profile(file, args.batch, args.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        folder, pixels = pathlib.Path(folder), pictures(args.batch)
        runs = {}
        if args.what == "fuse":
            runs["as imported"] = runner(args.files[0])
            for name, change in (("SkipLayerNormalization", Graph.skip_norms), ("MultiHeadAttention", Graph.attention), ("one product for q, k, v", Graph.one_product)):
                graph = Graph(args.files[0])
                change(graph)
                graph.save(folder / "changed.onnx")
                runs[name] = runner(folder / "changed.onnx")
        else:
            fp32, int8 = args.files
            graph = Graph(int8)
            graph.unpacked()
            graph.save(folder / "unpacked.onnx")
            runs["OpenVINO f32"] = openvino(fp32, args.batch)
            runs["OpenVINO bf16"] = openvino(fp32, args.batch, INFERENCE_PRECISION_HINT="bf16")
            for group in (0, 32, 64, 128, 768):
                runs[f"8-bit weights, inputs in groups of {group}"] = openvino(folder / "unpacked.onnx", args.batch, DYNAMIC_QUANTIZATION_GROUP_SIZE=group)
        compare(runs, pixels, args.rounds)


if __name__ == "__main__":
    main()
