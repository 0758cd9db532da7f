"""`$graphql_name`, `$graphql_operation` and `$graphql_root_fields` of a request (core/ctx.lua).

The document is in the query of GET, and in the body of POST: whole, or under `query` where the type is exactly that of
JSON. APISIX parses it once. What is no document has no values; what Lua can't even complain about is an error.
"""

from __future__ import annotations

import json
import re
from typing import Final

from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.faults import LuaError
from gatewright.dev.apisix.graphql import first_definition
from gatewright.dev.messages import text_of

__all__ = ["graphql_value", "reads_body"]

_MOST: Final = 1 << 20


def reads_body(exchange: Exchange, name: str) -> bool:
    """Whether the request's body has to be read for a variable."""
    return name.startswith("graphql_") and exchange.method == "POST" and exchange.graphql is None


def graphql_value(exchange: Exchange, name: str) -> str | None:
    """The value of a variable, by what follows `graphql_`.

    Raises:
        LuaError: the request makes APISIX's Lua code abort.
    """
    if exchange.graphql is None:
        exchange.graphql = _parsed(exchange)
    return exchange.graphql.get(name)


def _parsed(exchange: Exchange) -> dict[str, str | None]:
    text = _document(exchange)
    found = None if text is None else first_definition(text)
    if found is None:
        return {}
    if None in found.fields:
        raise LuaError("a fragment without a name, whose name APISIX asks for")
    # A table, which Lua shows as its place in memory.
    return {"name": found.name, "operation": found.operation, "root_fields": f"table: {id(exchange):#014x}"}


def _document(exchange: Exchange) -> str | None:
    if exchange.method == "GET":
        values = exchange.args().get("query")
        if values and values[0] is None:
            raise LuaError("a `query` without a value is no text")
        return values[0] if values else None
    if exchange.method != "POST":
        return None
    exchange.body_read = True
    body = exchange.body
    if not body or len(body) > _MOST:
        return None
    if (exchange.header("Content-Type") or [""])[-1] != "application/json":
        return text_of(body)
    try:
        given = json.loads(re.sub(rb"^\xef\xbb\xbf", b"", body))
    except ValueError:
        return None
    if isinstance(given, bool | int | float) or given is None:
        raise LuaError("JSON that is no object")
    text = given.get("query") if isinstance(given, dict) else None
    if isinstance(given, dict) and "query" in given and not isinstance(text, str | int | float | bool):
        raise LuaError("a `query` that is no text")
    if text is True:
        raise LuaError("a `query` that is no text")
    return text if isinstance(text, str) else None
