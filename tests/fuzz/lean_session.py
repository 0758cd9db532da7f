"""`python -m tests.fuzz.lean_session --inputs 5000000`: hostile gateways against the lean protocol's session.

An input is one frame of a conversation, right, spoiled in a few bytes, cut, joined to another, or random. Whatever
comes, the session gives events or raises `ProtocolError`, holds no more than its limit, and what can be read of a call
can be answered with a frame that its own reader takes. One seed gives the same inputs everywhere.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from gatewright.errors import GatewrightError, ProtocolError
from gatewright.gateways.lean.calls import LeanRequestCall, LeanResponseCall
from gatewright.gateways.lean.frames import PREFACE, FrameBuffer, Kind, encode_frame
from gatewright.gateways.lean.needs import ALL_OF_REQUEST, Learner
from gatewright.gateways.lean.replies import request_answer, response_answer
from gatewright.gateways.lean.session import LeanSession, Logged
from gatewright.http import Response

MAX_SIZE = 5000
LONGEST_INPUT = 400
ASKED = 5
HEADERS = b"host:h\ncookie:a=b\nx-forwarded-for:1.2.3.4\nx:\xff\x00"
CONVERSATION = (
    encode_frame(Kind.HELLO, 1, (b"nginx",), argument=1),
    encode_frame(Kind.PREPARE, 2, (b"route", b"greet", b"{}", b"auth", b'{"a": 1}'), argument=7),
    encode_frame(
        Kind.REQUEST, 3, (b"method,path,query,ip,ctx,consumer,headers", b"GET", b"/", b"a=1&b", b"1.2.3.4", b"\x80",
                          None, HEADERS), argument=9,
    ),
    encode_frame(Kind.REQUEST, 4, (b"h:cookie,h:x,body", b"a=b", None, b"body"), argument=9),
    encode_frame(Kind.RESPONSE, 5, (b"status,rheaders,headers", b"200", b"a:b", HEADERS), argument=9),
    encode_frame(Kind.RESPONSE, 6, (b"early,path", b"", b"/"), argument=9),
    encode_frame(Kind.LOG, 7, (b"status,rheaders,v:bytes_sent", b"200", b"a:b", b"12"), argument=9),
    encode_frame(Kind.PART, 3, (b"part",), argument=ASKED),
    encode_frame(Kind.ASK, 3, (b"told",), argument=ASKED),
)  # fmt: skip


@dataclass
class Tally:
    """What became of the inputs."""

    inputs: int = 0
    refused: int = 0
    calls: int = 0
    kinds: dict[str, int] = field(default_factory=dict)


class Silent:
    """A gateway that has nothing to tell."""

    def tell(self, id: int, name: str) -> bytes | None:
        return None


def spoiled(chance: random.Random, conversation: Sequence[bytes] = CONVERSATION) -> bytes:
    """One input."""
    data = bytearray(chance.choice(conversation))
    what = chance.random()
    if what < 0.05:
        return chance.randbytes(chance.randint(0, 60))
    if what < 0.15:
        data += chance.choice(conversation)
    for _ in range(chance.choice((0, 0, 1, 1, 2, 4))):
        data[chance.randrange(len(data))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    if what > 0.9:
        del data[chance.randrange(len(data)) :]
    return bytes(data)


def look_at(call: LeanRequestCall | LeanResponseCall, learner: Learner, chance: random.Random) -> None:
    """Read all of a call, change something, and answer it."""
    source = call.source
    source.note = learner.note
    source.teller = Silent()
    try:
        for get in (
            lambda: (source.method, source.path, source.raw_query, source.src_ip, source.read_args()),
            lambda: (list(call.headers), call.headers.get("x"), call.headers.get_all("cookie")),
            lambda: (call.ctx, call.consumer),
            lambda: isinstance(call, LeanResponseCall) and call.response_headers.get("a"),
        ):
            if chance.random() < 0.7:
                get()
        call.headers.add("x-new", "1")
        if isinstance(call, LeanResponseCall):
            call.response_headers["x-new"] = "2"
            frame = response_answer(call, learner.after_call(source.plan))
        else:
            response = Response(403, body=b"no") if chance.random() < 0.3 else None
            frame = request_answer(call, response, learner.after_call(source.plan))
    except GatewrightError:
        return  # a refusal in words
    ((_, _, id, _, fields),) = FrameBuffer().feed(frame)
    assert id == source.id
    assert fields


def fuzz(inputs: int, seed: int) -> Tally:
    """Feed so many inputs.

    Raises:
        AssertionError: the session holds more than it may, or can't read its own answer.
        Exception: anything but `ProtocolError` came out of it.
    """
    chance = random.Random(seed)
    tally = Tally()
    learner = Learner(ALL_OF_REQUEST)
    while tally.inputs < inputs:
        session = LeanSession(max_size=MAX_SIZE)
        session.asked.add(ASKED)
        if chance.random() < 0.99:
            session.receive_data(PREFACE)
        try:
            for _ in range(chance.randint(1, 12)):
                tally.inputs += 1
                for event in session.receive_data(spoiled(chance)):
                    kind = type(event).__name__
                    tally.kinds[kind] = tally.kinds.get(kind, 0) + 1
                    call = event.call if isinstance(event, Logged) else event
                    if isinstance(call, LeanRequestCall | LeanResponseCall):
                        tally.calls += 1
                        look_at(call, learner, chance)
                assert session.buffered <= MAX_SIZE + 12 * LONGEST_INPUT
        except ProtocolError as error:
            assert str(error)
            tally.refused += 1
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    tally = fuzz(arguments.inputs, arguments.seed)
    print(
        f"{tally.inputs} inputs in {time.monotonic() - began:.0f} s: {tally.refused} connections refused, "
        f"{tally.calls} calls read and answered, events {tally.kinds}"
    )


if __name__ == "__main__":
    main()
