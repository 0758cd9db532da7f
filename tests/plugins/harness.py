"""Plugins that come along, called over both gateways' protocols by a worker in the test's own process.

    def test_it(gateway: Gateway) -> None:
        route = gateway.route(("ip-restriction", {"deny": ["192.0.2.0/24"]}))
        assert route.request(client="192.0.2.7").status == 403

The same test runs for APISIX and for Kong over both protocols. What a request met is an `Outcome`, in the same words
for all of them.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from gatewright.gateways.apisix.replies import Rewrite
from gatewright.gateways.apisix.replies import Stop as ApisixStop
from gatewright.gateways.kong.msgpack_session import MsgPackSession
from gatewright.gateways.kong.protobuf_session import ProtoBufSession
from gatewright.plugin import Plugin
from gatewright.runtime.confs import instance_id_of, token_of
from gatewright.server.drivers.apisix.driver import driver as apisix_driver
from gatewright.server.drivers.kong.driver import driver as kong_driver
from gatewright.server.worker import leaving
from gatewright.server.worker.service import Service
from gatewright.settings import Settings
from tests.kong.messages import messages
from tests.kong.peer import Exited, MsgPackKong, ProtoBufKong
from tests.peer import Peer, Refused

__all__ = ["GATEWAYS", "Gateway", "Outcome", "Route"]

GATEWAYS = ("apisix", "kong-msgpack", "kong-protobuf")


@dataclass
class Outcome:
    """What became of a call.

    Attributes:
        status: of the answer; 0 if the call went on to the upstream, or the upstream's status was left.
        headers: of the answer, or to be added to the upstream's; names in lower case, values joined by ", ".
        body: of the answer.
        upstream: headers that the upstream gets and the client did not send so; `None`: removed.
        path: where it went, if that was changed.
        upstream_body: what is sent upstream, if that was changed.
        failed: a plugin failed, and the gateway was told so.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    upstream: dict[str, str | None] = field(default_factory=dict)
    path: str | None = None
    query: list[tuple[str, str]] | None = None
    upstream_body: bytes | None = None
    failed: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Worker:
    """A service on a loop of its own, in a thread, that listens at a unix socket."""

    def __init__(self, kind: str, plugins: Mapping[str, type[Plugin]], **settings: Any) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="gw-")
        self.path = Path(self._directory.name) / "s"
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._kind, self._plugins, self._settings = kind, plugins, Settings(**settings)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])
        self._thread.start()
        assert self._ready.wait(20)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        kong = self._kind != "apisix"
        made: asyncio.Future[Service] = loop.create_future()

        def make() -> Service:
            hash_token = instance_id_of if kong else token_of
            return Service(loop, self._settings, self._plugins, hash_token=hash_token)

        loop.call_soon(lambda: made.set_result(make()))
        service = self.service = await made
        service.start()
        if not kong:
            connect: Callable[[], asyncio.Protocol] = apisix_driver(service)
        else:
            session = MsgPackSession if self._kind == "kong-msgpack" else ProtoBufSession
            connect = partial(kong_driver, new_session=session, lua_style=False)(service)
        server = await loop.create_unix_server(connect, str(self.path))
        self._ready.set()
        await self._stop.wait()
        server.close()
        await leaving.drain(service)
        await leaving.close(service, 5)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._loop.close()
        self._directory.cleanup()


class Gateway:
    """A gateway's side, with a worker of its own.

    Args:
        kind: one of `GATEWAYS`.
        plugins: names of plugins that come along, which Kong has to be told of; APISIX finds them.
        own: plugin classes of the test's own.
    """

    def __init__(self, kind: str, plugins: Sequence[str] = (), own: Sequence[type[Plugin]] = (), **settings: Any):
        from gatewright.runtime.shipped import load_shipped

        known = {} if kind == "apisix" else {name: load_shipped(name) for name in plugins}
        self.kind = kind
        self.worker = Worker(kind, {**known, **{each.name: each for each in own}}, **settings)
        self._keys = 0

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.close()

    def route(self, *conf: tuple[str, Any], id: str = "") -> Route:
        """A route with some plugins. Two of the same id are the same route with another configuration."""
        self._keys += 1
        return Route(self, conf, id or str(self._keys))


@dataclass
class Pair:
    """A request, and what is left of it for its response."""

    id: str
    shared: dict[str, Any]


