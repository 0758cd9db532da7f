"""The same work done by a Lua plugin and by a Python plugin, on one APISIX: throughput, latency, processor time.

The gateway has to have routes for it, and a runner with `--plugins benchmarks/plugins` (and PyJWT, for tokens):

    ./compare.sh --print-routes > apisix.yaml         # for a gateway that reads its routes from a file, or
    ./compare.sh -u URL --admin http://127.0.0.1:9180 --key KEY     # made over the Admin API, and removed afterwards

The plugins `proxy-rewrite`, `limit-count` and `jwt-auth` have to be enabled there. Unless `--upstream` names one,
requests end at a small upstream that this command starts; the gateway must be able to reach it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from benchmarks.http_load import Load, connection

SECRET = "the-secret-of-this-benchmark-long-enough-for-HS256"
PREFIX = "/gatewright-compare"
LOOK = "gatewright-compare-look"
CHANGED = "x-runner"
SEEN = "x-upstream-got"
WORKS = ("header change", "token check", "limit", "shared limit")
MANY = 1_000_000_000
_CLOCK = os.sysconf("SC_CLK_TCK")


@dataclass
class Row:
    """What is compared with what.

    Attributes:
        work: what the plugin does.
        language: which it is written in; empty for none.
        plugins: of the route.
        headers: of the requests.
        results: of each round: requests a second, mean and 95th percentile in ms, processor time a request in us.
    """

    work: str
    language: str
    plugins: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    results: list[tuple[float, float, float, float]] = field(default_factory=list)
    problem: str = ""

    @property
    def path(self) -> str:
        return f"{PREFIX}/{self.work.replace(' ', '-')}/{self.language.lower() or 'none'}"


def python(name: str, conf: dict[str, Any]) -> dict[str, Any]:
    return {"ext-plugin-pre-req": {"conf": [{"name": name, "value": json.dumps(conf)}]}}


def rows(redis: str) -> list[Row]:
    """All that is compared."""
    token = {"authorization": f"Bearer {_token()}"}
    limit = {"count": MANY, "time_window": 60, "rejected_code": 429, "key_type": "var", "key": "remote_addr"}
    limits = {"limits": [{"requests": MANY, "period": 3600, "algorithm": "fixed-window"}]}
    found = [
        Row("nothing", "", {}),
        Row("nothing", "Python", python("empty", {})),
        Row("header change", "Lua", {"proxy-rewrite": {"headers": {"set": {"x-runner": "lua"}}}}),
        Row("header change", "Python", python("one-header-sync", {})),
        Row("token check", "Lua", {"jwt-auth": {}}, token),
        Row("token check", "Python", python("jwt-auth", {"secret": SECRET, "algorithm": "HS256"}), token),
        Row("limit", "Lua", {"limit-count": {**limit, "policy": "local"}}),
        Row("limit", "Python", python("rate-limit", {**limits, "legacy_headers": True, "standard_headers": False})),
    ]
    if redis:
        host, _, port = redis.partition(":")
        shared = {**limit, "policy": "redis", "redis_host": host, "redis_port": int(port or 6379)}
        conf = {**limits, "standard_headers": False, "redis": {"servers": [redis]}}
        found += [
            Row("shared limit", "Lua", {"limit-count": shared}),
            Row("shared limit", "Python", python("rate-limit", conf)),
        ]
    return found


def _token() -> str:
    import jwt

    return jwt.encode({"key": "compare", "sub": "u1", "exp": int(time.time()) + 86_400}, SECRET, "HS256")


def routes(compared: list[Row], upstream: str) -> dict[str, Any]:
    """The gateway's configuration, in the form of its file."""
    nodes = {"type": "roundrobin", "nodes": {upstream: 1}}
    return {
        "routes": [
            {"id": f"compare-{number}", "uri": row.path, "plugins": row.plugins, "upstream": nodes}
            for number, row in enumerate(compared)
        ],
        "consumers": [
            {
                "username": "compare",
                "plugins": {"jwt-auth": {"key": "compare", "secret": SECRET, "algorithm": "HS256"}},
            }
        ],
    }


