"""APISIX's own plugins that rewrite: `proxy-rewrite` on the way to the upstream, `response-rewrite` on the way back.

They are here since routes have them beside a runner's plugins, and each changes what the other sees
(plugins/proxy-rewrite.lua, plugins/response-rewrite.lua).
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gatewright.dev.apisix.exchange import Exchange, LuaError
from gatewright.dev.apisix.expressions import condition_of
from gatewright.dev.apisix.response_headers import SINGLE
from gatewright.dev.apisix.variables import lua_value, resolved
from gatewright.dev.messages import Answer, Headers, raw, text_of
from gatewright.dev.nginx import escape, set_header

__all__ = ["proxy_rewrite", "response_rewrite"]

log = logging.getLogger("gatewright.dev")

_GROUP = re.compile(r"\$(?:\{(\d+)\}|(\d+))")
_OF_A_CHANGED_BODY = ("content-length", "content-encoding", "last-modified", "etag")


def proxy_rewrite(exchange: Exchange, conf: Mapping[str, Any]) -> None:
    """Change path, headers and method. The path is set from scratch, so that a runner's earlier path is lost."""
    if conf.get("host"):
        exchange.upstream_host = str(conf["host"])
    if exchange.upstream_uri:
        log.warning("fault: proxy-rewrite runs after pre-req and overwrites the path that the runner set")
    captures: Sequence[str] = ()
    if conf.get("use_real_request_uri_unsafe"):
        exchange.upstream_uri = exchange.target.unparsed
    else:
        captures = _rewrite_path(exchange, conf)
    _change_headers(exchange, conf.get("headers") or {}, captures)
    if conf.get("method"):
        exchange.method = str(conf["method"])


def _rewrite_path(exchange: Exchange, conf: Mapping[str, Any]) -> Sequence[str]:
    """Set the path; gives what the regular expression's groups matched."""
    captures: tuple[str, ...] = ()
    path, has_query = exchange.uri, False
    if conf.get("uri") is not None:
        path, has_query = resolved(exchange, str(conf["uri"]), lambda value: value.replace("?", "%3F", 1)), True
    elif conf.get("regex_uri"):
        has_query = "?" not in path
        pairs = conf["regex_uri"]
        for pattern, template in zip(pairs[::2], pairs[1::2], strict=False):
            match = re.search(pattern, path)
            if match is not None:
                captures = tuple(group or "" for group in (match[0], *match.groups()))
                path = path[: match.start()] + _filled(template, captures) + path[match.end() :]
                break
    before, question, query = path.partition("?") if has_query else (path, "", "")
    if exchange.behaviour.since(18):
        query = re.sub(r"[\0-\x1f\x7f]", lambda match: f"%{ord(match[0]):02X}", query)
    exchange.upstream_uri = escape(before) + question + query
    if re.search(r"[\0-\x1f\x7f]", exchange.upstream_uri):
        raise LuaError(f"unsafe byte in uri {exchange.upstream_uri!r}")
    exchange.nginx_uri = exchange.upstream_uri
    if exchange.is_args:
        exchange.upstream_uri += ("&" if question else "?") + exchange.args_text
    return captures


def _filled(template: str, captures: Sequence[str]) -> str:
    def group(match: re.Match[str]) -> str:
        number = int(match[1] or match[2])
        return captures[number] if number < len(captures) else ""

    return _GROUP.sub(group, template)


def _operations(headers: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[tuple[str, str]], list[str]]:
    """What to add, set and remove; the older form only sets."""
    if not {"add", "set", "remove"} & set(headers):
        return [], [(name, str(value)) for name, value in headers.items()], []
    add = headers.get("add") or {}
    if isinstance(add, list):  # response-rewrite's form
        add_pairs = [(name.strip(), value.strip()) for name, _, value in (entry.partition(":") for entry in add)]
    else:
        add_pairs = [(name, str(value)) for name, value in add.items()]
    set_pairs = [(name, str(value)) for name, value in (headers.get("set") or {}).items()]
    return add_pairs, set_pairs, list(headers.get("remove") or [])


def _change_headers(exchange: Exchange, headers: Mapping[str, Any], captures: Sequence[str]) -> None:
    add, to_set, remove = _operations(headers)
    for name, value in add:
        exchange.add_header(name, resolved(exchange, _filled(value, captures)))
    for name, value in to_set:
        exchange.set_header(name, resolved(exchange, _filled(value, captures)))
    for name in remove:
        exchange.set_header(name, None)


def response_rewrite(exchange: Exchange, answer: Answer, conf: Mapping[str, Any]) -> Answer:
    """Change an answer, wherever it comes from."""
    exchange.status = answer.status
    if conf.get("vars") and not condition_of(conf["vars"])(lambda name: lua_value(exchange, name)):
        return answer
    if conf.get("status_code"):
        answer.began = answer.began or answer.status
        answer.status, answer.status_line = int(conf["status_code"]), None
    exchange.status = answer.status
    body: bytes | None = None
    if conf.get("filters"):
        text = text_of(answer.body or b"")
        for each in conf["filters"]:
            count = 0 if each.get("scope") == "global" else 1
            text = re.sub(each["regex"], _GROUP.sub(r"\\\g<1>\g<2>", each["replace"]), text, count=count)
        held = answer.unended or answer.cut  # until the end, which doesn't come
        body = b"" if held else raw(text)
    elif conf.get("body") is not None:
        answer.unended = False
        body = base64.b64decode(conf["body"]) if conf.get("body_base64") else raw(str(conf["body"]))
    if body is not None:
        answer.headers = without(answer.headers, _OF_A_CHANGED_BODY)
        answer.body, answer.page, answer.unframed = body, False, ""
        answer.rewritten = answer.framing == "proxied" and not (answer.cut and conf.get("filters"))
    changes = conf.get("headers") or {}
    answer.headers = _changed(exchange, answer.headers, changes)
    _, to_set, remove = _operations(changes)
    servers = [resolved(exchange, value) for name, value in to_set if name.lower() == "server"]
    if servers or any(name.lower() == "server" for name in remove):
        answer.server = "" if any(name.lower() == "server" for name in remove) else servers[-1]
    return answer


def without(headers: Headers, names: Sequence[str]) -> Headers:
    """Headers without some; of one that there should be once, nginx knows the last, and takes away that."""
    for name in names:
        last = max((i for i, (present, _) in enumerate(headers) if present.lower() == name), default=None)
        if last is not None:
            headers = [*headers[:last], *headers[last + 1 :]]
    return headers


def _changed(exchange: Exchange, headers: Headers, changes: Mapping[str, Any]) -> Headers:
    add, to_set, remove = _operations(changes)
    for name, value in add:
        filled = resolved(exchange, value)
        headers = [*headers, *([(name, filled)] if filled else [])]
    for name, value in to_set:
        filled = resolved(exchange, value)
        headers = set_header(headers, name, [filled] if filled or name.lower() == "content-type" else [])
    for name in remove:
        if name.lower() in SINGLE and name.lower() not in ("content-type", "date"):
            headers = without(headers, [name.lower()])
        else:  # an empty type is none, and so is an empty date; without one, nginx would take its own
            headers = set_header(headers, name, [""] if name.lower() in ("content-type", "date") else [])
    return headers
