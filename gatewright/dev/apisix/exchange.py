"""One request on its way through the gateway: what the client sent, nginx's variables, and what each reply changes.

No I/O. The names are nginx's and APISIX's. Text is `str` with surrogateescape, so that any byte passes.

APISIX keeps two views of the request's headers: nginx's own list (sent to the upstream by `proxy_pass`), and a Lua
table that is filled once and then patched under the name *as the runner sent it*. The runner, and the request of
post-resp, get the table. With lower-case names both agree.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from time import perf_counter
from typing import Any

from gatewright.dev.apisix.behaviour import BEHAVIOURS, Behaviour
from gatewright.dev.apisix.faults import ClientGoneError, LuaError
from gatewright.dev.apisix.request_headers import header_added, header_set
from gatewright.dev.apisix.response_headers import EXCLUDED_RESPONSE_HEADERS, SINGLE, added, taken_over
from gatewright.dev.lean.operations import LeanState
from gatewright.dev.messages import Answer, ClientRequest, Headers, raw, text_of
from gatewright.dev.nginx import (
    Args,
    escape,
    format_args,
    forwarded_address,
    host_name,
    parse_args,
    set_header,
    split_target,
    valid_host,
)
from gatewright.gateways.apisix._reading import Entry
from gatewright.gateways.apisix.replies import RespReply, Rewrite

__all__ = ["EXCLUDED_RESPONSE_HEADERS", "ClientGoneError", "Exchange", "LuaError"]


class Exchange:
    """The state of one request."""

    def __init__(self, request: ClientRequest, behaviour: Behaviour = BEHAVIOURS["3.9"]) -> None:
        self.request = request
        self.behaviour = behaviour
        target = split_target(request.target)
        self.request_host = target.host
        self.target = target
        self.uri = target.uri
        self.is_args = "?" if target.args else ""
        self.args_text = target.args or ""
        self.normal_uri = target.uri + (f"?{target.args}" if target.args else "")
        """`$request_uri` as APISIX has it: normalised, and not touched by what rewrites the request."""
        self.upstream_uri = ""
        self.nginx_uri: str | None = None
        """What proxy-rewrite makes of nginx's own `$uri`; APISIX's, which it has asked for before, stays."""
        self.headers: Headers = [
            (name, value) for name, value in request.headers if re.fullmatch(r"[A-Za-z0-9_\-]+", name)
        ]
        self.host = self.request_host or host_name(self._first("host") or "") or "_"
        """`$host`: of the absolute target, the Host header, or the server's name; rewriting Host doesn't change it."""
        # nginx has looked at the Host already, so that it is kept whatever is set later.
        given = self._first("host")
        self.kept_variables: dict[str, bytes] = {"http_host": raw(given)} if given is not None else {}
        """What was asked for once and stays for the rest of the request."""
        self.graphql: dict[str, str | None] | None = None
        """What a GraphQL request says, once it's parsed."""
        self.cookies: str | None = None
        """The cookies as they were when one was first asked for: APISIX reads them once."""
        if behaviour.forwarded != "kept":
            self._replace_forwarded()
        self.method = request.method
        self.table = _table_of(self.headers, behaviour.most_headers)
        self._table_is_read = False
        self.upstream_host: str | None = self._first("host")
        self.client_ip = request.client_ip
        self.client_port = str(request.client_port)
        if "x-real-ip" in self.table and ip_address(request.client_ip).is_loopback:
            told = forwarded_address(self.table["x-real-ip"][0])
            self.client_ip, self.client_port = told or (self.client_ip, self.client_port)
        self.body = request.body
        self.most_body = 0
        """More bytes of a body in chunks aren't read; 0: any."""
        self._upload_is_read = False
        self._call_method: str | None = None
        self.body_read = False
        self.body_changed = False
        self.response_headers: Headers = []
        self._single = SINGLE - {"www-authenticate"} if behaviour.since(17) else SINGLE
        self._args: Args | None = None
        self.announced_length: int | None = None
        """A content-length that was set before the body was read: nginx then reads so many bytes. Of one that was
        removed, -1: it reads none."""
        self.sent_length: str | None = None
        """One that was set after the body was read, and is what the upstream is told; empty: it's told none."""
        self.status = 0
        """What the client is answered, for those who change the answer."""
        self.length_is_set = False
        """A runner has set the answer's Content-Length, or taken it away."""
        self.args_set = False
        self.has_asked = False
        """Post-resp has asked the upstream itself, in vain; it would again before nginx's second try, and may not."""
        self.upstream_scheme = "http"
        self.upgrade = ("", "")
        """Upgrade and Connection for the upstream, on a route that lets websockets pass."""
        self.balancer: tuple[str, int] | None = None
        """The node that was chosen, once one was."""
        self.route_facts: dict[str, str] = {}
        """`$route_id` and the like."""
        self.consumer_name: str | None = None
        self.lean = LeanState()
        self.plugins: Mapping[str, Any] = {}
        """Those of the route that was found, and of the consumer."""
        self.rules: Sequence[Mapping[str, Any]] = ()
        """The plugins of global rules that have seen the request."""
        self.conditions: dict[str, bool] = {}
        """Of plugins that run only if something is so: whether it is."""
        self.origin: str | None = None
        """Where a browser says that the request comes from."""
        self.ids: dict[str, list[str]] = {}
        """The request's ids, by header."""
        self.began = perf_counter()
        self.upstream_facts: dict[str, str] = {}
        """`upstream_status` and the like, of the last answer."""
        self.request_id = secrets.token_hex(16)

    def _first(self, name: str) -> str | None:
        return next((value for present, value in self.headers if present.lower() == name), None)

    def seen_from_outside(self) -> tuple[str, str]:
        """Host and port as APISIX names them to the upstream; of later versions as the Host header has them."""
        host, port = self.host, str(self.request.server_port)
        if self.behaviour.forwarded == "injected":
            given = text_of(self.kept_variables.get("http_host", b""))
            host, port = given or host, (re.search(":([0-9]+)$", given) or ["", port])[1]
        return host, port

    def _replace_forwarded(self) -> None:
        """Put what the gateway itself sees in the place of what the client says of proxies before it."""
        if self.request.version == "0.9":
            return
        host, port = self.seen_from_outside()
        if self.behaviour.forwarded == "observed":
            self.headers = set_header(self.headers, "X-Forwarded-For", [])
        self.headers = set_header(self.headers, "Forwarded", [])
        for name, value in (("Proto", "http"), ("Host", host), ("Port", port)):
            self.headers = set_header(self.headers, f"X-Forwarded-{name}", [value])

    async def read_body(self) -> None:
        """Read the client's body, as nginx does only when somebody wants it.

        Raises:
            ClientGoneError: there is no client any more.
        """
        if self._upload_is_read:
            return
        self._upload_is_read = True
        self.tell_to_go_on()
        if self.request.upload is not None:
            came = await self.request.upload()
            if came is None:
                raise ClientGoneError
            self.request = replace(self.request, body=came.body, body_is_broken=came.is_broken, wire=came.wire)
            if not self.body_changed:
                self.body = came.body

    @property
    def is_unreadable(self) -> bool:
        """Lua can't read the body of HTTP/2 without Content-Length, be there one or not; not so of later versions."""
        announced = any(name.lower() == "content-length" for name, _ in self.headers)
        return self.request.version == "2" and not announced and not self.behaviour.reads_unsized_bodies

    @property
    def body_fault(self) -> int:
        """The status that reading the body ends the request with; 0 if nothing is wrong with it."""
        if self.request.body_is_broken:
            return 400
        return 413 if self.most_body and len(self.request.body) > self.most_body else 0

    @property
    def body_is_left(self) -> bool:
        """Nobody has read the client's body."""
        return not self.body_read and not self._upload_is_read

    @property
    def waits_to_go_on(self) -> bool:
        """The client waits until it's told to send its body: so the request says, as it is by now."""
        expect = next((value for name, value in self.headers if name.lower() == "expect"), "")
        return self.request.version == "1.1" and expect.lower() == "100-continue"

    def tell_to_go_on(self) -> None:
        """Tell the client to send its body, if it waits for that."""
        if self.waits_to_go_on:
            self.request.go_on()

    def make_way(self) -> None:
        """What nginx does with a body that nobody has read before Lua prints an answer: away with it.

        A client that waits is told to go on for that. For HEAD older ones forget it, and take the body for a request.
        """
        if self.method != "HEAD":
            self.tell_to_go_on()
        elif self.body_is_left and not self.behaviour.since(17):
            self.request.give_back(self.request.wire or self.request.body)

    # --- what the runner is told

    def args(self) -> Args:
        """The arguments' table; APISIX parses the query once."""
        if self._args is None:
            self._args = parse_args(self.args_text)
        return self._args

    def call_path(self) -> str:
        """The path for the runner; a query that another plugin put into `upstream_uri` becomes the arguments."""
        if not self.upstream_uri:
            return self.uri
        path, question, query = self.upstream_uri.partition("?")
        if question:
            self.set_args_text(query)
        return path

    def call_method(self) -> str:
        """The method for the runner; APISIX asks for it once."""
        if self._call_method is None:
            self._call_method = self.method
        return self._call_method

    def call_args(self) -> list[tuple[str, str | None]]:
        """The arguments for the runner."""
        return [(name, value) for name, values in self.args().items() for value in values]

    def call_headers(self) -> list[tuple[str, str | None]]:
        """The headers for the runner, from the Lua table; from then on it is kept, and patched."""
        self._table_is_read = True
        return [
            (name, (self.upstream_host or "") if name == "host" else value)
            for name, values in self.table.items()
            for value in values
        ]

    def header(self, name: str) -> list[str]:
        """A header as APISIX's own plugins ask for it, which fills the table; of later versions the first value."""
        self._table_is_read = True
        values = self.table.get(name.lower(), [])
        return values[:1] if self.behaviour.first_header else list(values)

    @property
    def http_version(self) -> str:
        """The version as `$server_protocol` has it."""
        return "2.0" if self.request.version == "2" else self.request.version

    # --- what replies change

    def set_header(self, name: str, value: str | None) -> None:
        """`core.request.set_header`: an empty value deletes as an absent one does."""
        if name.lower() == "content-length":
            self._set_length(value)
        self.headers = header_set(self.headers, name, value)
        self._ask_again(name)
        key = name.lower() if self.behaviour.lower_names else name
        if not self._table_is_read:
            self.table = _table_of(self.headers, self.behaviour.most_headers)
        elif value is None:
            self.table.pop(key, None)
        else:
            self.table[key] = [value]

    def add_header(self, name: str, value: str) -> None:
        """`core.request.add_header`."""
        self.headers = header_added(self.headers, name, value)
        self._ask_again(name)
        if self._table_is_read:
            self.table.setdefault(name.lower() if self.behaviour.lower_names else name, []).append(value)
        else:
            self.table = _table_of(self.headers, self.behaviour.most_headers)

    def _ask_again(self, name: str) -> None:
        """A variable that is kept is that of the name as it is; the Host nginx has kept itself."""
        if self.behaviour.asks_again and name.lower() != "host":
            self.kept_variables.pop(f"http_{name.lower()}", None)

    def set_args_text(self, query: str) -> None:
        """Replace the query."""
        self.args_text = query
        self.args_set = True
        self.is_args = "?" if query else ""
        self._args = None

    def apply_rewrite(self, rewrite: Rewrite) -> None:
        """Path, headers, body, response headers, arguments: in this order, as APISIX applies them."""
        path = None
        if rewrite.path is not None:
            path = escape(rewrite.path)
            self.upstream_uri = path
            if self.behaviour.keeps_query and self.args_text:
                self.upstream_uri += "?" + self.args_text
        for name, value in rewrite.headers:
            lower = name.lower()
            if lower == "host" and value and not valid_host(re.sub(r"[\x01-\x20\x7f]", "_", value)):
                raise LuaError(f"a host of {value!r}")
            self.set_header(name, value)
            if name.lower() == "host":
                self.upstream_host = value
        if rewrite.body:
            if self.is_unreadable:
                raise LuaError("the body of an HTTP/2 request without Content-Length can't be replaced")
            self.body, self.body_read, self.body_changed = rewrite.body, True, True
            self.headers = set_header(self.headers, "Content-Length", [str(len(rewrite.body))])
            self.sent_length = None
        self.add_response_headers(rewrite.resp_headers, EXCLUDED_RESPONSE_HEADERS)
        if rewrite.args:
            self._apply_args(rewrite)
            if path is not None:
                # 3.9.1: the query comes back only with arguments in the reply.
                question = self.is_args if self.behaviour.keeps_query else "?"
                self.upstream_uri = path + question + self.args_text

    def _set_length(self, value: str | None) -> None:
        if value and not re.fullmatch("[0-9]+", value):
            raise LuaError(f"a content-length of {value!r}")
        if self.body_read:
            self.sent_length = value or ""
        elif self.request.framing != "chunked":
            self.announced_length = int(value) if value else -1

    def _apply_args(self, rewrite: Rewrite) -> None:
        args: Args = {name: list(values) for name, values in self.args().items()}
        changed: set[str] = set()
        for name, value in rewrite.args:
            if value is None:
                args.pop(name, None)
            elif name in changed and name in args:
                args[name].append(value)
                changed.add(name)
            else:
                args[name] = [value]
                changed.add(name)
        self.args_text = format_args(args)
        self.args_set = True
        self.is_args = "?" if self.args_text else ""
        self._args = None

    def add_response_headers(self, entries: Iterable[Entry], excluded: frozenset[str]) -> None:
        """Add what a runner sets on the answer (`response_headers.added`).

        Raises:
            LuaError: a Content-Length that is no number.
        """
        noted = self._noting_length(entries) if "content-length" not in excluded else entries
        for self.response_headers in added(self.response_headers, noted, excluded, self._single):  # noqa: B020 - as far as it goes
            pass

    def _noting_length(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for name, value in entries:
            self.length_is_set |= name.lower() == "content-length"
            yield name, value

    def apply_resp_reply(self, reply: RespReply, upstream: Answer) -> None:
        """The headers of an answer to the response phase."""
        if reply.headers:
            self.add_response_headers(reply.headers, frozenset())
        else:
            self.response_headers = taken_over(self.response_headers, upstream.headers, self._single)

    # --- what the upstream is sent

    def proxy_target(self) -> str:
        """The target for `proxy_pass`: what the client sent, byte for byte, unless something was changed."""
        if self.upstream_uri:
            return self.upstream_uri
        if self.args_set or not self.target.passed_on:
            path = escape(self.uri) if self.target.quoted else self.uri
            return path + self.is_args + self.args_text
        return self.target.unparsed

    def subrequest_target(self) -> tuple[str, str]:
        """Path and query for post-resp's own request: `$uri` goes out decoded, whatever is in it."""
        if not self.upstream_uri:
            return self.uri, self.args_text
        path, question, query = self.upstream_uri.partition("?")
        return path, query if question else self.args_text

    def subrequest_headers(self) -> Headers:
        """The headers for post-resp's own request: of names that differ only in case, the older value wins.

        (In APISIX that is up to the order in Lua's table; it's so where there are few.)
        """
        self._table_is_read = True
        merged: dict[str, tuple[str, list[str]]] = {}
        for name, values in self.table.items():
            lower = name.lower()
            if lower not in merged:
                merged[lower] = name, values
            else:
                merged[lower] = name, merged[lower][1]
        return [(name, value) for name, values in merged.values() for value in values]


def _table_of(headers: Headers, most: int) -> dict[str, list[str]]:
    """The table that Lua makes of the headers when they are first read; of all of them where `most` is 0."""
    table: dict[str, list[str]] = {}
    for name, value in headers[: most or None]:
        table.setdefault(name.lower(), []).append(value)
    return table