class _Plain(yaml.SafeDumper):
    """YAML that APISIX's reader takes: no references, no text over several lines, lists indented."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


def text_of(content: dict[str, Any]) -> str:
    """The configuration as a file that APISIX reads."""
    return f"{yaml.dump(content, Dumper=_Plain, sort_keys=False, width=1 << 20)}#END\n"


# --- the gateway


class Admin:
    """Routes over the Admin API."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url.rstrip("/"), key

    def put(self, content: dict[str, Any]) -> None:
        for consumer in content["consumers"]:
            self._call("PUT", "consumers", consumer)
        for route in content["routes"]:
            self._call("PUT", f"routes/{route['id']}", {k: v for k, v in route.items() if k != "id"})

    def remove(self, content: dict[str, Any]) -> None:
        for route in content["routes"]:
            self._call("DELETE", f"routes/{route['id']}")
        for consumer in content["consumers"]:
            self._call("DELETE", f"consumers/{consumer['username']}")

    def _call(self, method: str, path: str, body: Any = None) -> None:
        request = urllib.request.Request(
            f"{self._url}/apisix/admin/{path}", method=method, headers={"X-API-KEY": self._key},
            data=None if body is None else json.dumps(body).encode(),
        )  # fmt: skip
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            sys.exit(f"{request.full_url}: {error.code}: {error.read().decode(errors='replace')}")
        except OSError as error:
            sys.exit(f"{request.full_url}: {error}: is this the Admin API?")


class _Upstream(asyncio.Protocol):
    """Answers, and tells in a header what it got in the one that plugins change."""

    ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-type: text/plain\r\n%s\r\nok\n"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            told = b""
            if LOOK.encode() in head:
                found = re.search(rb"(?mi)^%s: *(.*?)\r?$" % CHANGED.encode(), head)
                told = b"%s: %s\r\n" % (SEEN.encode(), found[1] if found else b"")
            self._transport.write(self.ANSWER % told)  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def upstream(given: str) -> AsyncIterator[str]:
    """An upstream's address; one of our own, in a process of its own, unless one is given."""
    if given and not given.startswith(":"):
        yield given
        return
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.compare", "--serve", given.lstrip(":") or "0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.terminate()
        await process.wait()


async def serve(port: int) -> None:
    """Be the upstream."""
    server = await asyncio.get_running_loop().create_server(_Upstream, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _listeners(port: int, socket: str) -> set[int]:
    """Processes that hold what listens at a TCP port or a unix socket."""
    inodes = set()
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if socket and fields[-1] == socket:
            inodes.add(fields[6])
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(fd.readlink())[8:-1] in inodes for fd in (place / "fd").iterdir()):
                found.add(int(place.name))
    return found


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


class Processes:
    """The gateway's and the runner's processes, if they run here, and all that they have started."""

    def __init__(self, port: int, socket: str) -> None:
        self.pids = _listeners(port, socket)
        parents = {}
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parents[int(place.name)] = int(_stat(int(place.name))[1])
        while more := {pid for pid, parent in parents.items() if parent in self.pids} - self.pids:
            self.pids |= more

    def seconds(self) -> float:
        """Processor time that they have used."""
        total = 0.0
        for pid in self.pids:
            with contextlib.suppress(OSError):
                total += sum(int(each) for each in _stat(pid)[11:13]) / _CLOCK
        return total


# --- measuring


def request_of(row: Row, host: str) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in row.headers.items())
    return f"GET {row.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: gatewright-compare\r\n{more}\r\n".encode()


def _ask(row: Row, url: str, headers: dict[str, str]) -> Message:
    request = urllib.request.Request(url + row.path, headers={"User-Agent": LOOK, **headers})
    with urllib.request.urlopen(request, timeout=10) as answer:
        told: Message = answer.headers
        return told


def _undone(row: Row, url: str) -> str:
    """Why the work that the row is for is not done: APISIX leaves plugins out that it doesn't know."""
    why = ""
    told = _ask(row, url, row.headers)
    if row.work == "token check" and row.language:
        try:
            _ask(row, url, {})
            why = "lets requests without a token pass"
        except urllib.error.HTTPError as error:
            why = "" if error.code == 401 else f"answers {error.code} to a request without a token"
    elif "limit" in row.work and "x-ratelimit-limit" not in told:
        why = "counts nothing"
    elif row.work == "header change" and told.get(SEEN, row.language.lower()) != row.language.lower():
        why = "changes no header"  # an upstream that is not ours doesn't tell
    return f"{why}: is {next(iter(row.plugins))} enabled there?" if why else ""


async def look(row: Row, url: str) -> None:
    """See that a row's route is there, lets the request pass, and does what it is for."""
    for attempt in range(20):
        try:
            row.problem = await asyncio.to_thread(_undone, row, url)
        except urllib.error.HTTPError as error:
            row.problem = f"answers {error.code}"
        except OSError as error:
            row.problem = str(getattr(error, "reason", error))
        if not row.problem:
            return
        await asyncio.sleep(0.1 * (attempt < 10))


