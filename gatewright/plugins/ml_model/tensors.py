"""Tensors as the Open Inference Protocol has them: data types, JSON and binary forms, and numpy arrays for both.

Nothing is bent to fit: a text is no number, 1.5 is no integer, 300 is no UINT8, and a shape holds as many elements as
there are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gatewright import PluginError

__all__ = [
    "DTYPES",
    "Array",
    "BadTensorError",
    "TensorSpec",
    "Tensors",
    "datatype_of",
    "from_bytes",
    "from_json",
    "to_bytes",
    "to_json",
]

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BYTES": np.dtype(object),
}
"""The protocol's data types. (BF16, of which numpy has no notion, is not among them.)"""

_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
_FITTING: Final = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}
"""Which kinds of numbers, as JSON had them, a data type's kind takes."""
_MOST_DIMENSIONS: Final = 16


class BadTensorError(PluginError):
    """What should be a tensor isn't one, or none of this type or shape. Whoever sent it can mend it."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model takes or gives under a name. `shape` has -1 for what varies; the first dimension is the batch's."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def check(self, array: Array) -> None:
        """See that an array is such a tensor.

        Raises:
            BadTensorError: it isn't; says why.
        """
        if datatype_of(array) != self.datatype:
            raise BadTensorError(f"{self.name!r} is {self.datatype}, not {datatype_of(array)}")
        # Not the first one: the batch's rows are put together here.
        wanted, given = self.shape[1:], array.shape[1:]
        if len(array.shape) != len(self.shape) or any(
            fixed not in (-1, size) for fixed, size in zip(wanted, given, strict=True)
        ):
            raise BadTensorError(f"{self.name!r} has the shape {list(self.shape)}, not {list(array.shape)}")


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's type.

    Raises:
        BadTensorError: it has none.
    """
    if array.dtype.kind in "USO":
        return "BYTES"
    try:
        return _NAMES[array.dtype.newbyteorder("<")]
    except KeyError:
        raise BadTensorError(f"the protocol has no data type for {array.dtype}") from None


def _checked_shape(shape: Sequence[Any], what: str) -> tuple[int, ...]:
    if len(shape) > _MOST_DIMENSIONS or any(type(size) is not int or size < 0 for size in shape):
        raise BadTensorError(f"{what}: {list(shape)[:_MOST_DIMENSIONS]!r} is no shape")
    return tuple(shape)


def _dtype(datatype: str, what: str) -> np.dtype[Any]:
    try:
        return DTYPES[datatype]
    except (KeyError, TypeError):
        raise BadTensorError(f"{what}: there is no data type {datatype!r}: use one of {', '.join(DTYPES)}") from None


def from_json(data: Any, datatype: str, shape: Sequence[Any] | None, what: str) -> Array:
    """A tensor from JSON: nested lists, or flat in row-major order.

    Args:
        data: what was decoded.
        datatype: of the protocol.
        shape: how it is arranged; `None`: as it's nested.
        what: its name, for messages.

    Raises:
        BadTensorError: it isn't one of this type and shape.
    """
    dtype = _dtype(datatype, what)
    wanted = None if shape is None else _checked_shape(shape, what)
    array = _texts(data, what) if datatype == "BYTES" else _numbers(data, datatype, dtype, what)
    if wanted is None or array.shape == wanted:
        return array
    if array.size != math.prod(wanted):
        raise BadTensorError(f"{what}: {array.size} elements don't fill the shape {list(wanted)}")
    return array.reshape(wanted)


def _texts(data: Any, what: str) -> Array:
    array = np.array(_as_bytes(data, what), dtype=object)
    if any(not isinstance(each, bytes) for each in array.flat):
        raise BadTensorError(f"{what}: the lists aren't of one length")
    return array


def _as_bytes(data: Any, what: str, depth: int = 0) -> Any:
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, list) and depth < _MOST_DIMENSIONS:
        return [_as_bytes(each, what, depth + 1) for each in data]
    raise BadTensorError(f"{what}: BYTES are texts, in lists")


def _numbers(data: Any, datatype: str, dtype: np.dtype[Any], what: str) -> Array:
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError):
        raise BadTensorError(f"{what}: the lists aren't of one length and depth") from None
    if array.size == 0:
        return array.astype(dtype)
    if array.dtype.kind not in _FITTING[dtype.kind]:
        raise BadTensorError(f"{what}: there is something else among the data than {datatype}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise BadTensorError(f"{what}: {datatype} can't hold all of the data")
        return array.astype(dtype)
    with np.errstate(over="ignore"):
        numbers = array.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(numbers).all():
        raise BadTensorError(f"{what}: {datatype} can't hold all of the data")
    return numbers


def from_bytes(raw: bytes, datatype: str, shape: Sequence[Any], what: str) -> Array:
    """A tensor from its binary form: row-major, little-endian; BYTES have a length of four bytes before each.

    Raises:
        BadTensorError: it isn't one of this type and shape.
    """
    dtype, wanted = _dtype(datatype, what), _checked_shape(shape, what)
    count = math.prod(wanted)
    if datatype == "BYTES":
        array = np.array([None, *_split(raw, what)], dtype=object)[1:]  # else numpy makes NULs at the end go
        size = len(array)
    else:
        size, rest = divmod(len(raw), dtype.itemsize)
        if rest:
            raise BadTensorError(f"{what}: {len(raw)} bytes are no whole number of {datatype}")
        array = np.frombuffer(raw, dtype)
    if size != count:
        raise BadTensorError(f"{what}: {size} elements don't fill the shape {list(wanted)}")
    return array.reshape(wanted)


def _split(raw: bytes, what: str) -> list[bytes]:
    items, at = [], 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if at + 4 > len(raw) or end > len(raw):
            raise BadTensorError(f"{what}: the last of the BYTES is cut off")
        items.append(raw[at + 4 : end])
        at = end
    return items


def _plain_bytes(each: object) -> bytes:
    return each if isinstance(each, bytes) else str(each).encode("utf-8", "surrogateescape")


def to_bytes(array: Array) -> bytes:
    """A tensor's binary form."""
    if array.dtype.kind in "USO":
        items = (_plain_bytes(each) for each in array.flat)
        return b"".join(struct.pack("<I", len(item)) + item for item in items)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def to_json(array: Array) -> list[Any]:
    """A tensor's elements, flat; texts as UTF-8; what is no finite number is `None`, since JSON has none of these."""
    flat: list[Any] = array.reshape(-1).tolist()
    if array.dtype.kind in "USO":
        return [_plain_bytes(each).decode("utf-8", "replace") for each in flat]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return [each if math.isfinite(each) else None for each in flat]
    return flat
