"""Small real models, made where they are needed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["bag_of_words", "classifier", "perceptron", "weights"]


def weights(*shape: int, seed: int = 7) -> Any:
    return np.random.default_rng(seed).normal(0, 1 / np.sqrt(shape[0]), shape).astype("f4")


def _save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, Any]) -> Path:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def perceptron(path: Path, sizes: list[int], rows: int | None = None) -> Path:
    """`x` -> layers with ReLU -> `y`."""
    nodes, constants, before = [], {}, "x"
    for number, (wide, next_wide) in enumerate(itertools.pairwise(sizes)):
        is_last = number == len(sizes) - 2
        constants[f"w{number}"] = weights(wide, next_wide, seed=number)
        nodes.append(helper.make_node("MatMul", [before, f"w{number}"], ["y" if is_last else f"m{number}"]))
        if not is_last:
            nodes.append(helper.make_node("Relu", [f"m{number}"], [f"r{number}"]))
            before = f"r{number}"
    first = "n" if rows is None else rows
    return _save(
        path,
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [first, sizes[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [first, sizes[-1]])],
        constants,
    )


def classifier(path: Path) -> Path:
    """`amount` (FP32, one number) and `country` (text) -> `score`: the amount over 100, 1 more from 'zz'; `kind`."""
    nodes = [
        helper.make_node("Div", ["amount", "hundred"], ["relative"]),
        helper.make_node("LabelEncoder", ["country"], ["abroad"], domain="ai.onnx.ml", keys_strings=["zz"],
                         values_floats=[1.0], default_float=0.0),
        helper.make_node("Add", ["relative", "abroad"], ["score"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("amount", TensorProto.FLOAT, ["n", 1]),
            helper.make_tensor_value_info("country", TensorProto.STRING, ["n", 1]),
        ],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.array(100, "f4"), "hundred")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(path))
    return path


def bag_of_words(path: Path) -> Path:
    """`ids` (INT64, any length) and `mask` -> `mean`: the mean of the ids that count."""
    nodes = [
        helper.make_node("Mul", ["ids", "mask"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "one"], ["sum"], keepdims=1),
        helper.make_node("ReduceSum", ["mask", "one"], ["length"], keepdims=1),
        helper.make_node("Cast", ["sum"], ["sum_f"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["length"], ["length_f"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["sum_f", "length_f"], ["mean"]),
    ]
    ints = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in ("ids", "mask")]
    out = [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["n", 1])]
    return _save(path, nodes, ints, out, {"one": np.array([1], "i8")})