async def measure(row: Row, url: str, connections: int, seconds: float, processes: Processes) -> None:
    """One round of one row."""
    place = urlsplit(url)
    host, port = str(place.hostname), place.port or (443 if place.scheme == "https" else 80)
    load = Load(MANY, request_of(row, place.netloc))
    used, begun = processes.seconds(), time.perf_counter()
    asyncio.get_running_loop().call_later(seconds, lambda: setattr(load, "left", 0))
    await asyncio.gather(*(connection(load, host, port, tls=place.scheme == "https") for _ in range(connections)))
    took, used = time.perf_counter() - begun, processes.seconds() - used
    if load.broken or set(load.statuses) != {"2xx"}:
        row.problem = f"answers: {dict(load.statuses)}, {load.broken} broken"
        return
    count, sorted_ = len(load.latencies), sorted(load.latencies)
    row.results.append(
        (count / took, sum(sorted_) / count * 1000, sorted_[int(count * 0.95)] * 1000, used / count * 1e6)
    )


def table(compared: list[Row]) -> str:
    """What was measured, in Markdown."""
    base = _median(compared[0], 0)
    lines = [
        "| Work | Plugin | Requests/s | of none | Mean ms | 95 % ms | CPU us/request |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in compared:
        what = f"| {row.work} | {row.language or '-'} |"
        if not row.results:
            lines.append(f"{what} {row.problem or 'not measured'} | | | | |")
            continue
        rate, mean, late, used = (_median(row, place) for place in range(4))
        share = f"{rate / base:.2f}" if base else "-"
        lines.append(f"{what} {rate:,.0f} | {share} | {mean:.2f} | {late:.2f} | {f'{used:.0f}' if used > 0 else '-'} |")
    return "\n".join(lines)


def _median(row: Row, place: int) -> float:
    return statistics.median(each[place] for each in row.results) if row.results else 0.0


async def compare(args: argparse.Namespace) -> int:
    """The command's work; gives its exit code."""
    compared = [row for row in rows(args.redis) if not args.only or row.work in ("nothing", *args.only)]
    url = args.url.rstrip("/") if "://" in args.url else f"http://{args.url.rstrip('/')}"
    async with upstream(args.upstream) as behind:
        content = routes(compared, behind)
        admin = Admin(args.admin, args.key) if args.admin else None
        if admin is not None:
            admin.put(content)
        if args.routes:
            args.routes.write_text(text_of(content))
            await asyncio.sleep(args.settle)
        try:
            for row in compared:
                await look(row, url)
            place = urlsplit(url)
            processes = Processes(place.port or (443 if place.scheme == "https" else 80), args.runner)
            good = [row for row in compared if not row.problem]
            for row in good:
                await measure(row, url, args.connections, min(args.seconds, 1.0), processes)
                row.results.clear()
            for _ in range(args.rounds):
                for row in good:
                    await measure(row, url, args.connections, args.seconds, processes)
        finally:
            if admin is not None:
                admin.remove(content)
    print(table(compared))
    return 1 if any(row.problem for row in compared) else 0


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="compare.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-u", "--url", default="http://127.0.0.1:9080", help="the gateway (%(default)s)")
    add("-c", "--connections", type=int, default=100, help="connections at once (%(default)s)")
    add("-s", "--seconds", type=float, default=5.0, help="of each round (%(default)s)")
    add("-r", "--rounds", type=int, default=3, help="rounds of each; the median is shown (%(default)s)")
    add("--upstream", default="", metavar="HOST:PORT", help="where requests end; :PORT for our own there")
    add("--redis", default="", metavar="HOST:PORT", help="compare limits that are counted there, too")
    add("--runner", default="", metavar="SOCKET", help="the runner's socket, to count its processor time")
    add("--only", nargs="+", default=[], choices=WORKS, metavar="WORK", help=", ".join(WORKS))
    add("--admin", default="", metavar="URL", help="make the routes over this Admin API")
    add("--key", default="", help="of the Admin API")
    add("--routes", type=Path, metavar="FILE", help="write the routes to this file, which the gateway reads")
    add("--settle", type=float, default=3.0, help="seconds that the gateway takes to read it (%(default)s)")
    add("--print-routes", action="store_true", help="print the routes, and end; --upstream says where to")
    add("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(args.serve))
        return
    if args.print_routes:
        compared = [row for row in rows(args.redis) if not args.only or row.work in ("nothing", *args.only)]
        print(text_of(routes(compared, args.upstream or "127.0.0.1:1980")), end="")
        return
    sys.exit(asyncio.run(compare(args)))


if __name__ == "__main__":
    main()
