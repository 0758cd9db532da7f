"""What of an exchange with the runner is written down for whoever looks (see `dev.trail`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.route import PluginConf, Route
from gatewright.dev.apisix.routes import ASKING_PLUGINS
from gatewright.dev.trail import Phase, body_form, changes_between, current_phase, current_trail
from gatewright.gateways.apisix.replies import InfoRequest, InfoType, RespReply, Rewrite, Stop

__all__ = ["asking", "note_call", "note_failure", "note_reply", "note_route", "noted_phase"]

_KINDS = {InfoType.VAR: "var", InfoType.REQ_BODY: "request_body", InfoType.RESP_BODY: "response_body"}
Answering = Callable[[InfoRequest], Awaitable[bytes | None]]


@contextmanager
def noted_phase(exchange: Exchange, plugin: PluginConf, name: str) -> Iterator[Phase | None]:
    """A phase in which the runner is asked; at its end it is noted what the gateway changed.

    Args:
        exchange: the request.
        plugin: the ext-plugin's configuration.
        name: `request` or `response`.
    """
    trail = current_trail()
    if trail is None:
        yield None
        return
    stage = next((part for part in plugin.key.split("#") if part in ASKING_PLUGINS), "ext-plugin")
    before = _state(exchange)
    with trail.phase(name, stage, plugin.entries or (), plugin.key) as phase:
        try:
            yield phase
        finally:
            if name == "response" and "headers" in phase.came:  # they are the client's unless the reply says otherwise
                before["response_headers"] = phase.came["headers"]
            phase.made = _changes(before, _state(exchange))


def note_call(number: int, token: int, came: dict[str, Any]) -> None:
    """The runner is sent a call."""
    phase = current_phase()
    if phase is not None:
        phase.token, phase.came = token, came
        phase.expect("", number)


def asking(answer: Answering) -> Answering:
    """What answers questions, with each noted."""
    phase = current_phase()
    if phase is None:
        return answer

    async def noted(question: InfoRequest) -> bytes | None:
        began = perf_counter()
        kind = _KINDS.get(InfoType(question.kind) if question.kind in _KINDS else InfoType.NONE, "unknown")
        try:
            value = await answer(question)
        except Exception as error:
            phase.ask(kind, question.name or "", None, perf_counter() - began, str(error))
            raise
        if value is None or kind != "var":
            shown: Any = body_form(value)
        else:
            shown = value.decode("utf-8", "surrogateescape")
        phase.ask(kind, question.name or "", shown, perf_counter() - began)
        return value

    return noted


def note_reply(reply: Stop | Rewrite | RespReply | None) -> None:
    """The runner has replied."""
    phase = current_phase()
    if phase is None:
        return
    match reply:
        case None:
            phase.reply = {"kind": "nothing to change"}
        case Stop():
            phase.reply = {
                "kind": "stop", "status": reply.status, "headers": _pairs(reply.headers), "body": _body(reply.body),
            }  # fmt: skip
        case Rewrite():
            phase.reply = {
                "kind": "rewrite", "path": reply.path, "headers": _pairs(reply.headers), "query": _pairs(reply.args),
                "response_headers": {"headers": _pairs(reply.resp_headers)}, "body": _body(reply.body),
            }  # fmt: skip
        case RespReply():
            phase.reply = {
                "kind": "response", "status": reply.status, "headers": _pairs(reply.headers), "body": _body(reply.body),
            }  # fmt: skip


def note_route(route: Route | None) -> None:
    """A route was found, or none."""
    trail = current_trail()
    if trail is not None and route is not None:
        trail.route = {
            "id": str(route.id),
            "name": route.facts.get("route_name", ""),
            "paths": list(route.uris),
            "plugins": {
                name: [entry for entry, _ in conf.entries or ()] if name in ASKING_PLUGINS else []
                for name, conf in route.plugins.items()
            },
        }


def note_failure(error: Exception) -> None:
    """There was no reply."""
    phase = current_phase()
    if phase is not None:
        phase.error = str(error)


def _pairs(entries: Any) -> list[list[str | None]]:
    return [[name, value] for name, value in entries]


def _body(body: bytes) -> dict[str, Any] | None:
    return body_form(body) if body else None


def _state(exchange: Exchange) -> dict[str, Any]:
    """What of a request a reply can change."""
    headers = [(name, value) for name, value in exchange.headers if name.lower() != "host"]
    return {
        "target": exchange.proxy_target(),
        "method": exchange.method,
        "headers": [("host", exchange.upstream_host or ""), *headers],
        "body": exchange.body,
        "response_headers": list(exchange.response_headers),
    }


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    single = [
        {"of": of, "name": "", "before": before[of], "after": after[of]}
        for of in ("method", "target")
        if before[of] != after[of]
    ]
    if before["body"] != after["body"]:
        forms = body_form(before["body"]), body_form(after["body"])
        single.append({"of": "body", "name": "", "before": forms[0], "after": forms[1]})
    return [
        *single,
        *changes_between("header", before["headers"], after["headers"]),
        *changes_between("response header", before["response_headers"], after["response_headers"]),
    ]
