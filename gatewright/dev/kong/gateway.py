"""Kong, for development: an HTTP server that sends each request through Kong's phases (see `visit`)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gatewright.dev.access import tell_request
from gatewright.dev.front import Front, Handler
from gatewright.dev.kong.answering import NAME, refusal
from gatewright.dev.kong.declarative import Declared
from gatewright.dev.kong.exchange import Exchange
from gatewright.dev.kong.lean import LeanPlugins
from gatewright.dev.kong.pdk import Pdk
from gatewright.dev.kong.plugins import Plugins
from gatewright.dev.kong.proxying import Proxy
from gatewright.dev.kong.router import Router
from gatewright.dev.kong.visit import Visit
from gatewright.dev.messages import Answer, ClientRequest
from gatewright.dev.trail import current_trail
from gatewright.dev.upstream import Sender, send_request

__all__ = ["BODY_BUFFER_SIZE", "KongGateway"]

log = logging.getLogger("gatewright.dev")

BODY_BUFFER_SIZE = 8192
"""Kong's default of `nginx_http_client_body_buffer_size`: a longer body is kept in a file."""

Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


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
        lean: LeanPlugins | None = None,
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
            lean: what the lean path's plugins do, where `plugins` has them.
        """
        self._declared, self._plugins, self._router = declared, plugins, Router(declared)
        self._trusted = trusted
        self._body_buffer_size = body_buffer_size
        self._proxy = Proxy(send, default_upstream)
        self._lean = lean
        self._front = Front(watch(self.handle), server_header=NAME, charset=False, refusal=refusal)
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
    async def _after(visit: Visit) -> None:
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
            counts = {"total_requests": self._requests, "connections_active": 1}
            pdk = Pdk(Exchange(request), self._declared, trusted=self._trusted, body_file=body_file, counts=counts)
            visit = Visit(pdk, self._plugins, self._router, self._proxy, self._requests, self._lean)
            answer = await visit.run()
        tell_request(request, answer)
        trail = current_trail()
        if trail is not None:
            trail.open += 1
        self._later(self._after(visit))
        return answer
