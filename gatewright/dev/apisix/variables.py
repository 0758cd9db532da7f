"""Variables as a runner gets them: nginx's, and those that APISIX has on top (core/ctx.lua).

APISIX looks a name up in its own table first (prefixes such as `arg_`, with their case), else asks nginx, whose names
are in any case. What was found once is kept for the rest of the request, but for the arguments, which may be changed.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from gatewright.dev.apisix.credentials import basic_user, lua_cookie, nginx_cookie
from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.expressions import LuaValue
from gatewright.dev.apisix.graphql_requests import graphql_value
from gatewright.dev.messages import raw, text_of
from gatewright.dev.nginx import parse_args

__all__ = ["lua_value", "resolved", "variable"]

_NOT_KEPT: Final = frozenset(("args", "is_args"))
_ROOT: Final = "/usr/local/apisix/html"  # where its packages put it
_FORM: Final = "application/x-www-form-urlencoded"


def _joined(exchange: Exchange, name: str) -> str | None:
    """`$http_name`: of a header that came more than once, all values."""
    values = [value for present, value in exchange.headers if present.lower().replace("-", "_") == name]
    return ("; " if name == "cookie" else ", ").join(values) if values else None


def _non_empty(text: str) -> str | None:
    return text or None


def _forwarded_for(exchange: Exchange) -> str:
    came = _joined(exchange, "x_forwarded_for")
    return exchange.client_ip if came is None else f"{came}, {exchange.client_ip}"


def _request_body(exchange: Exchange) -> str | None:
    announced = exchange.request.framing in {"content-length", "chunked", "h2"}
    if exchange.is_unreadable:
        return None
    return _text(exchange.body) if exchange.body_read and (exchange.body or announced) else None


def _request_length(exchange: Exchange) -> str:
    request = exchange.request
    return str(request.head_size + (len(request.wire or request.body) if exchange.body_read else 0))


def _content_length(exchange: Exchange) -> str | None:
    if exchange.body_read and exchange.request.framing in {"chunked", "h2"} and not exchange.is_unreadable:
        return str(len(exchange.body))
    return _joined(exchange, "content_length")


def _nginx_uri(exchange: Exchange) -> str:
    return exchange.uri if exchange.nginx_uri is None else exchange.nginx_uri


def _connection(exchange: Exchange) -> str:
    if exchange.status == 101:
        return "upgrade"
    return "keep-alive" if exchange.request.keep_alive and exchange.request.version != "2" else "close"


def _is_msie(exchange: Exchange) -> str:
    agent = _joined(exchange, "user_agent") or ""
    return "1" if 0 <= agent.find("MSIE ") < len(agent) - 7 and "Opera" not in agent else ""


_NGINX: Final[dict[str, Callable[[Exchange], str | None]]] = {
    "ancient_browser": lambda _: "1",
    "args": lambda exchange: _non_empty(exchange.args_text),
    "body_bytes_sent": lambda _: "0",
    "bytes_sent": lambda _: "0",
    "connection_requests": lambda exchange: str(exchange.request.number),
    "content_length": _content_length,
    "content_type": lambda exchange: _joined(exchange, "content_type"),
    "document_root": lambda _: _ROOT,
    "document_uri": _nginx_uri,
    "echo_cacheable_request_uri": _nginx_uri,
    "echo_client_request_headers": lambda exchange: _non_empty(text_of(exchange.request.head)),
    "echo_client_request_method": lambda exchange: exchange.request.method,
    "echo_request_body": _request_body,
    "echo_request_method": lambda exchange: exchange.request.method,
    "echo_request_uri": _nginx_uri,
    "host": lambda exchange: exchange.host,
    "hostname": lambda _: socket.gethostname(),
    "http2": lambda exchange: "h2c" if exchange.request.version == "2" else "",
    "http3": lambda _: "",
    "http_host": lambda exchange: _of_client(exchange, "host"),
    "https": lambda _: "",
    "invalid_referer": lambda _: "",
    "is_args": lambda exchange: exchange.is_args,
    "limit_rate": lambda _: "0",
    "modern_browser": lambda _: "",
    "msie": _is_msie,
    "nginx_version": lambda exchange: exchange.behaviour.nginx,
    "pipe": lambda _: ".",
    "proxy_add_x_forwarded_for": _forwarded_for,
    "query_string": lambda exchange: _non_empty(exchange.args_text),
    "realip_remote_addr": lambda exchange: exchange.request.client_ip,
    "realip_remote_port": lambda exchange: str(exchange.request.client_port),
    "remote_addr": lambda exchange: exchange.client_ip,
    "realpath_root": lambda _: _ROOT,
    "remote_port": lambda exchange: exchange.client_port,
    "remote_user": lambda exchange: basic_user(_joined(exchange, "authorization")),
    "request": lambda exchange: f"{exchange.request.method} {exchange.request.target} HTTP/{exchange.http_version}",
    "request_body": _request_body,
    "request_completion": lambda _: "",
    "request_filename": lambda exchange: _ROOT + _nginx_uri(exchange),
    "request_length": _request_length,
    "request_method": lambda exchange: exchange.request.method,
    "scheme": lambda _: "http",
    "sent_http_connection": _connection,
    "server_addr": lambda exchange: exchange.request.server_addr,
    "server_name": lambda _: "_",
    "server_port": lambda exchange: str(exchange.request.server_port),
    "server_protocol": lambda exchange: f"HTTP/{exchange.http_version}",
    "status": lambda exchange: str(exchange.status),
    "ctx_ref": lambda _: "",
    "uid_reset": lambda _: "",
    "upstream_connection": lambda exchange: exchange.upgrade[1],
    "upstream_mirror_host": lambda _: "",
    "upstream_mirror_uri": lambda _: "",
    "upstream_host": lambda exchange: exchange.upstream_host or "",
    "upstream_status": lambda exchange: exchange.upstream_facts.get("upstream_status"),
    "upstream_scheme": lambda exchange: exchange.upstream_scheme,
    "upstream_upgrade": lambda exchange: exchange.upgrade[0],
    "upstream_uri": lambda exchange: exchange.upstream_uri,
    "uri": lambda exchange: exchange.uri,
    "var_x_forwarded_host": lambda exchange: exchange.seen_from_outside()[0],
    "var_x_forwarded_port": lambda exchange: exchange.seen_from_outside()[1],
    "var_x_forwarded_proto": lambda exchange: None if exchange.behaviour.forwarded == "injected" else "http",
}
_PROXY_CACHE: Final = {
    "upstream_cache_bypass": "", "upstream_cache_key": "", "upstream_cache_zone": "off", "upstream_no_cache": "",
}  # fmt: skip
"""What its nginx.conf has for proxy-cache, which is there by default."""
_APISIX: Final[dict[str, Callable[[Exchange], str | None]]] = {
    "balancer_ip": lambda exchange: exchange.balancer[0] if exchange.balancer else None,
    "balancer_port": lambda exchange: str(exchange.balancer[1]) if exchange.balancer else None,
    "consumer_group_id": lambda exchange: exchange.route_facts.get("consumer_group_id"),
    "consumer_name": lambda exchange: exchange.consumer_name,
    "method": lambda exchange: exchange.request.method,
    "real_request_uri": lambda exchange: exchange.target.unparsed,
    "request_id": lambda exchange: exchange.request_id,
    "request_uri": lambda exchange: exchange.normal_uri,
    "resp_body": lambda _: "",
    "route_id": lambda exchange: exchange.route_facts.get("route_id"),
    "route_name": lambda exchange: exchange.route_facts.get("route_name"),
    "service_id": lambda exchange: exchange.route_facts.get("service_id"),
    "service_name": lambda exchange: exchange.route_facts.get("service_name"),
    "uri_param__method": lambda exchange: exchange.request.method,
    "uri_param__path": lambda exchange: exchange.route_facts.get("uri_param__path"),
}


def variable(exchange: Exchange, name: str) -> bytes | None:
    """A variable's value; `None` where it has none, or there is no such one."""
    if name in exchange.kept_variables:
        return exchange.kept_variables[name]
    value = _look_up(exchange, name)
    if value is not None and name not in _NOT_KEPT and not name.startswith("upstream_"):
        exchange.kept_variables[name] = value
    return value


