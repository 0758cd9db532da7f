"""Frames of the lean path, and what calls bring, are the same in C and in Python, whatever comes."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.built import brought as built
from gatewright.errors import ProtocolError
from gatewright.gateways.lean import calls, frames
from gatewright.gateways.lean.frames import Kind, encode_frame
from tests.gateways.pure import again
from tests.growth import growth

_LEAN = "gatewright.gateways.lean"
_, plain_frames, _, plain_calls = again(
    "gatewright.built", f"{_LEAN}.frames", f"{_LEAN}._which_brought", f"{_LEAN}.calls"
)
needs_c = pytest.mark.skipif(built is None, reason="nothing was built in C: no compiler was there")
FIELDS: list[list[bytes | None]] = [
    [], [b""], [None], [b"h:host,path", b"shop", b"/a"], [b"h:host,h:x-none", b"", None], [b"x"] * 40,
]  # fmt: skip


def fed(module: Any, pieces: list[bytes], most: int) -> list[Any]:
    """All that comes of data in pieces."""
    buffer = module.FrameBuffer(most)
    told: list[Any] = []
    for piece in pieces:
        try:
            told.append((buffer.feed(piece), buffer.buffered))
        except ProtocolError as error:
            return [*told, str(error)]
    return told


@needs_c
def test_they_are_two() -> None:
    assert calls.LeanSource.__mro__[1] is not plain_calls.LeanSource.__mro__[1]
    assert plain_frames.brought is None


@given(
    st.lists(st.tuples(st.integers(0, len(FIELDS) - 1), st.integers(0, 255), st.integers(0, 2**32 - 1)), max_size=6),
    st.lists(st.integers(0, 300), max_size=4),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=3),
    st.sampled_from((1 << 20, 60)),
)
@settings(max_examples=500)
def test_frames_are_taken_apart_alike(
    sent: list[tuple[int, int, int]], cuts: list[int], spoilt: list[tuple[int, int]], most: int
) -> None:
    data = bytearray(
        b"".join(encode_frame(Kind.REQUEST, id, FIELDS[which], flags=flags, argument=id) for which, flags, id in sent)
    )
    for at, byte in spoilt:
        if at < len(data):
            data[at] = byte
    places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    pieces = [bytes(data[a:b]) for a, b in pairwise(places)]
    assert fed(frames, pieces, most) == fed(plain_frames, pieces, most)


def test_frames_of_anything_are_taken_apart_alike() -> None:
    chance = random.Random(7)
    for _ in range(20_000):
        data = chance.randbytes(chance.randint(0, 60))
        if chance.random() < 0.7:  # a size that may be right
            data = chance.choice((12, 16, len(data), 40)).to_bytes(4, "little") + data
        assert fed(frames, [data], 1 << 20) == fed(plain_frames, [data], 1 << 20), data.hex()


class Teller:
    """Tells what was not brought."""

    def tell(self, source: Any, name: str) -> bytes | None:
        return {"h:absent": None, "h:more": b"1\n2", "headers": b"host:shop\nX-Some:1\nx-some:2\nx-empty:"}.get(name)


PLANS = (
    ("h:host", "h:x-none", "h:x-many", "h:x-latin"), ("headers",), ("headers", "h:host"), ("path",), (),
)  # fmt: skip
BROUGHT: dict[str, bytes | None] = {
    "h:host": b"shop", "h:x-none": None, "h:x-many": b"1\n2", "h:x-latin": b"caf\xe9", "path": b"/a",
    "headers": b"host:shop\nX-Some:1\nx-some:2\nx-empty:",
}  # fmt: skip
LOOKS: dict[str, Any] = {
    "in": lambda headers, name: name in headers,
    "get": lambda headers, name: headers.get(name, "none"),
    "item": lambda headers, name: headers[name],
    "all": lambda headers, name: headers.get_all(name),
    "set": lambda headers, name: headers.__setitem__(name, "new"),
    "add": lambda headers, name: headers.add(name, "more"),
    "del": lambda headers, name: headers.__delitem__(name),
    "list": lambda headers, _: headers.multi_items(),
    "copy": lambda headers, name: headers.copied().get(name),
}
NAMES = ("host", "Host", "x-none", "x-many", "x-latin", "absent", "more", "x-some", "x-empty", "a b", "", None)


def looked_at(module: Any, plan: tuple[str, ...], looks: list[tuple[str, Any]]) -> list[Any]:
    source = module.LeanSource(7, [",".join(plan).encode(), *(BROUGHT[name] for name in plan)])
    noted: set[str] = set()
    source.note, source.teller = noted.add, Teller()
    call = module.LeanRequestCall(source, 3)
    told: list[Any] = [source.id, source.plan, dict(source.index), source.brings("path"), call.conf_token]
    for what, name in looks:
        try:
            told.append(LOOKS[what](call.headers, name))
        except Exception as error:
            told.append((type(error), str(error)))
        told.append(dict(call.headers.changes))
    return [*told, call.header_changes(), {name for name in noted if name not in plan}]


@given(
    st.sampled_from(PLANS),
    st.lists(st.tuples(st.sampled_from(sorted(LOOKS)), st.sampled_from(NAMES)), max_size=7),
)
@settings(max_examples=500)
def test_headers_are_looked_at_alike(plan: tuple[str, ...], looks: list[tuple[str, Any]]) -> None:
    """And what is learnt of a look is the same, but for what was brought for itself."""
    assert looked_at(calls, plan, looks) == looked_at(plain_calls, plan, looks)


@pytest.mark.parametrize(
    "fields", [[], [None], [b"path"], [b"path", b"/", b"?"], [b"\xff", b"x"], [b"a," * 5000, b"x"]]
)
def test_what_a_call_cannot_bring_is_refused_in_the_same_words(fields: list[bytes | None]) -> None:
    said = []
    for module in (calls, plain_calls):
        with pytest.raises(ProtocolError) as refused:
            module.LeanSource(7, fields)  # type: ignore[attr-defined]
        said.append(str(refused.value))
    assert said[0] == said[1]


@needs_c
def test_nothing_is_left_behind() -> None:
    frame = encode_frame(Kind.REQUEST, 1, [b"h:host", b"shop"], argument=3)

    def look(prefix: str) -> None:
        for number in range(1500):
            buffer = frames.FrameBuffer(200)
            for data in (frame * 2 + frame[:9], frame[:5] + b"\xff" * 30):
                try:
                    buffer.feed(data)
                except ProtocolError:
                    break
            plan = f"h:{prefix}-{number}".encode()
            source = calls.LeanSource(7, [plan, b"value"])
            source.note, source.teller = source.look_for, Teller()  # type: ignore[assignment]  # a circle
            call = calls.LeanRequestCall(source, 3)
            assert call.headers.get(f"{prefix}-{number}") == "value"

    assert growth(look, calls.LeanSource, calls.LeanRequestCall, frame) < 300_000, (
        "of some 600 bytes for each plan and name, those of one round may be kept"
    )
