#!/usr/bin/env python3
"""Checks model directories that `vtagd model import` wrote with ONNX's own checker, and tells which operators they use.

Needs: onnx. Usage: check_onnx.py DIR...
"""
import collections
import pathlib
import sys

import onnx

for folder in map(pathlib.Path, sys.argv[1:]):
    for name in ("vision_model.onnx", "text_model.onnx"):
        file = folder / name
        model = onnx.load(file, load_external_data=False)
        contrib = any(o.domain == "com.microsoft" for o in model.opset_import)
        # The checker does not know the shapes of ONNX Runtime's own operators.
        onnx.checker.check_model(str(file), full_check=not contrib)
        operators = collections.Counter(node.op_type for node in model.graph.node)
        print(f"{file}: ok, {dict(operators.most_common())}")
