"""Health, status and metrics over HTTP, and the commands of the control socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import structlog

from gatewright._version import __version__
from gatewright.errors import ListenError
from gatewright.observe.http import Answer, Ask, Handler, HttpServer, json_answer
from gatewright.observe.metrics import exposition
from gatewright.observe.report import WorkerReport
from gatewright.redaction import redact_fields
from gatewright.server.host.gateway_user import gateway_parent
from gatewright.server.host.listener import Listener
from gatewright.server.supervisor.accounts import Accounts
from gatewright.server.supervisor.workers import Stage, Worker
from gatewright.settings import LOG_LEVELS, Settings, control_address, parse_address

__all__ = ["Admin", "Reloading"]

_RELOAD_SECONDS = 90.0
_TAKE_OVER_SECONDS = 10.0
_RETRY_SECONDS = 0.1
_LOOK_SECONDS = 1.0
_PRIVATE = ("chains", "last_errors", "last_reload", "plugin_errors")
"""What may quote requests, configurations or code: for the control socket only."""


class Reloading(Protocol):
    """What runs reloads."""

    last: dict[str, Any] | None

    def ask(self) -> asyncio.Future[dict[str, Any]]:
        """Begin one."""
        ...


class Runner(Protocol):
    """What is shown, and can be told to do something: the runner."""

    accounts: Accounts

    @property
    def reloads(self) -> Reloading:
        """What runs reloads."""
        ...

    @property
    def ready(self) -> bool:
        """Whether requests can be served."""

    @property
    def uptime(self) -> float:
        """Seconds since the start."""

    @property
    def address(self) -> str:
        """Where the runner listens."""

    @property
    def paused_for(self) -> float:
        """Seconds until a worker is started again; 0 if none waits."""

    async def reports(self) -> tuple[list[tuple[Worker, WorkerReport]], WorkerReport]:
        """Every worker's report, and all added up."""

    def set_level(self, level: str) -> None:
        """Log at another level."""

    def reopen_logs(self) -> None:
        """Open the log file anew."""


