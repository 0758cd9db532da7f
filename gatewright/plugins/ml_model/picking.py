"""A request's tensors: picked from its body, headers and query, as the route says; one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from gatewright import ConfigError, Request
from gatewright.plugins.ml_model.options import InputField
from gatewright.plugins.ml_model.tensors import (
    DTYPES,
    Array,
    BadTensorError,
    TensorSpec,
    from_bytes,
    from_json,
)

__all__ = ["Picker"]

_ABSENT: Any = object()
_BOOLS: Final = {"true": True, "1": True, "false": False, "0": False}


class Picker:
    """Makes tensors of requests. Known once the model is open, since the model may tell types and shapes."""

    def __init__(self, inputs: Sequence[InputField], specs: Sequence[TensorSpec]) -> None:
        """Take what the route says and what the model says.

        Raises:
            ConfigError: they don't go together; names the field.
        """
        known = {spec.name: spec for spec in specs}
        self._inputs = [(each, *_form(each, known, f"$.inputs[{number}]")) for number, each in enumerate(inputs)]
        missing = [name for name in known if name not in {each.name for each in inputs}]
        if missing:
            raise ConfigError(f"the model's input {missing[0]!r} comes from nowhere - at `$.inputs`")
        self.needs_body = any(each.source in ("json", "body") for each in inputs)
        self._needs_json = any(each.source == "json" for each in inputs)

    def pick(self, request: Request, body: bytes) -> dict[str, Array]:
        """A request's tensors.

        Raises:
            BadTensorError: something is missing, or isn't what the model takes.
        """
        document = _decoded(body) if self._needs_json else None
        tensors: dict[str, Array] = {}
        lengths: dict[str, int] = {}
        for each, datatype, shape in self._inputs:
            if each.source == "mask":
                continue
            row = self._row(each, datatype, shape, request, body, document)
            lengths[each.name] = row.shape[0] if row.ndim else 0
            tensors[each.name] = _padded(row, each)[np.newaxis]
        for each, datatype, _ in self._inputs:
            if each.source == "mask":
                mask = np.zeros(tensors[each.key].shape[1], DTYPES[datatype])
                mask[: lengths[each.key]] = 1
                tensors[each.name] = mask[np.newaxis]
        return tensors

    def _row(
        self,
        each: InputField,
        datatype: str,
        shape: tuple[int, ...] | None,
        request: Request,
        body: bytes,
        document: Any,
    ) -> Array:
        what = _named(each)
        if each.source == "body":
            if datatype == "BYTES":
                return from_bytes(len(body).to_bytes(4, "little") + body, datatype, shape or (), what)
            if shape is None:
                shape = (len(body) // DTYPES[datatype].itemsize,)
            return from_bytes(body, datatype, shape, what)
        if each.source == "json":
            value = _at(document, each.key)
        else:
            text = (request.headers if each.source == "header" else request.query).get(each.key)
            value = _ABSENT if text is None else _from_text(text, datatype, shape, what)
        if value is _ABSENT or value is None:
            if each.default is None:
                raise BadTensorError(f"{what} is missing")
            value = each.default
        return from_json(value, datatype, shape, what)


def _named(each: InputField) -> str:
    place = {"json": f"`{each.key}` of the body", "body": "the body", "header": f"the header {each.key!r}"}
    return place.get(each.source, f"the argument {each.key!r}")


def _form(each: InputField, known: Mapping[str, TensorSpec], where: str) -> tuple[str, tuple[int, ...] | None]:
    """An input's type and the shape of a row."""
    spec = known.get(each.name)
    if known and spec is None:
        raise ConfigError(f"the model has no input {each.name!r}, but {', '.join(known)} - at `{where}.name`")
    datatype = each.datatype or (spec.datatype if spec else "")
    if datatype not in DTYPES:
        why = f"there is no {datatype!r}" if datatype else "the model doesn't tell it"
        raise ConfigError(f"say the input's type, one of {', '.join(DTYPES)}: {why} - at `{where}.datatype`")
    if spec is not None and datatype != spec.datatype:
        raise ConfigError(f"the model takes {each.name!r} as {spec.datatype} - at `{where}.datatype`")
    if each.shape is not None:
        return datatype, each.shape
    row = spec.shape[1:] if spec is not None else None
    return datatype, row if row is not None and -1 not in row else None


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadTensorError(f"the body is not valid JSON: {error}") from None


def _at(document: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict):
            document = document.get(part, _ABSENT)
        elif isinstance(document, list) and part.isascii() and part.isdecimal() and int(part) < len(document):
            document = document[int(part)]
        else:
            return _ABSENT
    return document


def _from_text(text: str, datatype: str, shape: tuple[int, ...] | None, what: str) -> Any:
    """A header's or an argument's value: one element, or several with commas between them."""
    if datatype == "BYTES":
        return text
    words = text.split(",")
    try:
        if "_" in text:  # Python's own way with large numbers, and nobody else's
            raise ValueError(text)
        if datatype == "BOOL":
            values: list[Any] = [_BOOLS[word.strip().lower()] for word in words]
        else:
            values = list(map(float if datatype.startswith("FP") else int, words))
    except (ValueError, KeyError):
        raise BadTensorError(f"{what} isn't {datatype}: {text[:80]!r}") from None
    return values if len(words) > 1 or shape else values[0]


def _padded(row: Array, each: InputField) -> Array:
    if not each.pad_to:
        return row
    length = row.shape[0] if row.ndim else 0
    size = min((size for size in each.pad_to if size >= length), default=None)
    if size is None or not row.ndim:
        raise BadTensorError(f"{_named(each)} has {length} elements, more than {max(each.pad_to)}")
    fill = b"" if row.dtype == object else each.pad_value
    return np.pad(row, [(0, size - length), *[(0, 0)] * (row.ndim - 1)], constant_values=fill)