def lua_value(exchange: Exchange, name: str) -> LuaValue:
    """A variable as APISIX's plugins and conditions see it: an argument without a value is `true`, a port a number."""
    value = variable(exchange, name)
    if value is None:
        return None
    if name == "balancer_port":
        return int(value)
    if name.startswith("arg_") and exchange.args().get(name[4:], [""])[0] is None:
        return True
    return text_of(value)


_VARIABLE: Final = re.compile(r"(?<!\\)\$(?:\{(\w+)\}|(\w+))")


def resolved(exchange: Exchange, text: str, change: Callable[[str], str] = str) -> str:
    """A text with its `$variables` filled in."""
    return _VARIABLE.sub(lambda match: change(text_of(variable(exchange, match[1] or match[2]) or b"")), text)


def _look_up(exchange: Exchange, name: str) -> bytes | None:
    if name == "binary_remote_addr":
        return ip_address(exchange.client_ip).packed
    if name in _APISIX:
        value = _APISIX[name](exchange)
    elif name.startswith("cookie_"):
        value = _cookie(exchange, name.removeprefix("cookie_"))
    elif name.startswith("arg_"):
        value = _of_args(exchange.args(), name[4:])
    elif name.startswith("post_arg_"):
        value = _form_field(exchange, name[9:])
    elif name.startswith("graphql_"):
        value = graphql_value(exchange, name[8:])
    elif name.startswith("http_"):
        value = _joined(exchange, re.sub("-", "_", name[5:].lower()))
    else:
        if name in exchange.behaviour.variables:
            return raw(exchange.behaviour.variables[name])
        lower = name.lower()
        if lower.startswith("sent_http_") and lower not in _NGINX:
            values = [v for n, v in exchange.response_headers if n.lower().replace("-", "_") == lower[10:]]
            return raw(", ".join(values)) if values else None
        if lower in _PROXY_CACHE:
            return raw(_PROXY_CACHE[lower])
        known = _NGINX.get(lower)
        value = known(exchange) if known is not None else _by_prefix(exchange, lower)
    return None if value is None else raw(value)


