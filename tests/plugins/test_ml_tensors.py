"""ml-model's tensors: what fits exactly is taken, all else is refused with a reason."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.plugins.ml_model.oip_messages import (
    HEADER_LENGTH,
    read_request,
    read_response,
    write_request,
    write_response,
)
from gatewright.plugins.ml_model.tensors import (
    DTYPES,
    BadTensorError,
    TensorSpec,
    datatype_of,
    from_bytes,
    from_json,
    to_bytes,
    to_json,
)


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "result"),
    [
        ([1, 2.5], "FP32", [2], np.array([1, 2.5], "f4")),
        ([1, 2, 3, 4], "INT8", [2, 2], np.array([[1, 2], [3, 4]], "i1")),
        ([[1, 2], [3, 4]], "INT64", [4], np.array([1, 2, 3, 4])),
        ([[True], [False]], "BOOL", None, np.array([[True], [False]])),
        (["a", "é\0"], "BYTES", [2], np.array([b"a", "é\0".encode(), None], dtype=object)[:2]),
        (7, "UINT64", [], np.array(7, "u8")),
        ([18446744073709551615], "UINT64", [1], np.array([18446744073709551615], "u8")),
        ([], "FP32", [0, 3], np.zeros((0, 3), "f4")),
    ],
)
def test_json_that_fits(data: Any, datatype: str, shape: Any, result: Any) -> None:
    array = from_json(data, datatype, shape, "x")
    assert array.dtype == result.dtype
    assert array.shape == result.shape
    assert (array == result).all()


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "why"),
    [
        (["1"], "FP32", [1], "something else"),
        ([None], "FP32", [1], "something else"),
        ([1.5], "INT32", [1], "something else"),
        ([True], "INT32", [1], "something else"),
        ([1], "BOOL", [1], "something else"),
        ([{"a": 1}], "FP32", [1], "something else"),
        ([300], "UINT8", [1], "can't hold"),
        ([-1], "UINT64", [1], "can't hold"),
        ([1e39], "FP32", [1], "can't hold"),
        ([10**30], "INT64", [1], "something else|can't hold"),
        ([70000.0], "FP16", [1], "can't hold"),
        ([1, 2], "FP32", [3], "don't fill"),
        ([], "FP32", [10**12], "don't fill"),
        ([1], "FP32", [-1], "no shape"),
        ([1], "FP32", ["1"], "no shape"),
        ([1], "FP32", [True], "no shape"),
        ([1], "FP32", [1] * 40, "no shape"),
        ([[1], [1, 2]], "FP32", None, "of one length"),
        ([["a"], ["b", "c"]], "BYTES", None, "of one length"),
        ([1], "BYTES", [1], "are texts"),
        ([1], "FLOAT", [1], "no data type"),
        ([1], None, [1], "no data type"),
    ],
)
def test_json_that_does_not_fit(data: Any, datatype: Any, shape: Any, why: str) -> None:
    with pytest.raises(BadTensorError, match=why):
        from_json(data, datatype, shape, "x")


@pytest.mark.parametrize(
    ("raw", "datatype", "shape", "why"),
    [
        (b"12345", "FP32", [1], "whole number"),
        (b"12345678", "FP32", [1], "don't fill"),
        (struct.pack("<I", 9) + b"a", "BYTES", [1], "cut off"),
        (b"\0\0", "BYTES", [1], "cut off"),
        (struct.pack("<I", 1) + b"a", "BYTES", [2], "don't fill"),
    ],
)
def test_bytes_that_are_no_tensor(raw: bytes, datatype: str, shape: list[int], why: str) -> None:
    with pytest.raises(BadTensorError, match=why):
        from_bytes(raw, datatype, shape, "x")


@given(st.sampled_from([each for each in DTYPES if each != "BYTES"]), st.binary(max_size=64))
def test_binary_tensors_keep_every_bit(datatype: str, raw: bytes) -> None:
    size = DTYPES[datatype].itemsize
    raw = raw[: len(raw) // size * size]
    if datatype == "BOOL":
        raw = bytes(each & 1 for each in raw)
    assert to_bytes(from_bytes(raw, datatype, [len(raw) // size], "x")) == raw


@given(st.lists(st.binary(max_size=5), max_size=5))
def test_texts_keep_every_byte(texts: list[bytes]) -> None:
    raw = b"".join(struct.pack("<I", len(each)) + each for each in texts)
    array = from_bytes(raw, "BYTES", [len(texts)], "x")
    assert array.tolist() == texts
    assert to_bytes(array) == raw


def test_types_have_the_protocols_names() -> None:
    assert datatype_of(np.zeros(1, ">f4")) == "FP32"
    assert datatype_of(np.array(["a"])) == "BYTES"
    with pytest.raises(BadTensorError, match="complex"):
        datatype_of(np.zeros(1, complex))
    assert to_json(np.array([1.5, np.nan, -np.inf])) == [1.5, None, None]
    assert to_json(np.array([b"a\xff", "é"], dtype=object)) == ["a\ufffd", "é"]


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros((2, 3), "f8"), "is FP32"),
        (np.zeros((2, 4), "f4"), "has the shape"),
        (np.zeros((2,), "f4"), "has the shape"),
    ],
)
def test_a_model_tells_what_it_takes(array: Any, why: str) -> None:
    spec = TensorSpec("x", "FP32", (1, 3))
    spec.check(np.zeros((7, 3), "f4"))
    with pytest.raises(BadTensorError, match=why):
        spec.check(array)


# --- messages

TENSORS = {"x": np.arange(6, dtype="f4").reshape(2, 3), "s": np.array([[b"a"], [b"\xff\0"]], dtype=object)}


@pytest.mark.parametrize("binary", [True, False])
def test_what_is_asked_of_a_server_is_what_it_reads(binary: bool) -> None:
    tensors = TENSORS if binary else {"x": TENSORS["x"]}
    body, headers = write_request(tensors, binary=binary)
    asked = read_request(body, headers.get(HEADER_LENGTH))
    assert {name: array.tolist() for name, array in asked.tensors.items()} == {
        name: array.tolist() for name, array in tensors.items()
    }
    answer, headers = write_response("m", asked.tensors, asked)
    assert (HEADER_LENGTH in headers) is binary
    assert {name: each.tolist() for name, each in read_response(answer, headers.get(HEADER_LENGTH)).items()} == {
        name: array.tolist() for name, array in tensors.items()
    }


def test_an_answer_has_the_outputs_and_forms_that_were_asked_for() -> None:
    asked = read_request(
        json.dumps(
            {
                "id": "7",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}],
                "outputs": [{"name": "b", "parameters": {"binary_data": True}}, {"name": "a"}],
            }
        ).encode(),
        None,
    )
    outputs = {name: np.array([[value]], "f4") for name, value in (("a", 1), ("b", 2), ("c", 3))}
    body, headers = write_response("m", outputs, asked)
    length = int(headers[HEADER_LENGTH])
    assert json.loads(body[:length]) == {
        "model_name": "m",
        "id": "7",
        "outputs": [
            {"name": "b", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}},
            {"name": "a", "datatype": "FP32", "shape": [1, 1], "data": [1.0]},
        ],
    }
    assert body[length:] == struct.pack("<f", 2)
    with pytest.raises(BadTensorError, match="no output 'b'"):
        write_response("m", {"a": outputs["a"]}, asked)


X = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
RAW = {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}


@pytest.mark.parametrize(
    ("document", "tail", "length", "why"),
    [
        ([], b"", None, "JSON object"),
        ({"inputs": 1}, b"", None, "`inputs` is a list"),
        ({"inputs": [1]}, b"", None, "`inputs` is a list"),
        ({"inputs": [X] * 300}, b"", None, "256"),
        ({"inputs": [{**X, "name": ""}]}, b"", None, "has a `name`"),
        ({"inputs": [{**X, "shape": 1}]}, b"", None, "`datatype` and a `shape`"),
        ({"inputs": [{**X, "data": None, "parameters": 1}]}, b"", None, "`parameters`"),
        ({"inputs": [{k: v for k, v in X.items() if k != "data"}]}, b"", None, "neither"),
        ({"inputs": [X, X]}, b"", None, "twice"),
        ({"inputs": [X]}, b"more", "json", "4 bytes behind"),
        ({"inputs": [RAW]}, b"123", "json", "isn't that long"),
        ({"inputs": [{**RAW, "parameters": {"binary_data_size": -1}}]}, b"", "json", "isn't that long"),
        ({"inputs": [X]}, b"", "0", HEADER_LENGTH),
        ({"inputs": [X]}, b"", "1_0", HEADER_LENGTH),
        ({"inputs": [X]}, b"", "99999", HEADER_LENGTH),
        ({"inputs": [X]}, b"", "5", "not valid JSON"),
    ],
)
def test_requests_that_are_none(document: Any, tail: bytes, length: str | None, why: str) -> None:
    head = json.dumps(document).encode()
    with pytest.raises(BadTensorError, match=why):
        read_request(head + tail, str(len(head)) if length == "json" else length)
