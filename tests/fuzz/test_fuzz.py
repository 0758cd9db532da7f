"""A short run of each fuzzer, so that they don't rot; `python -m tests.fuzz.NAME` runs them at length."""

from __future__ import annotations

import random

from gatewright.errors import ProtocolError
from gatewright.gateways.lean.frames import Kind, encode_frame
from gatewright.gateways.lean.gateway_side import GatewaySession
from tests.fuzz import lean_session

FROM_THE_RUNNER = (
    encode_frame(Kind.HELLO, 0, (b"2", b"67108864"), argument=1),
    encode_frame(Kind.PREPARE, 1, (b"path", None, b"status", b"500"), argument=9),
    encode_frame(Kind.REQUEST, 2, (b"NHhdSb", b"path", b"x-a", b"1", b"x-a", b"2", b"x-b", b"403", None), flags=1),
    encode_frame(Kind.RESPONSE, 3, (b"Rxa", b"x-a", b"1", b"x-b", b"x-c", b"2")),
    encode_frame(Kind.PART, 2, (b"part",)),
    encode_frame(Kind.ASK, 2, (b"h:x",), argument=1),
    encode_frame(Kind.ERROR, 4, (b"no",), argument=2),
    encode_frame(Kind.LEAVE, 0),
)


def test_the_lean_session() -> None:
    tally = lean_session.fuzz(4000, seed=1)
    assert tally.refused > 100
    assert tally.calls > 100
    assert set(tally.kinds) == {
        "Hello", "Prepared", "LeanRequestCall", "LeanResponseCall", "Logged", "Told",
    }  # fmt: skip


def test_the_gateways_side_of_it() -> None:
    chance, seen, refused = random.Random(1), set(), 0
    for _ in range(1500):
        session = GatewaySession()
        try:
            for _ in range(4):
                seen |= {type(event).__name__ for event in session.receive_data(
                    lean_session.spoiled(chance, FROM_THE_RUNNER)
                )}  # fmt: skip
        except ProtocolError:
            refused += 1
    assert refused > 100
    assert seen == {"Greeted", "Token", "Answered", "Asked", "Refused", "Left"}
