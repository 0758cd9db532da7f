"""Content codings: what is packed comes out whole, damaged or large things don't come out at all."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.plugins._shared.codings import CodingError, codings_of, pack, unpack

BODY = b'{"a": 1}' * 10


@given(st.binary(max_size=300), st.lists(st.sampled_from(["gzip", "x-gzip", "deflate", "br"]), max_size=3))
def test_what_is_packed_is_unpacked(body: bytes, codings: list[str]) -> None:
    assert unpack(pack(body, codings), codings, 1000) == body


def test_codings_are_read_from_all_headers_in_order() -> None:
    assert codings_of(["GZIP, identity", " br ,"]) == ("gzip", "br")


def bare(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(BODY[:9], mtime=0) + gzip.compress(BODY[9:], mtime=0) + b"\0\0\0"),
        ("deflate", bare(BODY)),
        ("deflate", zlib.compress(BODY, 9)),
    ],
    ids=["gzip of several members, padded", "deflate without zlib's frame", "deflate"],
)
def test_forms_that_servers_send(coding: str, packed: bytes) -> None:
    assert unpack(packed, [coding], len(BODY)) == BODY


@pytest.mark.parametrize(
    ("coding", "packed", "why"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)[:-3], "breaks off"),
        ("gzip", b"", "breaks off"),
        ("gzip", gzip.compress(BODY, mtime=0) + b"more", "damaged"),
        ("gzip", b"plain text", "damaged"),
        ("deflate", zlib.compress(BODY)[:-1], "breaks off"),
        ("br", brotli.compress(BODY)[:-1], "breaks off"),
        ("br", b"\xff" * 20, "damaged"),
        ("zip", BODY, "isn't known"),
    ],
)
def test_what_is_damaged_is_refused(coding: str, packed: bytes, why: str) -> None:
    with pytest.raises(CodingError, match=why):
        unpack(packed, [coding], 1000)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_a_bomb_costs_no_more_than_the_limit(coding: str) -> None:
    bomb = pack(bytes(50_000_000), [coding])
    tracemalloc.start()
    try:
        with pytest.raises(CodingError, match="more than 100000 bytes"):
            unpack(bomb, [coding], 100_000)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    exact = pack(bytes(100_000), [coding])
    assert len(unpack(exact, [coding], 100_000)) == 100_000


def test_a_body_packed_over_and_over_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(CodingError, match="4 content codings"):
        unpack(b"", ["gzip"] * 4, 1000)
