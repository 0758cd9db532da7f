"""`on_request`, `on_response` and `on_log(request, response)` on Kong.

A call's facts are fetched through the PDK when a handler looks at them (see `native_call`), and its changes written
back in as few PDK calls as there are kinds of them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import quote

from gatewright.http import Call, RequestCall, Response, ResponseCall
from gatewright.runtime.chain import Chain
from gatewright.runtime.kept import pack
from gatewright.runtime.strands import Strand
from gatewright.server.drivers.kong.event import Event
from gatewright.server.drivers.kong.native_call import CTX, Facts, Questions

__all__ = ["run_access", "run_log", "run_response"]

Write = tuple[str, tuple[Any, ...]]
"""A PDK call that gives nothing."""
Writes = list[Write]

_QUERY_SAFE = "-._~!$'()*,;:@/?"


class _ResponseCall(ResponseCall):
    """A response whose status is asked for when somebody looks at it."""

    source: Facts

    @property
    def response_status(self) -> int:  # type: ignore[override]  # nobody sets it
        """The upstream's status."""
        return self.source.status


def run_access(chain: Chain, event: Event, strand: Strand, fetched_first: MutableMapping[str, bool]) -> None:
    """Run `on_request` and write its changes back.

    Args:
        chain: the plugin.
        event: the phase `access` of a request.
        strand: that this runs in.
        fetched_first: see `Facts`.

    Raises:
        PhaseExit: the plugin answered the request.
    """
    facts = Facts(event, fetched_first)
    call = RequestCall(facts, 0)
    _prepare(call, chain, event, strand, facts)
    if fetched_first[chain.name] and chain.steps[0].is_async("request"):
        try:
            _fetch(call, facts, strand)
        except Exception as error:
            chain.failed_before(error, strand, "request")
            return  # goes on without it
    response = chain.run_request(call, strand)
    if response is not None:
        _exit(event, response.status, response.content, _response_headers(response))
    writes = _request_writes(call)
    if call.kept_ctx:
        writes.append(_ctx_write(call.kept_ctx))
    event.say_last(writes)


def run_response(chain: Chain, event: Event, strand: Strand, fetched_first: MutableMapping[str, bool]) -> None:
    """Run `on_response` and write its changes back. For the arguments see `run_access`.

    Raises:
        PhaseExit: the plugin replaced the body, so Kong answers with it.
    """
    facts = Facts(event, fetched_first)
    call = _ResponseCall(facts, 0)
    call.response_source = facts.read_answer_headers
    _prepare(call, chain, event, strand, facts)
    if fetched_first[chain.name] and chain.steps[0].is_async("response"):
        try:
            facts.fetch_answer()
            _fetch(call, facts, strand)
        except Exception as error:
            chain.failed_before(error, strand, "response")
            return  # goes on without it
    chain.run_response(call, strand)
    changed = call.seen_response_headers.changes if call.seen_response_headers is not None else {}
    writes = [_ctx_write(call.kept_ctx)] if call.kept_ctx else []
    if call.response_body is not None:
        kept = {name: list(values) for name, values in changed.items() if values}
        writes += [("kong.response.clear_header", (name,)) for name, values in changed.items() if not values]
        for method, args in writes:
            event.call(method, args)
        _exit(event, call.status_change or call.response_status, call.response_body, kept)
    if call.status_change > 0:
        writes.append(("kong.response.set_status", (call.status_change,)))
    if changed:
        writes += _header_writes("kong.response", changed)
    event.say_last(writes)


def run_log(chain: Chain, event: Event, strand: Strand, fetched_first: MutableMapping[str, bool]) -> None:
    """Run `on_log(request, response)`. For the arguments see `run_access`."""
    facts = Facts(event, fetched_first)
    call = _ResponseCall(facts, 0)
    call.response_source = facts.read_answer_headers
    _prepare(call, chain, event, strand, facts)
    chain.run_log(call, strand)


def _prepare(call: Call, chain: Chain, event: Event, strand: Strand, facts: Facts) -> None:
    call.asker = Questions(event)
    call.ctx_source = facts.read_ctx
    call.route, call.trace = chain.key, event.trace
    strand.call = call
    strand.work, strand.deadline = chain.steps[0], 0.0


def _fetch(call: Call, facts: Facts, strand: Strand) -> None:
    facts.fetch()
    if not strand.bridge.waits_here:
        call.ctx  # noqa: B018 - fetched by this


def _ctx_write(kept: dict[str, Any]) -> Write:
    return "kong.ctx.shared.set", (CTX, base64.b64encode(pack(kept)).decode())


def _request_writes(call: Call) -> Writes:
    writes: Writes = []
    if call.path is not None:
        path = quote(call.path, safe="/-._~!$&'()*+,;=:@", errors="surrogateescape")
        writes.append(("kong.service.request.set_path", (path,)))
    if call.seen_query is not None and call.seen_query.changes:
        valueless = {n for n, value in call.source.read_args() if value is None} - call.seen_query.changes.keys()
        entries = [(n, None if n in valueless else value) for n, value in call.seen_query.multi_items()]
        writes.append(("kong.service.request.set_raw_query", (_format_query(entries),)))
    if call.seen_headers is not None and (changes := call.seen_headers.changes):
        writes += _header_writes("kong.service.request", changes)
    if call.body is not None:
        writes.append(("kong.service.request.set_raw_body", (call.body,)))
    if call.seen_response_headers is not None and (changes := call.seen_response_headers.changes):
        writes += _header_writes("kong.response", changes)
    return writes


def _header_writes(where: str, changes: Mapping[str, Sequence[str] | None]) -> Writes:
    if len(changes) == 1:  # as it usually is
        ((name, new),) = changes.items()
        if new and len(new) == 1:
            return [(f"{where}.set_header", (name, new[0]))]
    kept = {name: list(values) for name, values in changes.items() if values}
    writes: Writes = []
    if len(kept) == 1 and len(values := next(iter(kept.values()))) == 1:  # costs both sides less than a table
        writes.append((f"{where}.set_header", (next(iter(kept)), values[0])))
    elif kept:
        writes.append((f"{where}.set_headers", (kept,)))
    if len(kept) < len(changes):
        writes += [(f"{where}.clear_header", (name,)) for name, values in changes.items() if not values]
    return writes


def _exit(event: Event, status: int, body: bytes, headers: Mapping[str, list[str]]) -> None:
    event.call("kong.response.exit", (status, body, dict(headers)))


def _response_headers(response: Response) -> dict[str, list[str]]:
    return {name: list(response.headers.get_all(name)) for name in response.headers}


def _format_query(entries: Sequence[tuple[str, str | None]]) -> str:
    parts = []
    for name, value in entries:
        encoded = quote(name, safe=_QUERY_SAFE, errors="surrogateescape")
        parts.append(
            encoded if value is None else f"{encoded}={quote(value, safe=_QUERY_SAFE, errors='surrogateescape')}"
        )
    return "&".join(parts)
