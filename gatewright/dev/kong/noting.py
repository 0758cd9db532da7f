"""What of a request's phases is written down for whoever looks (see `dev.trail`).

On Kong the gateway carries each PDK call out itself, so that what a plugin changed is what differs after its phase.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from gatewright.dev.kong.declarative import PluginEntry
from gatewright.dev.kong.exchange import Exchange, HeaderList
from gatewright.dev.kong.lean_host import ResponseState
from gatewright.dev.kong.lean_schema import chain_of
from gatewright.dev.kong.rpc import Exit, PdkFunction
from gatewright.dev.lean.client import LeanError
from gatewright.dev.nginx import parse_args
from gatewright.dev.trail import Phase, body_form, changes_between, current_phase, current_trail

__all__ = ["asking", "note_match", "note_uncalled", "noted_call", "noted_phase"]


@contextmanager
def noted_phase(exchange: Exchange, entry: PluginEntry, phase: str) -> Iterator[None]:
    """A phase of one plugin.

    Args:
        exchange: the request.
        entry: the plugin, as it's configured.
        phase: the phase's name.
    """
    trail = current_trail()
    if trail is None:
        yield
        return
    before = _state(exchange)
    instead: Exit | None = None
    with trail.phase(phase, phase, [(entry.name, json.dumps(entry.config))], entry.id) as noted:
        noted.carries_out, noted.came = True, _came(before, phase)
        try:
            yield
        except Exit as exit:
            instead = exit if phase == "response" else None
            noted.reply = {
                "kind": "exit", "status": exit.status, "body": body_form(exit.body),
                "headers": [[name, value] for name, values in exit.headers.items() for value in _listed(values)],
            }  # fmt: skip
            raise
        except Exception as error:
            noted.error = str(error)
            raise
        finally:
            noted.made = _changes(before, _state(exchange, instead))


def note_uncalled(entry: PluginEntry, phase: str, why: str, *, failed: bool = False) -> None:
    """A plugin of the request that isn't called.

    Args:
        entry: the plugin, as it's configured.
        phase: the phase's name.
        why: the reason.
        failed: for it the request fails.
    """
    trail = current_trail()
    if trail is not None:
        with trail.phase(phase, phase, [(entry.name, json.dumps(entry.config))], entry.id) as noted:
            noted.uncalled, noted.error = why, why if failed else ""


@contextmanager
def noted_call(
    exchange: Exchange, entry: PluginEntry, name: str, response: ResponseState | None = None
) -> Iterator[None]:
    """A call over the lean path, whose plugins the runner tells of one by one.

    Args:
        exchange: the request.
        entry: the plugin of Kong's, as it's configured.
        name: `request` or `response`.
        response: the answer that it is about, if there is one.
    """
    trail = current_trail()
    if trail is None:
        yield
        return
    before = _state(exchange)
    with trail.phase(name, entry.name, chain_of(entry.config), entry.id) as noted:
        noted.came = _told(exchange, response)
        try:
            yield
        except LeanError as error:
            noted.error = str(error)
            raise
        finally:
            noted.made = _changes(before, _state(exchange))


def _told(exchange: Exchange, response: ResponseState | None) -> dict[str, Any]:
    """What a call over the lean path tells, or would tell if it were asked."""
    if response is not None:
        headers = [(name, value) for name, values in response.headers.items() for value in values]
        return {"status": response.status, "headers": headers}
    query = [(name, value) for name, values in parse_args(exchange.query).items() for value in values]
    return {
        "method": exchange.method, "path": exchange.uri, "query": query, "client_ip": exchange.request.client_ip,
        "headers": [(name.lower(), value) for name, value in exchange.headers.entries],
    }  # fmt: skip


def _came(state: dict[str, Any], phase: str) -> dict[str, Any]:
    if phase in ("rewrite", "access"):
        return {"method": state["method"], "target": state["target"], "headers": state["headers"]}
    return {"status": state["status"], "headers": state["response_headers"]}


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def asking(pdk: PdkFunction) -> PdkFunction:
    """What runs PDK functions, with each noted."""
    phase = current_phase()
    return pdk if phase is None else _Asking(phase, pdk)


class _Asking:
    def __init__(self, phase: Phase, pdk: PdkFunction) -> None:
        self._phase, self._pdk = phase, pdk

    def __call__(self, method: str, args: Sequence[Any]) -> Any:
        began = perf_counter()
        shown = f"{method}({', '.join(_shown(arg) for arg in args)})"
        try:
            value = self._pdk(method, args)
        except Exit:
            self._phase.ask("pdk", shown, None, perf_counter() - began)
            raise
        except Exception as error:
            self._phase.ask("pdk", shown, None, perf_counter() - began, str(error))
            raise
        self._phase.ask("pdk", shown, _plain(value), perf_counter() - began)
        return value


def _plain(value: Any) -> Any:
    """A value as JSON can have it."""
    if isinstance(value, bytes):
        return body_form(value)
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _shown(argument: Any) -> str:
    if isinstance(argument, bytes):
        return f"{len(argument)} bytes"
    text = repr(argument)
    return text if len(text) <= 200 else f"{text[:200]}..."


def note_match(exchange: Exchange) -> None:
    """A route was found."""
    trail, match = current_trail(), exchange.match
    if trail is not None and match is not None:
        trail.route = {
            "id": match.route["id"],
            "name": match.route.get("name") or "",
            "paths": list(match.route.get("paths") or ()),
            "service": (match.service or {}).get("name") or "",
        }


def _state(exchange: Exchange, instead: Exit | None = None) -> dict[str, Any]:
    """All that plugins can change, as it is just now.

    Args:
        exchange: the request.
        instead: what a plugin says in place of the upstream's answer, which is carried out later.
    """
    query = f"?{exchange.query}" if exchange.query else ""
    upstreams = exchange.service_answer.body if exchange.service_answer is not None else None
    response_headers = HeaderList(exchange.response_headers.entries)
    for name, values in instead.headers.items() if instead is not None else ():
        response_headers.set(name.replace("_", "-"), _listed(values))
    return {
        "method": exchange.method,
        "target": f"{exchange.upstream_path}{query}",
        "status": (instead.status if instead is not None else exchange.status) or None,
        "headers": list(exchange.headers.entries),
        "body": exchange.body,
        "response_headers": list(response_headers.entries),
        "response body": instead.body or b"" if instead is not None else upstreams,
        "upstream": exchange.target or exchange.upstream_name or None,
        "consumer": (exchange.consumer or {}).get("username") or (exchange.consumer or {}).get("id"),
    }


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    single = [
        {"of": of, "name": "", "before": _plain(before[of]), "after": _plain(after[of])}
        for of in ("method", "target", "status", "upstream", "consumer", "body", "response body")
        if before[of] != after[of]
    ]
    return [
        *single,
        *changes_between("header", before["headers"], after["headers"]),
        *changes_between("response header", before["response_headers"], after["response_headers"]),
    ]
