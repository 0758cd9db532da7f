"""`kong.log`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from gatewright.dev.kong.pdk.core import FUNCTIONS, Pdk, function, query_table, string

log = logging.getLogger("gatewright.dev.kong")
_LEVELS: Final = {
    "emerg": logging.CRITICAL,
    "alert": logging.CRITICAL, "crit": logging.CRITICAL, "err": logging.ERROR, "warn": logging.WARNING,
    "notice": logging.INFO, "info": logging.INFO, "debug": logging.DEBUG, "deprecation": logging.WARNING,
}  # fmt: skip


def _log(level: str) -> Callable[..., None]:
    def write(pdk: Pdk, *values: Any) -> None:
        words = "".join(json.dumps(value) if isinstance(value, dict | list) else str(value) for value in values)
        log.log(_LEVELS[level], "[%s] %s: %s", level, pdk.exchange.plugin_name, words)

    return write


for _level in _LEVELS:
    function(f"log.{_level}", later=True)(_log(_level))
FUNCTIONS["kong.log"] = FUNCTIONS["kong.log.notice"]


@function("log.set_serialize_value", later=True)
def _set_serialize_value(pdk: Pdk, name: Any, value: Any) -> None:
    pdk.exchange.log_values[string(name, "key")] = value


@function("log.serialize", ("log",), later=True)
def _serialize(pdk: Pdk) -> str:
    exchange = pdk.exchange
    match, request = exchange.match, exchange.request
    entry: dict[str, Any] = {
        "client_ip": request.client_ip,
        "started_at": int(exchange.began * 1000),
        "request": {
            "method": exchange.method,
            "uri": request.target,
            "url": f"http://{exchange.host}:{request.server_port}{request.target}",
            "headers": exchange.headers.table(100),
            "querystring": query_table(exchange.query, 100),
            "size": len(request.body),
            "id": exchange.id,
        },
        "response": {"status": exchange.status, "headers": exchange.response_headers.table(100)},
        "route": match.route if match else None,
        "service": match.service if match else None,
        "consumer": exchange.consumer,
        "latencies": {"request": int((time.time() - exchange.began) * 1000)},
        "upstream_uri": exchange.upstream_path,
        "workspace": "default",
    }
    for name, value in exchange.log_values.items():
        *path, last = name.split(".")
        place = entry
        for part in path:
            inner = place.get(part)
            place[part] = place = inner if isinstance(inner, dict) else {}
        place[last] = value
    return json.dumps({key: value for key, value in entry.items() if value is not None})