class Admin:
    """The servers that a supervisor shows itself through.

    The control socket can change things and is its owner's alone; the metrics address only shows.
    """

    def __init__(
        self, runner: Runner, settings: Settings, *, remember: Callable[[Listener], None] = lambda _: None
    ) -> None:
        """Bind the addresses.

        Args:
            runner: what is shown.
            settings: say where.
            remember: told of each socket whose file is to be removed in the end.

        Raises:
            ListenError: one of them can't be bound. The control socket is only warned of, unless it was asked for. What
                a gateway's earlier runner may still hold is taken over when that has ended (see `start`).
        """
        self._runner = runner
        self._remember = remember
        self._awaited: list[tuple[Callable[[], Listener], dict[tuple[str, str], Handler]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._open: list[tuple[Callable[[], Listener], Listener, HttpServer]] = []
        shows: dict[tuple[str, str], Handler] = {
            ("GET", "/healthz"): self._healthz,
            ("GET", "/readyz"): self._readyz,
            ("GET", "/status"): self._public_status,
            ("GET", "/metrics"): self._metrics,
        }
        acts: dict[tuple[str, str], Handler] = {
            ("GET", "/status"): self._status,
            ("POST", "/reload"): self._reload,
            ("POST", "/log-level"): self._log_level,
            ("POST", "/reopen-logs"): self._reopen_logs,
        }
        if settings.metrics:
            metrics = partial(
                Listener.bind,
                parse_address(settings.metrics),
                mode=0o660,
                flag="--metrics",
                group=settings.socket_group,
                open_directory=settings.socket_open_directory,
            )
            self._bind(metrics, shows, may_wait=gateway_parent())
        control = control_address(settings)
        if control is not None:
            own = partial(
                Listener.bind,
                control,
                mode=0o600,
                keep_owner=True,
                flag="--control",
                open_directory=settings.socket_open_directory,
            )
            self._bind(own, shows | acts, may_wait=settings.control == "auto" or gateway_parent())

    def _bind(self, bind: Callable[[], Listener], handlers: dict[tuple[str, str], Handler], *, may_wait: bool) -> None:
        try:
            listener = bind()
        except ListenError:
            if not may_wait:
                self.unlink()
                raise
            self._awaited.append((bind, handlers))
        else:
            self._add(bind, listener, handlers)

    def _add(
        self, bind: Callable[[], Listener], listener: Listener, handlers: dict[tuple[str, str], Handler]
    ) -> HttpServer:
        server = HttpServer(listener.socket, handlers)
        self._open.append((bind, listener, server))
        self._remember(listener)
        return server

    async def start(self) -> None:
        """Start to serve.

        A gateway that reloads starts a new runner before the old one has ended its calls: what that one still holds is
        tried again for some seconds.
        """
        for _, _, server in self._open:
            await server.start()
        self._tasks.append(asyncio.create_task(self._keep_files()))
        if self._awaited:
            self._tasks.append(asyncio.create_task(self._take_over()))

    async def _keep_files(self) -> None:
        """Make sockets' files anew that somebody removes (see `places`, of which these are no affair)."""
        log = structlog.get_logger("gatewright.server")
        told = ""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for bind, listener, server in self._open:
                if not listener.is_gone:
                    continue
                listener.make_directory()
                try:
                    fresh = bind()
                except ListenError as error:
                    if str(error) != told:
                        told = str(error)
                        log.error("somebody removed a socket's file, and it can't be made again", why=told)
                    continue
                await server.move(fresh.socket)  # before the old one is closed, which its loop still looks at
                listener.become(fresh)
                self._remember(listener)
                log.warning("somebody removed the socket's file: it's made again", socket=str(listener.address))

    async def _take_over(self) -> None:
        log = structlog.get_logger("gatewright.server")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _TAKE_OVER_SECONDS
        for bind, handlers in self._awaited:
            while True:
                try:
                    listener = bind()
                except ListenError as error:
                    if loop.time() > deadline:
                        log.warning(
                            "can't be asked: `gatewright status`, metrics and the like won't work", why=str(error)
                        )
                        break
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                await self._add(bind, listener, handlers).start()
                log.info("taken over from an earlier runner", address=str(listener.address))
                break

    async def close(self) -> None:
        """Stop to serve."""
        for task in self._tasks:
            task.cancel()
        for _, _, server in self._open:
            await server.close()

    def unlink(self) -> None:
        """Remove the sockets' files."""
        for _, listener, _ in self._open:
            listener.close()

    # --- shows

    async def _healthz(self, _: Ask) -> Answer:
        return Answer(200, b"ok\n")

    async def _readyz(self, _: Ask) -> Answer:
        return (
            Answer(200, b"ready\n")
            if self._runner.ready
            else Answer(503, b"not ready: no worker serves, or no gateway can connect\n")
        )

    async def _metrics(self, ask: Ask) -> Answer:
        each, total = await self._runner.reports()
        numbered = [(worker.number, report) for worker, report in each if worker.stage is Stage.READY]
        body, content_type = exposition(ask.accept, self._runner.accounts.counts, total, numbered)
        return Answer(200, body, content_type)

    async def _public_status(self, _: Ask) -> Answer:
        content = await self._all()
        for name in _PRIVATE:
            del content[name]
        return json_answer(redact_fields(content))

    async def _status(self, _: Ask) -> Answer:
        return json_answer(redact_fields(await self._all()))

    async def _all(self) -> dict[str, Any]:
        runner = self._runner
        each, total = await runner.reports()
        current = next((worker for worker, _ in each if worker.stage is Stage.READY), None)
        routes: dict[str, Any] = {}
        for _worker, report in each:
            for route in report.routes:
                present = routes.get(route["key"])
                if present is None or not route["ready"]:
                    routes[route["key"]] = route
        return {
            "version": __version__,
            "ready": runner.ready,
            "address": runner.address,
            "uptime": round(runner.uptime, 1),
            "next_start_in": round(runner.paused_for, 1),
            "workers": [
                {
                    "number": worker.number,
                    "pid": worker.pid,
                    "stage": worker.stage.value,
                    "generation": worker.generation,
                    "uptime": round(report.uptime, 1),
                    "connections": report.connections,
                    "calls": sum(report.calls.values()),
                    "calls_under_way": report.calls_under_way,
                    "chains": report.chains,
                    "memory": report.memory,
                    "descriptors": report.descriptors,
                    "loop_lag": round(report.loop_lag, 4),
                }
                for worker, report in sorted(each, key=lambda item: (item[0].number, item[0].generation))
            ],
            "plugins": [
                {"name": p.name, "phases": p.phases, "source": p.source, "version": p.version}
                for p in (current.plugins if current else [])
            ],
            "plugin_errors": current.errors if current else [],
            "configurations": runner.accounts.counts.configurations,
            "chains": sorted(routes.values(), key=lambda route: str(route["key"])),
            "refused": total.refused,
            "last_errors": total.last_failures[-20:],
            "worker_exits": list(runner.accounts.exits),
            "last_reload": runner.reloads.last,
        }

    # --- acts

    async def _reload(self, _: Ask) -> Answer:
        try:
            result = await asyncio.wait_for(self._runner.reloads.ask(), _RELOAD_SECONDS)
        except TimeoutError:
            return json_answer({"result": "under way"}, 202)
        return json_answer(result, 200 if result.get("result") == "ok" else 409)

    async def _log_level(self, ask: Ask) -> Answer:
        level = ask.query.get("level", "")
        if level not in LOG_LEVELS:
            return json_answer({"error": f"level is one of {', '.join(LOG_LEVELS)}"}, 400)
        self._runner.set_level(level)
        return json_answer({"level": level})

    async def _reopen_logs(self, _: Ask) -> Answer:
        self._runner.reopen_logs()
        return json_answer({"reopened": True})
