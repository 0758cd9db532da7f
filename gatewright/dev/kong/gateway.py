"""Kong, for development: one request's way through its phases.

    rewrite (plugins for all requests) -> find a route -> access -> the service -> response (if a plugin has that phase)
    -> the client -> log (in the background)

Where Kong has a fault, it is shown as a warning that names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gatewright.dev.front import Front, Handler
from gatewright.dev.kong.declarative import Declared
from gatewright.dev.kong.exchange import BufferedAnswer, Exchange, HeaderList
from gatewright.dev.kong.noting import asking, note_match, noted_phase
from gatewright.dev.kong.pdk import Pdk, error_body
from gatewright.dev.kong.plugins import Configured, Plugins
from gatewright.dev.kong.router import Router
from gatewright.dev.kong.rpc import Exit
from gatewright.dev.kong.values import LuaError
from gatewright.dev.messages import Answer, ClientRequest, Headers
from gatewright.dev.trail import current_trail
from gatewright.dev.upstream import Sender, UpstreamError, send_request

__all__ = ["BODY_BUFFER_SIZE", "NAME", "KongGateway"]

log = logging.getLogger("gatewright.dev")

BODY_BUFFER_SIZE = 8192
"""Kong's default of `nginx_http_client_body_buffer_size`: a longer body is kept in a file."""

NAME = "gatewright-dev"
"""What the gateway calls itself."""
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
_NOT_FORWARDED = _HOP_BY_HOP | {
    "host", "content-length", "expect", "via", "x-real-ip", "x-forwarded-for", "x-forwarded-proto",
    "x-forwarded-host", "x-forwarded-port", "x-forwarded-path", "x-forwarded-prefix", "x-kong-request-id", "proxy",
}  # fmt: skip
_JSON = ("Content-Type", "application/json; charset=utf-8")

Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


def _refusal(status: int) -> Answer:
    """What Kong answers to what is no request; 494 is nginx's own code for too large headers."""
    status = 400 if status == 494 else status
    return Answer(status, [_JSON], error_body(status, None, ""), close=True, server=NAME)


