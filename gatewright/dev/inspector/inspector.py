"""Follows every request through a development gateway, and joins what the runner tells to what the gateway knows."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TextIO

from gatewright.dev.answers import response_head, with_page
from gatewright.dev.front import Handler
from gatewright.dev.inspector.book import Book
from gatewright.dev.inspector.configs import Schemas
from gatewright.dev.inspector.receiving import Receiver
from gatewright.dev.inspector.records import as_line, record_of, redacted
from gatewright.dev.messages import Answer, ClientRequest, Upload
from gatewright.dev.trail import TRAIL, Phase, Trail, body_form
from gatewright.errors import ConfigError
from gatewright.redaction import redact
from gatewright.runtime.records import CallRecord

__all__ = ["Inspector"]

_LATE_SECONDS: Final = 0.25
"""How long a call is held back from the list for what the runner tells of it."""
_FINAL_SECONDS: Final = 10.0
"""How long the runner, and a log phase, may take to tell the rest."""


class Inspector:
    """Follows requests.

    Attributes:
        book: the records.
        receiver: hears what runners tell.
        outcomes: by plugin and outcome, how often it was seen and the last reason.
        schemas: of plugins' configurations, to know what in them is secret.
    """

    def __init__(
        self,
        gateway: Mapping[str, str],
        *,
        server_header: str,
        charset: bool,
        file: Path | None = None,
        book: Book | None = None,
    ) -> None:
        """Make one.

        Args:
            gateway: what the gateway is: `name` (`apisix` or `kong`), `version`.
            server_header: what it calls itself.
            charset: see `answers.response_head`.
            file: also write each record there, without secrets, a line each.
            book: where records are kept; by default a new one.

        Raises:
            ConfigError: the file can't be written.
        """
        self.gateway = dict(gateway)
        self._server_header, self._charset = server_header, charset
        self.book = book if book is not None else Book()
        self.receiver = Receiver(self._on_record)
        self._file = _opened(file) if file is not None else None
        self._numbers = itertools.count(1)
        self._waiting: dict[tuple[str, int], tuple[Trail, Phase]] = {}
        self._unfinished: dict[int, Trail] = {}
        self._replays: dict[int, tuple[int, asyncio.Future[int]]] = {}
        self._shown: dict[int, asyncio.Future[int]] = {}
        self.outcomes: dict[str, dict[str, tuple[int, str]]] = {}
        self.schemas = Schemas()
        self._notes = _Notes()
        logging.getLogger("gatewright.dev").addHandler(self._notes)

    def close(self) -> None:
        """Write down what is still unfinished, and stop."""
        logging.getLogger("gatewright.dev").removeHandler(self._notes)
        for trail in list(self._unfinished.values()):
            self._finish(trail)
        if self._file is not None:
            self._file.close()

    def watch(self, handler: Handler) -> Handler:
        """A gateway's handler, followed."""

        async def watched(request: ClientRequest) -> Answer:
            trail = Trail(next(self._numbers), request)
            trail.on_ticket, trail.on_end = self._expect, self._look
            replay = self._replays.pop(request.client_port, None)
            if replay is not None:
                trail.replay_of, self._shown[trail.number] = replay
            TRAIL.set(trail)  # each request is a task of its own
            try:
                answer = await handler(_noting_body(request, trail))
                trail.answer = _shown(answer, request, self._server_header, charset=self._charset)
                return answer
            except Exception as error:
                trail.note("error", f"the development gateway failed: {type(error).__name__}: {error}")
                raise
            finally:
                trail.seconds = trail.now()
                self._unfinished[trail.number] = trail
                self._look(trail)
                loop = asyncio.get_running_loop()
                if trail.number in self._unfinished:
                    loop.call_later(_LATE_SECONDS, self._show, trail)
                    loop.call_later(_FINAL_SECONDS, self._finish, trail)

        return watched

    def expect_replay(self, client_port: int, of: int) -> asyncio.Future[int]:
        """The next request from a port is a replay; gives the number of its record once there is one.

        Args:
            client_port: the port.
            of: what it repeats.
        """
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._replays[client_port] = of, future
        return future

    def _expect(self, trail: Trail, phase: Phase, before: tuple[str, int] | None) -> None:
        if before is not None:  # the gateway tries again, and is told of that
            self._waiting.pop(before, None)
        if phase.ticket is not None:
            self._waiting[phase.ticket] = trail, phase

    def _on_record(self, record: CallRecord) -> None:
        name = record.route.partition("#")[0] if self.gateway["name"] == "kong" else ""
        # Over the lean path a number is enough, on Kong, too.
        found = self._waiting.pop((name, record.key), None) or self._waiting.pop(("", record.key), None)
        if found is not None:
            trail, phase = found
            phase.record = record
            self._look(trail)

    def _look(self, trail: Trail) -> None:
        """Something was added to a trail."""
        if trail.number not in self._unfinished:
            return
        if trail.open or any(self._waiting.get(phase.ticket or ("", -1)) for phase in trail.phases):
            return
        self._finish(trail)

    def _show(self, trail: Trail) -> None:
        if trail.number in self._unfinished:
            self._put(trail)

    def _finish(self, trail: Trail) -> None:
        if self._unfinished.pop(trail.number, None) is None:
            return
        for phase in trail.phases:
            if phase.ticket is not None and self._waiting.pop(phase.ticket, None) is not None:
                trail.lost = True
        record = self._put(trail)
        for phase in record["phases"]:
            for plugin in phase["plugins"]:
                seen = self.outcomes.setdefault(plugin["name"], {})
                count, _ = seen.get(plugin["outcome"], (0, ""))
                seen[plugin["outcome"]] = count + 1, redact(plugin["why"])
        if self._file is not None:
            self._file.write(as_line(redacted(self.schemas.shown(record))) + "\n")

    def _put(self, trail: Trail) -> dict[str, Any]:
        record = record_of(trail, self.gateway)
        self.book.put(record)
        shown = self._shown.pop(trail.number, None)
        if shown is not None and not shown.done():
            shown.set_result(trail.number)
        return record


def _noting_body(request: ClientRequest, trail: Trail) -> ClientRequest:
    """The same, but a body that is read later is noted when it has come."""
    upload = request.upload
    if upload is None:
        return request

    async def noted() -> Upload | None:
        came = await upload()
        if came is not None:
            trail.request, trail.body_came = replace(trail.request, body=came.body, body_is_broken=came.is_broken), True
        return came

    return replace(request, upload=noted)


def _opened(file: Path) -> TextIO:
    try:
        return file.open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; name another file with --record") from None


def _shown(answer: Answer, request: ClientRequest, server: str, *, charset: bool) -> dict[str, Any] | None:
    """The answer as the client gets it; `None` where the connection is closed without one."""
    if not answer.status:
        return None
    line, headers, _ = response_head(answer, request, server, charset=charset)
    _, status, reason = [*line.split(" ", 2), ""][:3]
    body = with_page(answer).body if request.method != "HEAD" and answer.status not in (204, 304) else b""
    return {
        "status": int(status), "reason": reason, "headers": [list(pair) for pair in headers],
        "body": body_form(body or b""), "cut": answer.cut,
    }  # fmt: skip


class _Notes(logging.Handler):
    """What the gateway warns of while it serves a request is noted in that request's trail."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        trail = TRAIL.get()
        if trail is not None:
            trail.note(record.levelname.lower(), record.getMessage())
