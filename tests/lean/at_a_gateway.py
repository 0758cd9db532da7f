"""`python -m tests.lean.at_a_gateway`: the shared conformance table at a real gateway, which is brought up elsewhere.

    python -m tests.lean.at_a_gateway --print apisix --upstream 127.0.0.1:1980 > apisix.yaml   # or kong > kong.yml
    gatewright run --listen unix:/tmp/gatewright.sock --plugins tests/lean/conforming.py &
    python -m tests.lean.at_a_gateway --upstream 127.0.0.1:1980 --url http://127.0.0.1:9080

Each case has a route of its own for each way to the runner: `ext` and `lean` on APISIX, `server` (a plugin server) and
`lean` on Kong.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.lean.conformance import CASES, Case, Outcome

WAYS = {"apisix": ("ext", "lean"), "kong": ("server", "lean")}
_SEEN: dict[str, tuple[str, list[tuple[str, str]], bytes]] = {}
"""What the upstream saw, by the number that each request has."""


class Upstream(BaseHTTPRequestHandler):
    """Tells what it sees, and answers."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        _SEEN[self.headers.get("x-number", "")] = self.path, self.headers.items(), body
        self.send_response(200)
        for name, value in (("X-Upstream", "echo"), ("X-Gone", "1"), ("Content-Length", "19")):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"an upstream's body\n")

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


class Server(ThreadingHTTPServer):
    """A gateway that ends kept connections is no error."""

    def handle_error(self, *_: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*_)  # type: ignore[arg-type]


def routes(gateway: str) -> Iterator[tuple[str, str, Case]]:
    """A path, the way, and the case."""
    for way in WAYS[gateway]:
        for number, case in enumerate(CASES):
            yield f"/{way}/{number}", way, case


def apisix_routes(upstream: str) -> str:
    """A route file."""
    lines = ["routes:"]
    for path, way, case in routes("apisix"):
        name, code = case.plugin
        asks = {"ext": ("ext-plugin-pre-req", "ext-plugin-post-resp"), "lean": ("gatewright", "gatewright-response")}
        plugin = asks[way][bool(case.response)]
        conf = json.dumps({"conf": [{"name": name, "value": json.dumps({"code": code})}]})
        lines += [
            f"  - id: {path.strip('/').replace('/', '-')}",
            f"    uri: {path}/*",
            f"    plugins: {{{plugin}: {conf}}}",
            "    upstream:",  # in lines of their own: APISIX 3.9 reads no `{"host:port": 1}`
            "      type: roundrobin",
            "      nodes:",
            f'        "{upstream}": 1',
        ]
    return "\n".join([*lines, "#END", ""])


def kong_routes(upstream: str, address: str) -> str:
    """A declarative configuration."""
    declared = []
    for path, way, case in routes("kong"):
        name, code = case.plugin
        plugin: dict[str, object] = {"name": name, "config": {"code": code}}
        if way == "lean":
            chain = [{"name": name, "config": json.dumps({"code": code})}]
            lean = "gatewright-response" if case.response else "gatewright"
            plugin = {"name": lean, "config": {"address": address, "chain": chain}}
        declared.append(
            {"name": path.strip("/").replace("/", "-"), "paths": [path], "strip_path": False, "plugins": [plugin]}
        )
    service = {"name": "up", "url": f"http://{upstream}", "routes": declared}
    return json.dumps({"_format_version": "3.0", "services": [service]}, indent=1)  # which is YAML, too


def visit(url: str, path: str, case: Case, number: int) -> Outcome:
    """Send one case's request."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
    connection.putrequest(case.method, path + case.target, skip_accept_encoding=True)
    for name, value in (*case.headers, ("x-number", str(number))):
        connection.putheader(name, value)
    if case.body:
        connection.putheader("Content-Length", str(len(case.body)))
    connection.endheaders(case.body or None)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    target, saw, seen_body = _SEEN.pop(str(number), ("", [], b""))
    return Outcome(
        status=503 if answer.status == 500 else answer.status,
        got={name: _values(answer.getheaders(), name) for name in case.outcome.got},
        target=target.removeprefix(path),
        saw={name: _values(saw, name) for name in case.outcome.saw},
        body=seen_body,
        answer=body if case.outcome.answer is not None else None,
    )


def _values(headers: list[tuple[str, str]], name: str) -> list[str]:
    return [value.encode("latin-1").decode("utf-8", "replace") for present, value in headers if present.lower() == name]


def _in_order(target: str) -> str:
    path, question, query = target.partition("?")
    return path + question + "&".join(sorted(query.split("&")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", default="127.0.0.1:1980", help="where the upstream listens")
    parser.add_argument("--print", choices=WAYS, dest="printed", help="print the gateway's configuration")
    parser.add_argument("--address", default="unix:/tmp/gatewright.sock", help="the runner's, for Kong's configuration")
    parser.add_argument("--url", default="", help="the gateway's")
    parser.add_argument("--gateway", choices=WAYS, default="apisix")
    parser.add_argument("--way", action="append", help="only this one")
    arguments = parser.parse_args()
    if arguments.printed == "apisix":
        sys.stdout.write(apisix_routes(arguments.upstream))
        return
    if arguments.printed == "kong":
        sys.stdout.write(kong_routes(arguments.upstream, arguments.address))
        return
    host, _, port = arguments.upstream.rpartition(":")
    server = Server((host, int(port)), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    wrong = count = 0
    for path, way, case in routes(arguments.gateway):
        if arguments.way and way not in arguments.way:
            continue
        count += 1
        got = visit(arguments.url, path, case, count)
        if way == "ext":  # its arguments come in the order of a Lua table
            got.target = _in_order(got.target)
        if got != case.outcome:
            wrong += 1
            print(f"{way}: {case.name}\n  {got}\n  {case.outcome}, it has to be")
    server.shutdown()
    print(f"{count - wrong} of {count} as they have to be")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
