"""The gateway itself: one request's way through APISIX's phases, from top to bottom.

match a route -> global rules -> rewrite phase (pre-req and gatewright) -> access phase (post-req and gatewright-after)
-> before_proxy: post-resp or gatewright-response (which make the upstream request themselves) -> proxy
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from gatewright.dev.access import tell_request
from gatewright.dev.apisix.balancing import Turn
from gatewright.dev.apisix.behaviour import BEHAVIOURS, Behaviour
from gatewright.dev.apisix.builtins import Around, Counters
from gatewright.dev.apisix.chain import Chain, answered, run_phase, runs
from gatewright.dev.apisix.exchange import ClientGoneError, Exchange, LuaError
from gatewright.dev.apisix.exits import exited, settle
from gatewright.dev.apisix.ext_plugin import ExtPlugin
from gatewright.dev.apisix.lean import LeanPlugins
from gatewright.dev.apisix.noting import note_route
from gatewright.dev.apisix.proxying import InternalRedirect, proxy
from gatewright.dev.apisix.route import PluginConf, Route, Routes
from gatewright.dev.apisix.rpc import Dial, RunnerClient, SharedTokens, Timeouts
from gatewright.dev.apisix.variables import lua_value, variable
from gatewright.dev.front import Front, Handler
from gatewright.dev.lean.client import LeanClient
from gatewright.dev.messages import Answer, ClientRequest, text_of
from gatewright.dev.target import Upstream
from gatewright.dev.upstream import Sender, send_request
from gatewright.settings import parse_address

__all__ = ["SERVER_HEADER", "DevGateway"]

log = logging.getLogger("gatewright.dev")

T = TypeVar("T")
_MOST_REDIRECTS = 10
_LONG = 1e6
"""Seconds beyond which a timeout is none."""
_SPREAD = 40503  # 2**16 / the golden ratio: neighbours come far apart

SERVER_HEADER = "gatewright-dev"
"""What the gateway calls itself."""


def _refusal(status: int) -> Answer:
    """What nginx answers before APISIX sees anything of it."""
    return Answer(status, page=True, close=True, server="openresty")


class DevGateway:
    """An HTTP server that acts as APISIX does. For development only."""

    def __init__(
        self,
        routes: Routes,
        runner: str | Dial,
        *,
        timeouts: Timeouts | None = None,
        upstream_timeout: float = 60.0,
        server_header: str = SERVER_HEADER,
        behaviour: Behaviour = BEHAVIOURS["3.9"],
        send: Sender = send_request,
        watch: Callable[[Handler], Handler] = lambda handler: handler,
        workers: int = 1,
    ) -> None:
        """Make a gateway.

        Args:
            routes: what to do with which request.
            runner: the runner's address, `unix:/path` or `tcp://host:port`, or what gives a socket that leads to it.
            timeouts: towards the runner; APISIX's own by default.
            upstream_timeout: seconds for which an upstream may be silent, unless it says so itself.
            server_header: what the gateway calls itself.
            behaviour: which version it behaves as.
            send: sends requests to the upstream.
            watch: put around what answers clients' requests.
            workers: how many worker processes to act as. Each has connections to the runner and a token cache of its
                own, and a client's connection is one worker's.
        """
        self.routes = routes
        self._behaviour = behaviour
        dial = parse_address(runner) if isinstance(runner, str) else runner
        memory = SharedTokens()
        self._clients = [RunnerClient(dial, timeouts or Timeouts(), memory) for _ in range(workers)]
        self._send = send
        self._ext_plugins = [ExtPlugin(client, upstream_timeout, send) for client in self._clients]
        patient = timeouts is not None and timeouts.read > _LONG
        self._lean_clients = [LeanClient(dial, patient=patient) for _ in range(workers)]
        self._lean_plugins = [LeanPlugins(client, upstream_timeout, send) for client in self._lean_clients]
        self._upstream_timeout = upstream_timeout
        self._counters = Counters()
        self._ended: set[Upstream] = set()
        self._front = Front(
            watch(self.handle),
            server_header=server_header,
            refusal=_refusal,
            reads_late=True,
            agreeing_hosts=behaviour.since(17),
        )

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes any free one.

        Raises:
            OSError: the port is taken.
        """
        await self._front.start(host, port)

    @property
    def version(self) -> str:
        """The version that it behaves as."""
        return self._behaviour.version

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._front.port

    async def stop(self) -> None:
        """Stop listening, close all connections."""
        await self._front.stop()
        for client in self._clients:
            client.close()
        for lean in self._lean_clients:
            lean.close()

    def know_token(self, key: str, token: int) -> None:
        """Start with a conf token that the gateway got earlier."""
        self._clients[0].know_token(key, token)

    def replace_routes(self, routes: Routes) -> None:
        """Take new routes; as with any reload, every route is prepared anew."""
        self.routes = routes

    async def handle(self, request: ClientRequest) -> Answer:
        """Answer one request."""
        try:
            answer = await self._handle(request)
        except ClientGoneError:
            log.warning("the client prematurely closed its connection")
            answer = Answer(0)
        tell_request(request, answer)
        return answer

    async def _handle(self, request: ClientRequest) -> Answer:
        exchange = Exchange(request, self._behaviour)
        for _ in range(_MOST_REDIRECTS):
            try:
                answer = await self._answer(exchange)
                break
            except InternalRedirect as elsewhere:
                target, headers = elsewhere.target, elsewhere.headers
                if target.startswith("@"):  # a location of nginx's that there isn't
                    return Answer(500, headers, page=True, close=True)
                if not target.startswith("/"):
                    return Answer(404, headers, page=True, server="openresty")
                if "/.." in target:
                    return Answer(404, headers, page=True)
                method = "HEAD" if exchange.method == "HEAD" else "GET"
                request = replace(exchange.request, target=target, method=method)
                exchange = Exchange(request, self._behaviour)
                exchange.response_headers = headers
        else:
            return Answer(500, page=True, close=True)
        answer.method = exchange.method
        settle(exchange, answer)
        exchange.status = answer.status
        await self._worker_of(exchange, self._lean_plugins).log(exchange, exchange.plugins, answer)
        broken = exchange.request.body_is_broken and exchange.request.version != "2"
        if broken and answer.body and not answer.page:
            # Before it prints, nginx does away with the body, and finds that it can't.
            return Answer(0)
        return answer

    async def _answer(self, exchange: Exchange) -> Answer:
        request = exchange.request
        route = self.routes.find(
            request.method, exchange.host, exchange.uri, address=exchange.client_ip,
            ask=lambda name: lua_value(exchange, name),
        )  # fmt: skip
        try:
            note_route(route)
            if route is None:
                answer = await self._global_rules(exchange)
                if answer is None:
                    answer = exited(exchange, 404, {"error_msg": "404 Route Not Found"})
                    # What an internal redirect leaves has no type.
                    answer.headers = [(n, v) for n, v in answer.headers if n.lower() != "content-type"]
            else:
                answer = await self._phases(exchange, route)
        except LuaError as error:
            log.warning("fault: APISIX aborts with a 500 page: %s", error)
            answer = Answer(500, exchange.response_headers, page=True, close=True)
        for chain in (*exchange.rules, exchange.plugins):
            answer = answered(exchange, chain, answer)
        return answer

    async def _phases(self, exchange: Exchange, route: Route) -> Answer:
        lean = self._worker_of(exchange, self._lean_plugins)
        exchange.route_facts = route.facts
        split = self._behaviour.splits_global_rules
        if (answer := await self._global_rules(exchange, "rewrite" if split else "")) is not None:
            return answer
        exchange.plugins = route.plugins  # what a global rule answers they don't see
        if (answer := await self._run(exchange, route.plugins, "rewrite")) is not None:
            return answer
        if exchange.consumer_name is not None:
            if exchange.consumer_name in self.routes.groups:
                exchange.route_facts = {
                    **route.facts, "consumer_group_id": self.routes.groups[exchange.consumer_name][0]
                }  # fmt: skip
            exchange.plugins = self._with_consumer(exchange.consumer_name, route)
            again = self._again(exchange.plugins, route)
            if (answer := await self._run(exchange, again, "rewrite", again=True)) is not None:
                return answer
        if split and (answer := await self._global_rules(exchange, "access")) is not None:
            return answer
        if (answer := await self._run(exchange, exchange.plugins, "access")) is not None:
            return answer
        if route.upstream is None or not route.upstream.nodes:
            log.warning("route %s has no upstream", route.id)
            return Answer(503, exchange.response_headers, page=True)
        turn = Turn(route.upstream, exchange)
        upstream = turn.node
        exchange.upstream_scheme = upstream.scheme
        if route.upgrades:
            asked = (variable(exchange, name) or b"" for name in ("http_upgrade", "http_connection"))
            exchange.upgrade = text_of(next(asked)), text_of(next(asked))
        self._pin_host(exchange, upstream)
        if self._behaviour.forwarded != "injected":
            for part in ("proto", "host", "port"):  # what goes upstream, a client's own words first
                said = variable(exchange, f"http_x_forwarded_{part}")
                if said is not None:
                    exchange.kept_variables[f"var_x_forwarded_{part}"] = said
        for chain in (*self._rules(), exchange.plugins):
            if "ext-plugin-post-resp" in chain and runs(exchange, chain["ext-plugin-post-resp"]):
                answer = await self._worker_of(exchange, self._ext_plugins).response_phase(
                    exchange, chain["ext-plugin-post-resp"], upstream
                )
                exchange.has_asked = True
                if answer is not None:
                    return answer
            if "gatewright-response" in chain:
                answer = await lean.response_phase(
                    exchange, chain["gatewright-response"], upstream, self.routes.known_consumers
                )
                if answer is not None:
                    return lean.finish(exchange, answer)
        return lean.finish(exchange, await proxy(exchange, turn, self._upstream_timeout, self._send, self._ended))

    def _rules(self) -> Sequence[Chain]:
        """The global rules; where they are one, what is in several of them is in none."""
        rules = self.routes.global_rules
        if not self._behaviour.merges_global_rules or not rules:
            return rules
        named = [name for rule in rules for name in rule]
        return [
            {
                name: replace(conf, key=f"global_rule#1#{name}#{self.routes.version}")
                for rule in rules
                for name, conf in rule.items()
                if named.count(name) == 1
            }
        ]

    async def _global_rules(self, exchange: Exchange, phase: str = "") -> Answer | None:
        """A request phase of each rule, or both; also where no route is found."""
        exchange.rules = self._rules()
        for rule in exchange.rules:
            for each in (phase,) if phase else ("rewrite", "access"):
                if (answer := await self._run(exchange, rule, each)) is not None:
                    return answer
        return None

    async def _run(self, exchange: Exchange, chain: Chain, phase: str, *, again: bool = False) -> Answer | None:
        return await run_phase(
            exchange, chain, phase, ext=self._worker_of(exchange, self._ext_plugins),
            lean=self._worker_of(exchange, self._lean_plugins),
            around=Around(self.routes.known_consumers, self._counters, self.routes.custom_ids), again=again,
        )  # fmt: skip

    def _again(self, plugins: Chain, route: Route) -> Chain:
        """What is to rewrite the request now that the consumer is known: what came with it, or all once more."""
        priorities = any("priority" in plugin.meta for plugin in plugins.values())
        if self._behaviour.runs_again and not priorities:
            return plugins
        return {name: plugin for name, plugin in plugins.items() if name not in route.plugins}

    @staticmethod
    def _worker_of(exchange: Exchange, plugins: Sequence[T]) -> T:
        # Ports of connections that follow each other are far apart, or next to each other, as the system likes.
        spread = exchange.request.client_port * _SPREAD >> 16
        return plugins[spread % len(plugins)]

    def _with_consumer(self, name: str, route: Route) -> dict[str, PluginConf]:
        """The route's plugins, and its consumer's in their place, under the key that they have for both."""
        group, shared = self.routes.groups.get(name, ("", {}))
        own = {**shared, **self.routes.known_consumers[name]}
        given = {plugin: PluginConf(conf, "") for plugin, conf in own.items()}
        kind, place = f"{route.conf_type}&consumer", f"{route.conf_id}&{name}"
        version = f"{route.version}&{self.routes.version}"
        if group:
            kind, place = f"{kind}&consumer_group", f"{place}&{group}"
            version = f"{version}&{self.routes.version}"
        return {
            plugin: PluginConf(conf.conf, f"{kind}#{place}#{plugin}#{version}", conf.condition)
            for plugin, conf in {**route.plugins, **given}.items()
        }

    def _pin_host(self, exchange: Exchange, upstream: Upstream) -> None:
        """`pass_host` wins over whatever plugins set."""
        if upstream.pass_host == "node":
            exchange.upstream_host = upstream.authority
        elif upstream.pass_host == "rewrite":
            exchange.upstream_host = upstream.upstream_host
