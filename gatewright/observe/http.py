"""A small HTTP server for a handful of fixed addresses: h11 for the protocol, asyncio's streams for the socket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import h11

from gatewright.loggers import get_logger

__all__ = ["Answer", "Ask", "Handler", "HttpServer", "json_answer"]

_REQUEST_SECONDS: Final = 5.0
"""For a whole request to come; health checks send theirs at once."""
_IDLE_SECONDS: Final = 30.0
"""Between two requests, and for an answer to be taken."""
_MAX_BODY: Final = 1 << 16
_MAX_CONNECTIONS: Final = 64


@dataclass(frozen=True, slots=True)
class Ask:
    """A request."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    accept: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Handler = Callable[[Ask], Awaitable[Answer]]


def json_answer(content: Any, status: int = 200) -> Answer:
    """An answer in JSON."""
    return Answer(status, json.dumps(content, indent=2, default=str).encode() + b"\n", "application/json")


class HttpServer:
    """Serves handlers by method and path on a listening socket."""

    def __init__(self, sock: socket.socket, handlers: Mapping[tuple[str, str], Handler]) -> None:
        """Make a server.

        Args:
            sock: a bound, listening socket.
            handlers: by method and path; HEAD is answered as GET without the body.
        """
        self._sock = sock
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._tasks: dict[asyncio.Task[Any], bool] = {}
        """Each connection's, in the order of their last requests; whether one is being answered."""

    async def start(self) -> None:
        """Start to serve."""
        start = asyncio.start_unix_server if self._sock.family == socket.AF_UNIX else asyncio.start_server
        self._server = await start(self._serve, sock=self._sock)

    async def move(self, sock: socket.socket) -> None:
        """Accept connections at another socket from now on; those that there are go on."""
        if self._server is not None:
            self._server.close()
        self._sock = sock
        await self.start()

    async def close(self) -> None:
        """Close the socket and all connections."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        if len(self._tasks) >= _MAX_CONNECTIONS and not self._make_room():
            writer.transport.abort()
            return
        self._tasks[task] = False
        connection = h11.Connection(h11.SERVER)
        try:
            again = False
            while await self._serve_one(connection, reader, writer, again=again):
                connection.start_next_cycle()
                again = True
        except (OSError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()  # the client went away or slept, or we are ending
        finally:
            self._tasks.pop(task, None)
            writer.close()

    def _make_room(self) -> bool:
        """End the connection that has been idle longest, so that a health check gets in; `False` if none is."""
        for task, answers in self._tasks.items():
            if not answers:
                del self._tasks[task]
                task.cancel()
                return True
        return False

    def _note(self, *, answers: bool) -> None:
        task = asyncio.current_task()
        if task is not None and self._tasks.pop(task, None) is not None:
            self._tasks[task] = answers

    async def _serve_one(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, again: bool
    ) -> bool:
        """Answer one request, the first or one `again`; tells whether another may follow."""
        try:
            ask = await asyncio.wait_for(_read(connection, reader), _IDLE_SECONDS if again else _REQUEST_SECONDS)
            if ask is None:
                return False
            self._note(answers=True)
            answer = await self._answer(ask)
            self._note(answers=False)  # whether it takes the answer is its own affair
        except h11.RemoteProtocolError as error:
            answer = Answer(error.error_status_hint, f"{error}\n".encode())
            ask = Ask("GET", "")
        if connection.our_state not in (h11.SEND_RESPONSE, h11.IDLE):
            return False
        headers = [("content-type", answer.content_type), ("content-length", str(len(answer.body)))]
        if connection.their_state is h11.ERROR:
            headers.append(("connection", "close"))
        data = connection.send(h11.Response(status_code=answer.status, headers=headers)) or b""
        if ask.method != "HEAD":
            data += connection.send(h11.Data(answer.body)) or b""
        data += connection.send(h11.EndOfMessage()) or b""
        writer.write(data)
        await asyncio.wait_for(writer.drain(), _IDLE_SECONDS)
        return connection.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}

    async def _answer(self, ask: Ask) -> Answer:
        method = "GET" if ask.method == "HEAD" else ask.method
        handler = self._handlers.get((method, ask.path))
        if handler is None:
            known = ", ".join(f"{m} {path}" for m, path in self._handlers)
            wrong_method = any(path == ask.path for _, path in self._handlers)
            return Answer(405 if wrong_method else 404, f"there is: {known}\n".encode())
        try:
            return await handler(ask)
        except Exception as error:
            get_logger("gatewright.http").error("request failed", path=ask.path, exc_info=error)
            return Answer(500, b"failed; the log says why\n")


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> Ask | None:
    ask = None
    size = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(1 << 16))
        elif isinstance(event, h11.Request):
            try:
                target = urlsplit(event.target.decode("latin-1"))
            except ValueError as error:
                raise h11.RemoteProtocolError(f"not a target: {error}") from None
            accept = next((v.decode("latin-1") for n, v in event.headers if n == b"accept"), "")
            ask = Ask(event.method.decode("ascii"), target.path, dict(parse_qsl(target.query)), accept)
        elif isinstance(event, h11.Data):
            size += len(event.data)
            if size > _MAX_BODY:
                raise h11.RemoteProtocolError("the body is too long", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage):
            return ask
        else:
            return None  # closed
