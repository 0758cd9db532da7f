"""The Open Inference Protocol's messages over HTTP: JSON, with tensors in it or, in their binary form, behind it.

Both directions: what this plugin sends to a model server and gets from it, and what clients send to this plugin and get
from it. (The protocol: KServe's "Open Inference Protocol" and its extension for binary tensor data.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gatewright.plugins.ml_model.tensors import (
    Array,
    BadTensorError,
    Tensors,
    datatype_of,
    from_bytes,
    from_json,
    to_bytes,
    to_json,
)

__all__ = ["HEADER_LENGTH", "InferenceRequest", "read_request", "read_response", "write_request", "write_response"]

HEADER_LENGTH: Final = "inference-header-content-length"
"""The header that tells how long the JSON before binary tensors is."""
_MOST_TENSORS: Final = 256


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What a client asks."""

    tensors: Tensors
    id: str
    outputs: Sequence[str]
    """Those it wants; all, where it says nothing."""
    binary: Mapping[str, bool]
    binary_default: bool

    def wants_binary(self, name: str) -> bool:
        """Whether an output is to be sent in its binary form."""
        return self.binary.get(name, self.binary_default)


def read_request(body: bytes, header_length: str | None) -> InferenceRequest:
    """A request of a client's.

    Args:
        body: as it came.
        header_length: its header of that name.

    Raises:
        BadTensorError: it isn't one; says why.
    """
    document, binary = _parts(body, header_length)
    outputs, defaults = _list(document, "outputs"), _parameters(document)
    names = [_name(each) for each in outputs]
    wanted = {name: _parameters(each).get("binary_data") for name, each in zip(names, outputs, strict=True)}
    return InferenceRequest(
        _tensors(_list(document, "inputs"), binary, "inputs"),
        str(document.get("id", "")),
        names,
        {name: bool(value) for name, value in wanted.items() if value is not None},
        bool(defaults.get("binary_data_output", False)),
    )


def write_response(model: str, tensors: Tensors, asked: InferenceRequest | None = None) -> tuple[bytes, dict[str, str]]:
    """A client's answer: body and headers."""
    wanted = (asked.outputs if asked else ()) or tuple(tensors)
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise BadTensorError(f"there is no output {missing[0]!r}, but {', '.join(map(repr, tensors))}")
    document: dict[str, Any] = {"model_name": model}
    if asked is not None and asked.id:
        document["id"] = asked.id
    outputs, tail = [], []
    for name in wanted:
        described, raw = _described(name, tensors[name], asked is not None and asked.wants_binary(name))
        outputs.append(described)
        tail.append(raw)
    document["outputs"] = outputs
    return _joined(document, b"".join(tail))


def write_request(tensors: Tensors, *, binary: bool) -> tuple[bytes, dict[str, str]]:
    """A question to a model server: body and headers."""
    described = [_described(name, array, binary) for name, array in tensors.items()]
    document: dict[str, Any] = {"inputs": [item for item, _ in described]}
    if binary:
        document["parameters"] = {"binary_data_output": True}
    return _joined(document, b"".join(raw for _, raw in described))


def read_response(body: bytes, header_length: str | None) -> Tensors:
    """A model server's answer.

    Raises:
        BadTensorError: it isn't one.
    """
    document, binary = _parts(body, header_length)
    return _tensors(_list(document, "outputs"), binary, "outputs")


def _parts(body: bytes, header_length: str | None) -> tuple[dict[str, Any], memoryview]:
    length = len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdecimal() or not 0 < int(header_length) <= length:
            raise BadTensorError(f"{HEADER_LENGTH} is {header_length[:20]!r}, and the body has {length} bytes")
        length = int(header_length)
    try:
        document = msgspec.json.decode(body[:length])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadTensorError(f"not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadTensorError("the body is a JSON object, with `inputs`")
    return document, memoryview(body)[length:]


def _list(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    items = document.get(name, [])
    if not isinstance(items, list) or len(items) > _MOST_TENSORS or any(not isinstance(each, dict) for each in items):
        raise BadTensorError(f"`{name}` is a list of {_MOST_TENSORS} objects at most")
    return items


def _name(item: Mapping[str, Any]) -> str:
    name = item.get("name")
    if not isinstance(name, str) or not name:
        raise BadTensorError("each tensor has a `name`")
    return name


def _parameters(item: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = item.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadTensorError("`parameters` are an object")
    return parameters


def _tensors(items: Sequence[Mapping[str, Any]], binary: memoryview, where: str) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    at = 0
    for item in items:
        name, datatype, shape = _name(item), item.get("datatype"), item.get("shape")
        if not isinstance(datatype, str) or not isinstance(shape, list):
            raise BadTensorError(f"{name!r} needs a `datatype` and a `shape`")
        if name in tensors:
            raise BadTensorError(f"{name!r} is there twice")
        size = _parameters(item).get("binary_data_size")
        if size is not None:
            if type(size) is not int or size < 0 or at + size > len(binary):
                raise BadTensorError(f"{name!r} has `binary_data_size` {size!r}: the body isn't that long")
            tensors[name] = from_bytes(bytes(binary[at : at + size]), datatype, shape, name)
            at += size
        elif "data" in item:
            tensors[name] = from_json(item["data"], datatype, shape, name)
        else:
            raise BadTensorError(f"{name!r} has neither `data` nor `binary_data_size`")
    if at != len(binary):
        raise BadTensorError(f"there are {len(binary) - at} bytes behind the {where}")
    return tensors


def _described(name: str, array: Array, binary: bool) -> tuple[dict[str, Any], bytes]:
    described: dict[str, Any] = {"name": name, "datatype": datatype_of(array), "shape": list(array.shape)}
    if binary:
        raw = to_bytes(array)
        described["parameters"] = {"binary_data_size": len(raw)}
        return described, raw
    described["data"] = to_json(array)
    return described, b""


def _joined(document: Mapping[str, Any], tail: bytes) -> tuple[bytes, dict[str, str]]:
    head = msgspec.json.encode(document)
    if not any("parameters" in each for each in document.get("inputs", document.get("outputs", ()))):
        return head, {"content-type": "application/json"}
    return head + tail, {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
