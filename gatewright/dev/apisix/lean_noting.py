"""What a call over the lean path tells, written down for whoever looks (see `dev.trail`)."""

from __future__ import annotations

from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.lean_host import ResponseState
from gatewright.dev.nginx import parse_args
from gatewright.dev.trail import current_phase

__all__ = ["note_came"]


def note_came(exchange: Exchange, response: ResponseState | None = None) -> None:
    """A call over the lean path is about to be sent: what it tells, or would tell if it were asked."""
    phase = current_phase()
    if phase is None:
        return
    if response is not None:
        headers = [(name, value) for name, values in response.headers.items() for value in values]
        phase.came = {"status": response.status, "headers": headers}
        return
    path, question, query = exchange.upstream_uri.partition("?")
    phase.came = {
        "method": exchange.method, "path": path or exchange.uri,
        "query": [
            (name, value)
            for name, values in parse_args(query if question else exchange.args_text).items()
            for value in values
        ],
        "headers": [(name.lower(), value) for name, value in exchange.headers], "client_ip": exchange.client_ip,
    }  # fmt: skip
