"""One request's way through Kong's phases.

    rewrite (plugins for all requests) -> find a route -> access -> the service -> response (if a plugin has that phase)
    -> header_filter (Lua plugins alone) -> the client -> log (in the background)

Where Kong has a fault, it is shown as a warning that names it.
"""

from __future__ import annotations

import logging

from gatewright.dev.kong.answering import failure, own_answer, proxied_answer, take_exit
from gatewright.dev.kong.lean import LeanPlugins
from gatewright.dev.kong.noting import asking, note_match, note_uncalled, noted_phase
from gatewright.dev.kong.pdk import Pdk
from gatewright.dev.kong.plugins import Configured, Plugins
from gatewright.dev.kong.proxying import Proxy
from gatewright.dev.kong.router import Router
from gatewright.dev.kong.rpc import Exit
from gatewright.dev.kong.values import LuaError, MissingPluginError
from gatewright.dev.messages import Answer

__all__ = ["Visit"]

log = logging.getLogger("gatewright.dev")


class Visit:
    """One request."""

    def __init__(
        self, pdk: Pdk, plugins: Plugins, router: Router, proxy: Proxy, number: int, lean: LeanPlugins | None = None
    ) -> None:
        """Begin.

        Args:
            pdk: the request's.
            plugins: those that are configured.
            router: finds its route.
            proxy: asks its service.
            number: which request it is.
            lean: what the lean path's plugins do, if there are any.
        """
        self.exchange = pdk.exchange
        self._pdk = pdk
        self._plugins = plugins
        self._router = router
        self._proxy = proxy
        self._number = number
        self._lean = lean
        self._ran: list[Configured] = []

    async def run(self) -> Answer:
        """Go all the way to the answer."""
        exchange, own = self.exchange, None
        try:
            await self._phases()
        except (Exit, LuaError) as error:
            own = self._taken(error)
        try:
            for configured in self._ran:
                await self._run(configured, "header_filter")
        except (Exit, LuaError) as error:
            own = self._taken(error)
        return proxied_answer(exchange) if own is None else own_answer(exchange, own)

    def _taken(self, error: Exit | LuaError) -> bytes:
        """The body of an answer that is not the service's."""
        if isinstance(error, Exit):
            self.exchange.source = "exit"
            return take_exit(self.exchange, error)
        if not isinstance(error, MissingPluginError):  # that was told when it was found out
            log.error("%s: %s", self.exchange.plugin_name or "kong", error)
        self.exchange.source = "error"
        return take_exit(self.exchange, failure(self.exchange, 500))

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
        await self._proxy.ask(self._pdk, self._number)
        if exchange.buffered:
            exchange.phase = "response"
            for configured in self._ran:
                await self._run(configured, "response")

    async def _access(self, route: str, service: str | None) -> None:
        at = -1
        answered: Exit | LuaError | None = None
        unreached = ""
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
                    did = f"ended it with {error.status}" if isinstance(error, Exit) else "failed"
                    unreached = f"not reached: {configured.plugin.name} {did}"
            elif "access" in configured.plugin.phases and configured.rpc is not None:
                note_uncalled(configured.entry, "access", unreached)
        if answered is not None:
            raise answered

    async def _run(self, configured: Configured, phase: str) -> None:
        if phase not in configured.plugin.phases:
            return
        self.exchange.phase = phase
        self.exchange.plugin_id = configured.entry.id
        self.exchange.plugin_name = configured.plugin.name
        if configured.missing:
            note_uncalled(configured.entry, phase, configured.missing, failed=True)
            raise MissingPluginError(configured.missing)
        if configured.rpc is None:
            assert self._lean is not None  # noqa: S101 - these plugins are configured where it is
            await self._lean.run(configured.entry, configured.instance.config, phase, self._pdk)
            return
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
