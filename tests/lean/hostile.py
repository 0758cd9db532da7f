"""A runner that takes configurations and then answers nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from gatewright.gateways.lean.frames import PREFACE, FrameBuffer, Kind, encode_frame

Answer = Callable[[int, random.Random], bytes]


def frame(id: int, *fields: bytes | None, kind: int = Kind.REQUEST, flags: int = 0, argument: int = 0) -> bytes:
    return encode_frame(kind, id, fields, flags=flags, argument=argument)


def with_word(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


NONSENSE: dict[str, Answer] = {
    "nothing": lambda _id, _chance: b"",
    "random bytes": lambda _id, chance: b"\xff" + chance.randbytes(chance.randint(1, 300)),
    "half a head": lambda call, _: frame(call)[:7],
    "half a frame": lambda call, _: frame(call, b"H", b"x-checked", b"yes")[:-1],
    "another call's": lambda call, _: frame(call + 1),
    "a configuration's": lambda call, _: frame(call, None, None, None, b"0", kind=Kind.PREPARE),
    "a response's": lambda call, _: frame(call, kind=Kind.RESPONSE),
    "an unknown kind": lambda call, _: frame(call, kind=99),
    "too long": lambda call, _: with_word(frame(call, b"H", b"x-checked", b"yes"), 0, 0xFFFFFFFF),
    "too short": lambda call, _: with_word(frame(call, b"H", b"x-checked", b"yes"), 0, 13),
    "a field beyond the frame": lambda call, _: with_word(frame(call, b"H", b"x-checked", b"yes"), 20, 0x7FFFFFFF),
    "a field shorter than it was": lambda call, _: with_word(frame(call, b"H", b"x-checked", b"yes"), 20, 1),
    "too many fields": lambda call, _: with_word(frame(call, b"H", b"x"), 4, 3 | 0xFFFF << 16),
    "an operation without fields": lambda call, _: frame(call, b"H"),
    "a header without a value": lambda call, _: frame(call, b"H", b"x-checked"),
    "a value without a header": lambda call, _: frame(call, b"h", b"x-checked", b"yes"),
    "an unknown operation": lambda call, _: frame(call, b"z", b"x"),
    "a question that is none": lambda call, _: frame(call, kind=Kind.ASK),
    "an error": lambda call, _: frame(call, b"no", kind=Kind.ERROR, argument=2),
    "an error of the connection": lambda _id, _: frame(0, b"no", kind=Kind.ERROR, argument=1),
    "unknown, again and again": lambda call, _: frame(call, b"", kind=Kind.ERROR, argument=3),
}


class HostileRunner:
    """Listens until it is stopped; `answer` is what it says to each request."""

    def __init__(self, socket: Path) -> None:
        self.answer: Answer = NONSENSE["nothing"]
        self.early: Answer = NONSENSE["nothing"]
        """What it says to a response that has not come."""
        self.closes = True
        """Whether it mostly closes the connection on which it has answered."""
        self.requests = 0
        self._socket = socket
        self._chance = random.Random(0)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._ready.wait()

    def _run(self) -> None:
        async def serve() -> None:
            server = await asyncio.start_unix_server(self._serve, self._socket)
            self._socket.chmod(0o666)
            self._stop = asyncio.Event()
            self._ready.set()
            await self._stop.wait()
            server.close()

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(serve())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer = FrameBuffer()
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            assert await reader.readexactly(4) == PREFACE
            while data := await reader.read(1 << 16):
                for kind, _, id, argument, _ in buffer.feed(data):
                    if kind == Kind.HELLO:
                        writer.write(frame(id, b"1", b"1", kind=Kind.HELLO, argument=1))
                    elif kind == Kind.PREPARE:
                        early = b"early,path" if argument & 2 else None
                        writer.write(frame(id, b"path", early, None, b"500", kind=Kind.PREPARE, argument=7))
                    elif kind == Kind.RESPONSE:
                        writer.write(self.early(id, self._chance))
                    elif kind == Kind.REQUEST:
                        self.requests += 1
                        said = self.answer(id, self._chance)
                        writer.write(said)
                        if self.closes and self._chance.random() < 0.9:
                            await writer.drain()
                            writer.close()
                            return
        writer.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        Path(self._socket).unlink(missing_ok=True)  # from Python 3.13 on the server has done it