def _cookie(exchange: Exchange, name: str) -> str | None:
    if exchange.cookies is None:
        exchange.cookies = _joined(exchange, "cookie")
    return lua_cookie(exchange.cookies or "", name) if name else None


def _by_prefix(exchange: Exchange, name: str) -> str | None:
    """What nginx itself finds by a name's beginning, its own names being in any case."""
    prefix, _, rest = name.partition("_")
    if prefix == "http":
        return _joined(exchange, rest)
    if prefix == "cookie" and rest:
        return nginx_cookie(_joined(exchange, "cookie") or "", rest)
    if prefix == "arg" and rest:  # as it came, without its escapes undone
        found = (pair.partition("=") for pair in exchange.args_text.split("&"))
        return next((value for key, equals, value in found if equals and key.lower() == rest), None)
    return None


def _of_client(exchange: Exchange, name: str) -> str | None:
    return next((value for present, value in exchange.request.headers if present.lower() == name), None)


def _form_field(exchange: Exchange, name: str) -> str | None:
    if not (exchange.table.get("content-type") or [""])[0].startswith(_FORM):
        return None
    exchange.body_read = True
    return _of_args(parse_args(_text(exchange.body)), name)


def _of_args(args: dict[str, list[str | None]], name: str) -> str | None:
    """The first value of an argument; one without a value is Lua's `true`."""
    values = args.get(name)
    return None if not values else "true" if values[0] is None else values[0]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