class Route:
    """A route's plugins with their configurations."""

    def __init__(self, gateway: Gateway, conf: Sequence[tuple[str, Any]], id: str) -> None:
        self._gateway, self.id = gateway, id
        self.conf = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in conf]
        self.pair = Pair("", {})
        self._instances: dict[str, int] = {}

    def request(
        self,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Mapping[str, str | Sequence[str]] | None = None,
        query: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        client: str = "127.0.0.1",
        consumer: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Let a request go through the plugins."""
        pairs = _listed(headers)
        self.pair = Pair(secrets.token_hex(16), {})
        facts = _Facts(path, method, pairs, list(query), body, client, consumer, dict(variables or {}), self.pair)
        if self._gateway.kind == "apisix":
            return self._apisix_request(facts)
        return self._kong(facts, "access", None)

    def response(
        self,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        request_headers: Mapping[str, str | Sequence[str]] | None = None,
        method: str = "GET",
        path: str = "/",
    ) -> Outcome:
        """Let the upstream's answer to the request of before go through the plugins."""
        pairs = _listed(request_headers)
        facts = _Facts(path, method, pairs, [], b"", "127.0.0.1", None, {}, self.pair)
        answer = status, dict(headers or {"content-type": "text/plain"}), body
        if self._gateway.kind == "apisix":
            return self._apisix_response(facts, *answer)
        return self._kong(facts, "response", answer)

    def answered(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        *,
        source: str = "service",
        method: str = "GET",
        path: str = "/",
    ) -> None:
        """Tell of the upstream's answer those plugins that only note it: on Kong, in the log phase."""
        if self._gateway.kind == "apisix":
            assert not self.response(status, headers, method=method, path=path).failed
            return
        facts = _Facts(path, method, [], [], b"", "127.0.0.1", None, {"source": source}, self.pair)
        self._kong(facts, "log", (status, dict(headers or {}), b""))

    # --- APISIX

    def _apisix_request(self, facts: _Facts) -> Outcome:
        with Peer.connect(self._gateway.worker.path) as peer:
            token = peer.prepare(*self.conf, key=f"route#{self.id}#ext-plugin-pre-req#1")
            try:
                action = peer.request(
                    token, facts.path, method=facts.method, headers=facts.headers, args=facts.query,
                    src_ip=ip_address(facts.client).packed, answers=facts.answers(),
                )  # fmt: skip
            except Refused:
                return Outcome(503, failed=True)
        if isinstance(action, ApisixStop):
            return Outcome(action.status or 200, _joined(action.headers), action.body)
        if not isinstance(action, Rewrite):
            return Outcome()
        sent = dict(facts.headers)
        upstream = {n: v for n, v in _values(action.headers).items() if sent.get(n) != v}
        query = [(n, v or "") for n, v in action.args if v is not None] if action.args else None
        return Outcome(
            headers=_joined(action.resp_headers), upstream=upstream, path=action.path or None, query=query,
            upstream_body=action.body or None,
        )  # fmt: skip

    def _apisix_response(self, facts: _Facts, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        with Peer.connect(self._gateway.worker.path) as peer:
            token = peer.prepare(*self.conf, key=f"route#{self.id}#ext-plugin-post-resp#1")
            answers = {**facts.answers(), "RESP_BODY": body}
            try:
                reply = peer.response(token, status, headers=list(headers.items()), answers=answers)
            except Refused:
                return Outcome(503, failed=True)
        return Outcome(reply.status, _joined(reply.headers), reply.body)

    # --- Kong

    def _kong(self, facts: _Facts, phase: str, answer: tuple[int, dict[str, str], bytes] | None) -> Outcome:
        path = self._gateway.worker.path
        is_msgpack = self._gateway.kind == "kong-msgpack"
        outcome = Outcome()
        with MsgPackKong(path) if is_msgpack else ProtoBufKong(path, messages()) as kong:
            for name, text in self.conf:
                if name not in self._instances:
                    config = {**json.loads(text), "route_id": self.id, "__seq__": 1}
                    self._instances[name] = kong.start(name, config)
                begin = len(kong.calls)
                try:
                    kong.event(self._instances[name], phase, facts.pdk(outcome, answer))
                except Exited as exited:
                    body = exited.body or b""
                    outcome.status = exited.status
                    outcome.body = body if isinstance(body, bytes) else str(body).encode("utf-8", "surrogateescape")
                    outcome.headers |= _joined(_pairs(exited.headers or {}))
                    outcome.failed = exited.status == 500 and not exited.headers
                    return outcome
                for method, args in kong.calls[begin:]:
                    facts.carry_out(outcome, method, args)
        return outcome


@dataclass
class _Facts:
    path: str
    method: str
    headers: list[tuple[str, str]]
    query: list[tuple[str, str]]
    body: bytes
    client: str
    consumer: str | None
    variables: dict[str, str]
    pair: Pair

    def answers(self) -> dict[str, bytes | None]:
        known: dict[str, bytes | None] = {
            "request_method": self.method.encode(),
            "server_protocol": b"HTTP/1.1",
            "upstream_uri": b"",
            "request_id": self.pair.id.encode(),
            "REQ_BODY": self.body or None,
            "consumer_name": self.consumer.encode() if self.consumer else None,
            "uri": self.path.encode(),
            "request_uri": self.uri.encode(),
            "is_args": b"?" if self.query else b"",
            "args": urlencode(self.query).encode(),
            "remote_addr": self.client.encode(),
        }
        if self.body:
            known["http_content_length"] = str(len(self.body)).encode()
        together = _joined(self.headers)
        known.update({f"http_{name.replace('-', '_')}": value.encode() for name, value in together.items()})
        known.update({name: value.encode() for name, value in self.variables.items()})
        return known

    @property
    def uri(self) -> str:
        return quote(self.path) + (f"?{urlencode(self.query)}" if self.query else "")

    def _header_lists(self) -> dict[str, list[str]]:
        lists: dict[str, list[str]] = {}
        for name, value in self.headers:
            lists.setdefault(name, []).append(value)
        return lists

    def pdk(self, outcome: Outcome, answer: tuple[int, dict[str, str], bytes] | None) -> dict[str, Callable[..., Any]]:
        status, headers, body = answer or (0, {}, b"")
        known = self.answers().items()
        variables = {name: value.decode("utf-8", "replace") for name, value in known if value is not None}
        kept = self.pair.shared
        return {
            "kong.request.get_method": lambda: self.method,
            "kong.request.get_path": lambda: quote(self.path),
            "kong.request.get_raw_query": lambda: urlencode(self.query),
            "kong.request.get_headers": lambda *_: self._header_lists(),
            "kong.request.get_header": lambda name: dict(self.headers).get(name),
            "kong.request.get_raw_body": lambda: self.body,
            "kong.client.get_ip": lambda: self.client,
            "kong.client.get_consumer": lambda: {"username": self.consumer, "id": "c1"} if self.consumer else None,
            "kong.router.get_route": lambda: {"id": "r1", "name": "a-route"},
            "kong.nginx.get_var": variables.get,
            "kong.ctx.shared.get": kept.get,
            "kong.ctx.shared.set": kept.__setitem__,
            "kong.response.get_source": lambda: self.variables.get("source", "service"),
            "kong.response.get_status": lambda: outcome.status or status,
            "kong.response.get_headers": lambda *_: {n.lower(): [v] for n, v in headers.items()},
            "kong.service.response.get_raw_body": lambda: body,
        }

    def carry_out(self, outcome: Outcome, method: str, args: Sequence[Any]) -> None:
        """Do what a plugin told Kong."""
        match method, args:
            case "kong.service.request.set_headers", [headers]:
                changed = _joined(_pairs(headers))
                outcome.upstream |= changed
                self.headers = [(n, v) for n, v in self.headers if n not in changed] + list(_pairs(headers))
            case "kong.service.request.set_header", [name, value]:
                self.carry_out(outcome, "kong.service.request.set_headers", [{name: value}])
            case "kong.response.set_header", [name, value]:
                self.carry_out(outcome, "kong.response.set_headers", [{name: value}])
            case "kong.service.request.clear_header", [name]:
                outcome.upstream[name] = None
                self.headers = [(n, v) for n, v in self.headers if n != name]
            case "kong.service.request.set_path", [path]:
                outcome.path = path
            case "kong.service.request.set_raw_query", [query]:
                outcome.query = parse_qsl(query, keep_blank_values=True)
            case "kong.service.request.set_raw_body", [body]:
                outcome.upstream_body = body
            case "kong.response.set_headers", [headers]:
                outcome.headers |= _joined(_pairs(headers))
            case "kong.response.set_status", [status]:
                outcome.status = status


def _listed(headers: Mapping[str, str | Sequence[str]] | None) -> list[tuple[str, str]]:
    return [
        (name.lower(), value)
        for name, values in {"host": "example.com", **(headers or {})}.items()
        for value in ([values] if isinstance(values, str) else values)
    ]


def _pairs(headers: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name.lower(), str(value))
        for name, values in headers.items()
        for value in (values if isinstance(values, list | tuple) else [values])
    ]


def _values(entries: Sequence[tuple[str, str | None]]) -> dict[str, str | None]:
    out: dict[str, str | None] = {}
    for name, value in entries:
        before = out.get(name.lower())
        out[name.lower()] = value if before is None or value is None else f"{before}, {value}"
    return out


def _joined(entries: Sequence[tuple[str, str | None]]) -> dict[str, str]:
    return {name: value or "" for name, value in _values(entries).items()}