class KongGateway:
    """An HTTP server that acts as Kong does. For development only."""

    def __init__(
        self,
        declared: Declared,
        plugins: Plugins,
        *,
        trusted: Networks = (),
        body_buffer_size: int = BODY_BUFFER_SIZE,
        default_upstream: tuple[str, int] | None = None,
        send: Sender = send_request,
        watch: Callable[[Handler], Handler] = lambda handler: handler,
    ) -> None:
        """Make a gateway.

        Args:
            declared: what to do with which request.
            plugins: the plugins, and where they run.
            trusted: `trusted_ips`.
            body_buffer_size: bytes of a body that nginx keeps in memory.
            default_upstream: host and port that stand in for every service's.
            send: sends requests to services.
            watch: put around what answers clients' requests.
        """
        self._declared, self._plugins, self._router = declared, plugins, Router(declared)
        self._trusted = trusted
        self._body_buffer_size = body_buffer_size
        self._default_upstream = default_upstream
        self._send = send
        self._front = Front(watch(self.handle), server_header=NAME, charset=False, refusal=_refusal)
        self._background: set[asyncio.Task[None]] = set()
        self._requests = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes any free one.

        Raises:
            OSError: the port is taken.
        """
        await self._front.start(host, port)

    @property
    def declared(self) -> Declared:
        """What it does with which request."""
        return self._declared

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._front.port

    @property
    def try_path(self) -> str:
        """A path that some route suits."""
        paths = [path for route in self._declared.routes.values() for path in route.get("paths") or ["/"]]
        plain = [path for path in paths if not path.startswith("~")]
        return "/hello" if "/" in plain or not plain else plain[0]

    async def stop(self) -> None:
        """Stop listening, let the log phases end, close all connections."""
        await self._front.stop()
        await self.settle()
        await self._plugins.end()

    async def settle(self) -> None:
        """Wait until nothing runs in the background."""
        while self._background:
            ending = [*self._background]
            await asyncio.gather(*ending)
            self._background.difference_update(ending)  # or else Python 3.12 would never let the loop take a turn

    @staticmethod
    async def _after(visit: _Visit) -> None:
        """What runs after the answer."""
        trail = current_trail()
        try:
            await visit.log_phase()
        finally:
            if trail is not None:
                trail.open -= 1
                trail.on_end(trail)

    def replace(self, declared: Declared, plugins: Plugins) -> None:
        """Take a new configuration. Requests under way end with the one they began with."""
        old, router = self._plugins, Router(declared)
        self._declared, self._plugins, self._router = declared, plugins, router
        self._later(old.end())

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def handle(self, request: ClientRequest) -> Answer:
        """Answer one request."""
        self._requests += 1
        with contextlib.ExitStack() as stack:
            body_file = ""
            if len(request.body) > self._body_buffer_size:
                body_file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="client-body-")).name
                await asyncio.to_thread(Path(body_file).write_bytes, request.body)
            visit = _Visit(self, request, body_file)
            answer = await visit.run()
        log.info("%s %s -> %d", request.method, request.target, answer.status)
        trail = current_trail()
        if trail is not None:
            trail.open += 1
        self._later(self._after(visit))
        return answer


class _Visit:
    """One request."""

    def __init__(self, gateway: KongGateway, request: ClientRequest, body_file: str) -> None:
        self.exchange = exchange = Exchange(request)
        self._gateway = gateway
        self._plugins = gateway._plugins
        self._router = gateway._router
        self._ran: list[Configured] = []
        counts = {"total_requests": gateway._requests, "connections_active": 1}
        self._pdk = Pdk(
            exchange, gateway._declared, trusted=gateway._trusted, body_file=body_file, counts=counts
        )  # fmt: skip

    async def run(self) -> Answer:
        try:
            await self._phases()
            return self._proxied()
        except Exit as exit:
            self.exchange.source = "exit"
            return self._own(exit)
        except LuaError as error:
            return self._aborted(error)

    def _aborted(self, error: LuaError) -> Answer:
        log.error("%s: %s", self.exchange.plugin_name or "kong", error)
        self.exchange.source = "error"
        body = error_body(500, None, self.exchange.id)
        return self._own(Exit(500, body, {_JSON[0]: [_JSON[1]]}))

    async def _phases(self) -> None:
        exchange = self.exchange
        for configured in self._plugins.everywhere():
            await self._run(configured, "rewrite")
        exchange.phase, exchange.forwarded_host = "access", exchange.host
        exchange.ctx.update(request_uri=exchange.request.target, scheme="http")  # runloop/handler.lua, `access.before`
        table = {name: exchange.headers.get_all(name) for name, _ in exchange.headers.entries}
        headers = {name.lower(): values for name, values in table.items()}
        match = exchange.match = self._router.find(exchange.method, exchange.host, exchange.path, headers)
        note_match(exchange)
        if match is None:
            self._pdk("kong.response.error", (404, "no Route matched with those values", None))
            return
        if "http" not in match.route["protocols"]:
            self._pdk("kong.response.error", (426, "Please use HTTPS protocol", None))
        service = match.service or {}
        exchange.upstream_scheme = service.get("protocol", "http")
        exchange.upstream_path = match.upstream_path
        if match.route["preserve_host"]:
            exchange.upstream_host = exchange.headers.get("host") or ""
        await self._access(match.route["id"], service.get("id"))
        if match.service is None:
            self._pdk("kong.response.error", (503, "no Service found with those values", None))
        exchange.source = "service"
        exchange.buffered = exchange.buffered or any("response" in each.plugin.phases for each in self._ran)
        await self._ask_service()
        if exchange.buffered:
            exchange.phase = "response"
            for configured in self._ran:
                await self._run(configured, "response")

    async def _access(self, route: str, service: str | None) -> None:
        at = -1
        answered: Exit | LuaError | None = None
        while True:
            consumer = (self.exchange.consumer or {}).get("id")
            configured = self._plugins.suiting(route, service, consumer, at)
            if configured is None:
                break
            at = self._plugins.place_of(configured)
            self._ran.append(configured)
            if answered is None:
                try:
                    await self._run(configured, "access")
                except (Exit, LuaError) as error:  # the others still have a log phase
                    answered = error
        if answered is not None:
            raise answered

    async def _run(self, configured: Configured, phase: str) -> None:
        if phase not in configured.plugin.phases:
            return
        self.exchange.phase = phase
        self.exchange.plugin_id = configured.entry.id
        self.exchange.plugin_name = configured.plugin.name
        with noted_phase(self.exchange, configured.entry, phase):
            await configured.rpc.handle_event(configured.instance, phase, asking(self._pdk))

    async def log_phase(self) -> None:
        """Run what runs after the request."""
        self.exchange.phase, self.exchange.later = "log", True
        for configured in self._ran or list(self._plugins.everywhere()):
            try:
                await self._run(configured, "log")
            except (LuaError, Exit) as error:
                log.error("%s: log phase: %s", configured.plugin.name, error)

    # --- the service

    async def _ask_service(self) -> None:
        exchange = self.exchange
        service = exchange.match.service if exchange.match else None
        host, port = self._address(service or {})
        headers = self._forwarded(service or {})
        query = f"?{exchange.query}" if exchange.query or exchange.request.target.endswith("?") else ""
        limits = {**(service or {}), **exchange.balancer}
        tries = 1 + (limits.get("retries", 5) if exchange.method not in ("POST", "LOCK", "PATCH") else 0)
        began = time.monotonic()
        for attempt in range(1, tries + 1):
            try:
                got = await self._gateway._send(
                    host, port, tls=exchange.upstream_scheme == "https", method=exchange.method,
                    target=exchange.upstream_path + query, headers=headers, body=exchange.body,
                    timeout=limits.get("read_timeout", 60000) / 1000,
                    verify=bool(limits.get("tls_verify") if exchange.tls_verify is None else exchange.tls_verify),
                )  # fmt: skip
                break
            except UpstreamError as error:
                log.error("%s:%d: %s (try %d of %d)", host, port, error, attempt, tries)
                if attempt == tries:
                    exchange.source = "error"
                    raise Exit(502, error_body(502, None, exchange.id), {_JSON[0]: [_JSON[1]]}) from None
        exchange.waited_ms = int((time.monotonic() - began) * 1000)
        own = exchange.response_headers.entries
        gone = _HOP_BY_HOP | {"content-length", "date"}
        headers = [(name, value) for name, value in got.headers if name.lower() not in gone]
        if exchange.buffered:  # Lua puts it together anew: its names have no `_`, its values are not empty
            headers = [(name.replace("_", "-"), value or " ") for name, value in headers]
            headers.append(("Connection", "keep-alive"))
        exchange.service_answer = BufferedAnswer(got.status, HeaderList(got.headers), got.body)
        length = exchange.service_answer.headers.get("content-length")
        if exchange.buffered and exchange.method != "HEAD":
            length = str(len(got.body))
        if length is not None and (exchange.buffered or exchange.method == "HEAD"):
            headers.append(("Content-Length", length))
        # What plugins set before stays; what the service sends under the same name is sent instead.
        merged = HeaderList(own)
        for name in dict.fromkeys(name for name, _ in headers):
            merged.set(name, [value for present, value in headers if present == name])
        exchange.response_headers, exchange.status = merged, got.status

    def _address(self, service: dict[str, Any]) -> tuple[str, int]:
        exchange = self.exchange
        if exchange.target is not None:
            return exchange.target
        name = exchange.upstream_name or service.get("host", "")
        targets = self._gateway._declared.upstreams.get(name)
        if targets is not None:
            if not targets:
                self._pdk("kong.response.error", (503, "failure to get a peer from the ring-balancer", None))
            return targets[self._gateway._requests % len(targets)]
        if self._gateway._default_upstream is not None:
            return self._gateway._default_upstream
        return name, int(service.get("port", 80))

    def _forwarded(self, service: dict[str, Any]) -> Headers:
        exchange, request, pdk = self.exchange, self.exchange.request, self._pdk
        default = {"http": 80, "https": 443}[exchange.upstream_scheme]
        port = exchange.target[1] if exchange.target else service.get("port", default)
        own = str(service.get("host", "")) + ("" if port == default else f":{port}")
        chain = exchange.headers.get("x-forwarded-for")
        via = exchange.headers.get("via")
        prefix = pdk.forwarded("x-forwarded-prefix") or (exchange.match.stripped if exchange.match else "")
        exchange.sent_host = exchange.upstream_host or own
        added = [
            ("Host", exchange.sent_host),
            ("Connection", "keep-alive"),
            ("Via", f"{via}, " * bool(via) + f"{request.version} {NAME}"),
            ("X-Forwarded-For", f"{chain}, {request.client_ip}" if chain else request.client_ip),
            ("X-Forwarded-Proto", pdk.forwarded("x-forwarded-proto") or "http"),
            ("X-Forwarded-Host", pdk.forwarded("x-forwarded-host") or exchange.forwarded_host),
            ("X-Forwarded-Port", pdk.forwarded("x-forwarded-port") or str(request.server_port)),
            ("X-Forwarded-Path", pdk.forwarded("x-forwarded-path") or exchange.raw_path),
            *([("X-Forwarded-Prefix", prefix)] if prefix else []),
            ("X-Real-IP", request.client_ip),
            ("X-Kong-Request-Id", exchange.id),
        ]
        if exchange.body or exchange.body_changed or exchange.request.framing != "none":
            added.append(("Content-Length", str(len(exchange.body))))
        named = {part.strip().lower() for part in (exchange.headers.get("connection") or "").split(",")}
        return [*added, *((name, value) for name, value in exchange.headers.entries
                          if name.lower() not in _NOT_FORWARDED and name.lower() not in named)]  # fmt: skip

    # --- the answer

    def _proxied(self) -> Answer:
        exchange = self.exchange
        got = exchange.service_answer
        assert got is not None  # noqa: S101 - the phases ended without an answer of a plugin's
        headers = exchange.response_headers
        elapsed = int((time.time() - exchange.began) * 1000)
        headers.set("X-Kong-Upstream-Latency", [str(exchange.waited_ms)])
        headers.set("X-Kong-Proxy-Latency", [str(max(elapsed - exchange.waited_ms, 0))])
        via = got.headers.get("via")
        headers.set("Via", [f"{via}, 1.1 {NAME}" if via else f"1.1 {NAME}"])
        return self._answer(got.body)

    def _own(self, exit: Exit) -> Answer:
        exchange = self.exchange
        exchange.status = exit.status
        headers = exchange.response_headers
        headers.clear("content-length")
        for name, values in exit.headers.items():
            headers.set(name.replace("_", "-"), values)
        headers.set("X-Kong-Response-Latency", [str(int((time.time() - exchange.began) * 1000))])
        headers.clear("server")
        return self._answer(exit.body or b"")

    def _answer(self, body: bytes) -> Answer:
        exchange = self.exchange
        headers = exchange.response_headers
        headers.set("X-Kong-Request-Id", [exchange.id])
        if exchange.status in (204, 304):
            headers.clear("content-type")
        elif headers.get("content-type") == "text/html":
            headers.set("Content-Type", ["text/html; charset=UTF-8"])
        server = headers.get("server") or NAME
        entries = [(name, value) for name, value in headers.entries if name.lower() not in _HOP_BY_HOP]
        if headers.get("content-length") is None:
            entries.append(("Content-Length", str(len(body))))
        return Answer(exchange.status, entries, body, framing="proxied", server=server)
