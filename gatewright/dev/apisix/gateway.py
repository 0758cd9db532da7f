"""The gateway itself: one request's way through APISIX's phases, from top to bottom.

    match a route -> rewrite phase: pre-req, key-auth, proxy-rewrite -> access phase: post-req
    -> before_proxy: post-resp (which makes the upstream request itself) -> proxy

Where APISIX has a fault, the fault is shown as a warning that names it, with the cure.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from gatewright.dev.answers import with_page
from gatewright.dev.apisix.behaviour import BEHAVIOURS, Behaviour
from gatewright.dev.apisix.exchange import Exchange, LuaError
from gatewright.dev.apisix.rewriting import proxy_rewrite, response_rewrite
from gatewright.dev.apisix.routes import PluginConf, Route, Routes
from gatewright.dev.apisix.rpc import RpcError, RunnerClient, Timeouts
from gatewright.dev.apisix.variables import variable
from gatewright.dev.front import Front
from gatewright.dev.messages import Answer, ClientRequest, Headers, raw
from gatewright.dev.target import Upstream
from gatewright.dev.upstream import UpstreamAnswer, UpstreamError, send_request
from gatewright.errors import ProtocolError
from gatewright.gateways.apisix import replies
from gatewright.gateways.apisix.calls import METHODS, encode_http_req_call, encode_http_resp_call
from gatewright.gateways.apisix.frames import FrameType
from gatewright.gateways.apisix.replies import InfoType, Stop
from gatewright.settings import parse_address

__all__ = ["DevGateway"]

log = logging.getLogger("gatewright.dev")

_NOT_FORWARDED = frozenset(
    (
        "host", "connection", "content-length", "transfer-encoding", "te", "keep-alive", "expect", "upgrade",
        "x-real-ip", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port",
    )
)  # fmt: skip
_NOT_PASSED_BACK = frozenset(
    (
        "connection",
        "keep-alive",
        "transfer-encoding",
        "server",
        "x-pad",
        "upgrade",
        "proxy-connection",
        "trailer",
    )
)
_HAVE_BODIES = ("POST", "PUT", "PATCH")
"""Methods for which lua-resty-http announces a body, be it empty."""
_CLOSES = 408
"""The status with which nginx closes a connection without a word, if Lua exits with it."""
_UPSTREAM_TRIES = 2
_NOT_REPEATED = ("POST", "LOCK", "PATCH")
_RESTY_USER_AGENT = "lua-resty-http/0.16.1 (Lua) ngx_lua/10026"


def _refusal(status: int) -> Answer:
    """What nginx answers before APISIX sees anything of it."""
    return Answer(status, page=True, close=True, server="openresty")


class DevGateway:
    """An HTTP server that acts as APISIX does. For development only."""

    def __init__(
        self,
        routes: Routes,
        runner: str,
        *,
        timeouts: Timeouts | None = None,
        upstream_timeout: float = 60.0,
        server_header: str = "gatewright-dev",
        behaviour: Behaviour = BEHAVIOURS["3.9"],
    ) -> None:
        """Make a gateway.

        Args:
            routes: what to do with which request.
            runner: the runner's address, `unix:/path` or `tcp://host:port`.
            timeouts: towards the runner; APISIX's own by default.
            upstream_timeout: seconds for an upstream's whole answer.
            server_header: what the gateway calls itself.
            behaviour: which version it behaves as.
        """
        self.routes = routes
        self._behaviour = behaviour
        self._client = RunnerClient(parse_address(runner), timeouts or Timeouts())
        self._upstream_timeout = upstream_timeout
        self._front = Front(self.handle, server_header=server_header, refusal=_refusal)

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
        self._client.close()

    def know_token(self, key: str, token: int) -> None:
        """Start with a conf token that the gateway got earlier."""
        self._client.know_token(key, token)

    def replace_routes(self, routes: Routes) -> None:
        """Take new routes; as with any reload, every route is prepared anew."""
        self.routes = routes

    async def handle(self, request: ClientRequest) -> Answer:
        """Answer one request."""
        answer = await self._handle(request)
        log.info("%s %s -> %d", request.method, request.target, answer.status)
        return answer

    async def _handle(self, request: ClientRequest) -> Answer:
        exchange = Exchange(request, self._behaviour)
        route = self.routes.find(request.method, exchange.host, exchange.uri)
        if route is None:
            return _json(404, "404 Route Not Found")
        try:
            answer = await self._phases(exchange, route)
            if "response-rewrite" in route.plugins and answer.status:
                answer = response_rewrite(exchange, with_page(answer), route.plugins["response-rewrite"].conf)
            return answer
        except LuaError as error:
            log.warning("fault: APISIX aborts with a 500 page: %s", error)
            return Answer(500, page=True, close=True)

    async def _phases(self, exchange: Exchange, route: Route) -> Answer:
        plugins = dict(route.plugins)
        exchange.route_facts = route.facts
        exchange.upstream_scheme = route.upstream.scheme if route.upstream else "http"
        chains = [*self.routes.global_rules, plugins]
        for chain in chains:
            if (answer := await self._request_phase(exchange, chain, "ext-plugin-pre-req")) is not None:
                return answer
        if "key-auth" in plugins:
            answer, consumer = self._authenticate(exchange, plugins["key-auth"].conf, route)
            if answer is not None:
                return answer
            added = {name: conf for name, conf in consumer.items() if name not in plugins}
            plugins.update(consumer)
            if (answer := await self._request_phase(exchange, added, "ext-plugin-pre-req")) is not None:
                return answer
        if "proxy-rewrite" in plugins:
            proxy_rewrite(exchange, plugins["proxy-rewrite"].conf)
        upstream = route.upstream
        for chain in (*self.routes.global_rules, plugins):
            if (answer := await self._request_phase(exchange, chain, "ext-plugin-post-req")) is not None:
                return answer
        if upstream is None:
            log.warning("route %s has no upstream", route.id)
            return Answer(503, exchange.response_headers, page=True)
        self._pin_host(exchange, upstream)
        for chain in (*self.routes.global_rules, plugins):
            if "ext-plugin-post-resp" in chain:
                answer = await self._response_phase(exchange, chain["ext-plugin-post-resp"], upstream)
                if answer is not None:
                    return answer
        return await self._proxy(exchange, upstream)

    # --- request phases

    async def _request_phase(self, exchange: Exchange, chain: Mapping[str, PluginConf], name: str) -> Answer | None:
        plugin = chain.get(name)
        if plugin is None:
            return None

        def encode(token: int) -> bytes:
            if exchange.method not in METHODS:
                raise LuaError(f"method {exchange.method} is not in the protocol")
            try:
                return encode_http_req_call(
                    id=self._client.next_id(),
                    conf_token=token,
                    src_ip=variable(exchange, "binary_remote_addr") or b"",
                    method=exchange.method,
                    path=exchange.call_path(),
                    args=exchange.call_args(),
                    headers=exchange.call_headers(),
                )
            except ProtocolError as error:
                raise RpcError(str(error)) from None

        try:
            action = await self._client.call(
                plugin, FrameType.HTTP_REQ_CALL, encode, lambda question: self._answer(exchange, question, None),
                replies.decode_action,
            )  # fmt: skip
        except RpcError as error:
            return self._failed(exchange, plugin, error)
        if action is None:
            return None
        if isinstance(action, Stop):
            answer = exchange.stop_answer(action)
            answer.framing = "stop"
            return Answer(0) if answer.status == _CLOSES else answer
        exchange.apply_rewrite(action)
        return self._check_announced_length(exchange)

    @staticmethod
    def _check_announced_length(exchange: Exchange) -> Answer | None:
        announced, exchange.announced_length = exchange.announced_length, None
        came = len(exchange.request.body)
        if announced is None or announced == came:
            return None
        if announced > came:
            log.warning(
                "fault: content-length %d was set before the client's body of %d bytes was read: APISIX waits 60 s for "
                "the rest and closes without an answer; read the body first", announced, came,
            )  # fmt: skip
            return Answer(0)
        log.warning("fault: content-length %d was set before the body was read, which cuts it", announced)
        if not exchange.body_changed:
            exchange.body = exchange.body[:announced]
        return None

    def _failed(self, exchange: Exchange, plugin: PluginConf, error: RpcError) -> Answer | None:
        log.error("%s", error)
        if plugin.allow_degradation:
            log.warning("Plugin Runner is wrong, allow degradation")
            return None
        return Answer(503, exchange.response_headers, page=True)

    def _answer(
        self, exchange: Exchange, question: replies.InfoRequest, upstream: list[UpstreamAnswer] | None
    ) -> bytes | None:
        if question.kind == InfoType.VAR:
            return variable(exchange, question.name or "")
        if question.kind == InfoType.REQ_BODY:
            exchange.body_read = True
            if exchange.request.framing == "h2" and not self._behaviour.reads_unsized_bodies:
                log.error("failed to read request body: HTTP/2 without content-length")
                return None
            return exchange.body or None
        if question.kind == InfoType.RESP_BODY:
            if not upstream:
                log.error("failed to read response body: not there, or read before")
                return None
            return upstream.pop().body
        raise RpcError(f"failed to handle RPC_EXTRA_INFO: unsupported info type: {question.kind}")

    def _authenticate(
        self, exchange: Exchange, conf: Mapping[str, Any], route: Route
    ) -> tuple[Answer | None, dict[str, PluginConf]]:
        header = str(conf.get("header", "apikey")).lower()
        key = next(iter(exchange.table.get(header, ())), None) or next(
            iter(exchange.args().get(str(conf.get("query", "apikey")), ())), None
        )
        if key is None:
            return _json(401, "Missing API key found in request", key="message"), {}
        if key not in self.routes.consumers:
            return _json(401, "Invalid API key in request", key="message"), {}
        name, plugins = self.routes.consumers[key]
        exchange.consumer_name = name
        version = self.routes.version
        merged = {
            plugin: PluginConf(
                conf, f"{route.conf_type}&consumer#{route.conf_id}&{name}#{plugin}#{route.version}&{version}"
            )
            for plugin, conf in {**{n: c.conf for n, c in route.plugins.items()}, **plugins}.items()
            if plugin.startswith("ext-plugin")
        }
        return None, merged

    def _pin_host(self, exchange: Exchange, upstream: Upstream) -> None:
        """`pass_host` wins over whatever plugins set."""
        if upstream.pass_host == "node":
            exchange.upstream_host = upstream.authority
        elif upstream.pass_host == "rewrite":
            exchange.upstream_host = upstream.upstream_host

    # --- response phase

    async def _response_phase(self, exchange: Exchange, plugin: PluginConf, upstream: Upstream) -> Answer | None:
        """Post-resp: make the upstream request, show its answer to the runner, and answer as it says."""
        if exchange.request.framing == "h2" and not self._behaviour.reads_unsized_bodies:
            log.error("failed to request: HTTP/2 without content-length")
            return Answer(502, page=True)
        if exchange.request.body_is_broken:
            return Answer(400, page=True)
        try:
            got = await self._subrequest(exchange, upstream)
        except UpstreamError as error:
            log.error("failed to request: %s", error)
            return Answer(502, exchange.response_headers, page=True)
        exchange.balancer = upstream.host, upstream.port
        headers = got.headers
        answer = Answer(got.status, headers, got.body)
        unread = [got]
        bodyless = got.framing == "none" or (got.framing in ("chunked", "close") and not got.body)

        def encode(token: int) -> bytes:
            shown = [(n, (exchange.upstream_host or "") if n.lower() == "host" else v) for n, v in headers]
            return encode_http_resp_call(id=self._client.next_id(), conf_token=token, status=got.status, headers=shown)

        try:
            _, reply = await self._client.call(
                plugin, FrameType.HTTP_RESP_CALL, encode, lambda question: self._answer(exchange, question, unread),
                replies.decode_resp_reply,
            )  # fmt: skip
        except RpcError as error:
            log.error("%s", error)
            log.warning("fault: after a failed response phase all of the upstream's headers are lost")
            if plugin.allow_degradation:
                status = got.status
                log.warning("Plugin Runner is wrong, allow degradation")
            else:
                status = 503
            if bodyless:
                return self._second_request()
            return Answer(status, exchange.response_headers, got.body)
        exchange.apply_resp_reply(reply, answer)
        if reply.body:
            if reply.status == _CLOSES:
                return Answer(0)
            return Answer(reply.status or got.status, exchange.response_headers, reply.body)
        if bodyless:
            return self._second_request()
        return Answer(reply.status or got.status, exchange.response_headers, got.body)

    @staticmethod
    def _second_request() -> None:
        log.warning(
            "fault: the upstream's answer has no body and the reply brought none: APISIX now sends the request "
            "upstream a second time; a runner prevents that with any non-empty body"
        )

    async def _subrequest(self, exchange: Exchange, upstream: Upstream) -> UpstreamAnswer:
        headers = exchange.subrequest_headers()
        names = {name.lower() for name, _ in headers}
        if "host" not in names:
            headers.append(("Host", upstream.authority))
        if "user-agent" not in names:
            headers.append(("User-Agent", _RESTY_USER_AGENT))
        if (
            (exchange.body or exchange.method in _HAVE_BODIES)
            and "content-length" not in names
            and "transfer-encoding" not in names
        ):
            headers.append(("Content-Length", str(len(exchange.body))))
        declared = next((value for name, value in headers if name.lower() == "content-length"), None)
        if exchange.body_changed and declared is not None and declared != str(len(exchange.body)):
            log.warning(
                "fault: with post-resp the upstream gets the client's content-length %s with a body of %d bytes; "
                "read the body first and set content-length", declared, len(exchange.body),
            )  # fmt: skip
        if "transfer-encoding" in names:
            log.warning("fault: a chunked body goes upstream unchunked under `transfer-encoding: chunked`")
        return await send_request(
            upstream.host,
            upstream.port,
            tls=upstream.scheme == "https",
            method=exchange.method,
            target=exchange.subrequest_target(),
            headers=headers,
            body=exchange.body,
            timeout=self._upstream_timeout,
        )

    # --- proxy

    async def _proxy(self, exchange: Exchange, upstream: Upstream) -> Answer:
        """Nginx's `proxy_pass`."""
        request = exchange.request
        if request.body_is_broken and not exchange.body_changed:
            return Answer(400, exchange.response_headers, page=True)
        forwarded = next((v for n, v in exchange.headers if n.lower() == "x-forwarded-for"), "")
        headers: Headers = [("Host", exchange.upstream_host)] if exchange.upstream_host else []
        headers += [
            ("X-Real-IP", exchange.client_ip),
            ("X-Forwarded-For", f"{forwarded}, {exchange.client_ip}" if forwarded else exchange.client_ip),
            ("X-Forwarded-Proto", exchange.table.get("x-forwarded-proto", ["http"])[0]),
            ("X-Forwarded-Host", exchange.table.get("x-forwarded-host", [exchange.host])[0]),
            ("X-Forwarded-Port", exchange.table.get("x-forwarded-port", [str(request.server_port)])[0]),
        ]
        if exchange.body or request.framing in ("content-length", "chunked"):
            headers.append(("Content-Length", str(len(exchange.body))))
        headers += [(n, v) for n, v in exchange.headers if n.lower() not in _NOT_FORWARDED]
        target = exchange.proxy_target()
        if not target.startswith("/"):
            log.warning("fault: the runner set a path without a leading slash: 502")
            return self._bad_gateway(exchange, ["502"])
        tries: list[str] = []
        while len(tries) < _UPSTREAM_TRIES:
            try:
                got = await send_request(
                    upstream.host,
                    upstream.port,
                    tls=upstream.scheme == "https",
                    method=exchange.method,
                    target=target,
                    headers=headers,
                    body=exchange.body,
                    timeout=self._upstream_timeout,
                )
            except UpstreamError as error:
                log.error("%s while reading response header from upstream", error)
                tries.append("502")
                if exchange.method in _NOT_REPEATED:
                    break
                continue
            passed = [(n, v) for n, v in got.headers if n.lower() not in _NOT_PASSED_BACK]
            answer = Answer(got.status, [*exchange.response_headers, *passed], got.body, framing="proxied")
            answer.reason = got.reason
            if not got.complete:
                log.warning(
                    "fault: the upstream broke its answer off; the client gets what came, and a closed connection"
                )
                answer.close = True
            if 500 <= got.status <= 599:
                answer.headers.append(("X-APISIX-Upstream-Status", str(got.status)))
            return answer
        return self._bad_gateway(exchange, tries)

    @staticmethod
    def _bad_gateway(exchange: Exchange, tries: list[str]) -> Answer:
        headers = [*exchange.response_headers]
        if len(tries) > 1:
            headers.append(("X-APISIX-Upstream-Status", ", ".join(tries)))
        return Answer(502, headers, page=True)


def _json(status: int, message: str, *, key: str = "error_msg") -> Answer:
    return Answer(status, [("Content-Type", "application/json")], raw(json.dumps({key: message}) + "\n"))
