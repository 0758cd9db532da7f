"""Drives a gateway over HTTP and says how fast it answered: `benchmark/run.sh -u URL -c CONNECTIONS -n REQUESTS`.

A closed loop: each connection sends a GET, waits for the whole answer and sends the next. It needs nothing but the
standard library; uvloop is used where it is installed, since the client must not be what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, cast
from urllib.parse import urlsplit

from benchmarks.http_answers import AnswerReader, MalformedAnswerError

__all__ = ["Target", "main", "run_load"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where the requests go and what they look like."""

    url: str
    host: str
    port: int
    tls: ssl.SSLContext | None
    request: bytes

    @classmethod
    def of(cls, url: str, headers: Sequence[str] = ()) -> Target:
        """Make the request for a URL.

        Raises:
            ValueError: the URL or a header is not usable; the message says why.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a URL such as http://127.0.0.1:9080/path is needed, not {url!r}")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = {"host": f"Host: {parts.netloc.rpartition('@')[2]}", "user-agent": "User-Agent: gatewright-bench"}
        for header in headers:
            name, colon, _ = header.partition(":")
            if not colon or not name.strip() or "\r" in header or "\n" in header:
                raise ValueError(f"a header is written 'Name: value', not {header!r}")
            lines[name.strip().lower()] = header
        text = "\r\n".join([f"GET {path} HTTP/1.1", *lines.values(), "", ""])
        if any(char.isspace() or not char.isascii() for char in path):
            raise ValueError(f"the URL's path must be percent-encoded: {path!r}")
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        return cls(url, parts.hostname, parts.port or (443 if tls else 80), tls, text.encode("latin-1"))


@dataclass(slots=True)
class Tally:
    """What has happened so far."""

    to_send: int
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    bytes_received: int = 0
    connections: int = 0

    def claim(self) -> bool:
        """Take one of the requests that are left."""
        self.to_send -= 1
        return self.to_send >= 0

    @property
    def finished(self) -> int:
        """How many requests were answered or failed."""
        return len(self.latencies) + self.failures.total()


class Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self, target: Target, tally: Tally, *, claimed: bool) -> None:
        """Send a first request as soon as connected.

        Args:
            target: where requests go.
            tally: what is written to.
            claimed: the first request has been taken from the tally already.
        """
        self.closed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.sent_at = 0.0
        self._request = target.request
        self._tally = tally
        self._claimed = claimed
        self._answered_before = False
        self._failure = "connection closed"
        self._reader: AnswerReader | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._tally.connections += 1
        self._send_next()

    def data_received(self, data: bytes) -> None:
        self._tally.bytes_received += len(data)
        reader = self._reader
        if reader is None:
            self._transport.abort()
            return
        try:
            complete = reader.feed(data)
        except MalformedAnswerError as error:
            self.give_up(str(error))
            return
        if complete:
            self._take_answer(reader)
            if reader.keep_alive:
                self._send_next()
            else:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        reader, self._reader = self._reader, None
        retry = False
        if reader is not None:
            if reader.end():
                self._take_answer(reader)
            elif self._answered_before and not reader.started and self._failure == "connection closed":
                # A keepalive connection may be closed just as a request is sent: clients repeat it (RFC 9110, 9.2.2).
                retry = True
            else:
                self._tally.failures[self._failure] += 1
        if not self.closed.done():
            self.closed.set_result(retry)

    def give_up(self, why: str) -> None:
        """End the connection; the request under way counts as failed."""
        self._failure = why
        self._transport.abort()

    @property
    def waiting(self) -> bool:
        """A request is under way."""
        return self._reader is not None

    def _send_next(self) -> None:
        if not self._claimed and not self._tally.claim():
            self._transport.close()
            return
        self._claimed = False
        self._reader = AnswerReader()
        self.sent_at = time.perf_counter()
        self._transport.write(self._request)

    def _take_answer(self, reader: AnswerReader) -> None:
        self._tally.latencies.append(time.perf_counter() - self.sent_at)
        self._tally.statuses[reader.status] += 1
        self._answered_before = True
        self._reader = None


async def _dial(target: Target, timeout: float, factory: Callable[[], asyncio.Protocol]) -> asyncio.BaseProtocol:
    loop = asyncio.get_running_loop()
    connecting = loop.create_connection(factory, target.host, target.port, ssl=target.tls)
    _, protocol = await asyncio.wait_for(connecting, timeout)
    return protocol


async def _keep_connected(target: Target, tally: Tally, timeout: float, live: set[Connection]) -> None:
    retry = False
    while retry or tally.claim():
        retry = False
        try:
            connection = await _dial(target, timeout, lambda: Connection(target, tally, claimed=True))
        except (OSError, TimeoutError) as error:
            tally.failures[_reason(error)] += 1
            continue
        assert isinstance(connection, Connection)
        live.add(connection)
        retry = await connection.closed
        live.discard(connection)


async def _watch(tally: Tally, total: int, timeout: float, live: set[Connection], *, progress: bool) -> None:
    while True:
        await asyncio.sleep(0.5)
        now = time.perf_counter()
        for connection in list(live):
            if connection.waiting and now - connection.sent_at > timeout:
                connection.give_up(f"no answer within {timeout:g} s")
        if progress:
            print(f"\r{tally.finished} of {total} requests", end="", file=sys.stderr, flush=True)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, TimeoutError):
        return "no connection in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


async def run_load(
    target: Target, *, connections: int, requests: int, timeout: float, progress: bool
) -> tuple[Tally, float]:
    """Send the requests.

    Returns:
        what happened, and the seconds it took.

    Raises:
        ConnectionError: the gateway can't be reached at all.
    """
    try:
        probe = await _dial(target, timeout, asyncio.Protocol)
    except (OSError, TimeoutError) as error:
        raise ConnectionError(_reason(error)) from error
    del probe  # it stays open, unused, until the end: closing it now would be work for a gateway about to be measured

    tally, live = Tally(requests), set[Connection]()
    watch = asyncio.ensure_future(_watch(tally, requests, timeout, live, progress=progress))
    start = time.perf_counter()
    await asyncio.gather(*(_keep_connected(target, tally, timeout, live) for _ in range(connections)))
    seconds = time.perf_counter() - start
    watch.cancel()
    if progress:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return tally, seconds


def summarise(target: Target, connections: int, tally: Tally, seconds: float, cpu: float) -> dict[str, Any]:
    """The result, for machines."""
    ordered = sorted(tally.latencies)
    classes = Counter(f"{status // 100}xx" for status in tally.statuses.elements())

    def milliseconds(share: float) -> float | None:
        return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1000, 3) if ordered else None

    return {
        "url": target.url,
        "connections": connections,
        "seconds": round(seconds, 3),
        "requests": tally.finished,
        "answered": len(ordered),
        "failed": tally.failures.total(),
        "rps": round(len(ordered) / seconds, 1),
        "statuses": dict(sorted(classes.items())),
        "failures": dict(tally.failures.most_common()),
        "latency_ms": {
            "mean": round(sum(ordered) / len(ordered) * 1000, 3) if ordered else None,
            "p50": milliseconds(0.5),
            "p95": milliseconds(0.95),
            "p99": milliseconds(0.99),
            "max": milliseconds(1),
        },
        "bytes_received": tally.bytes_received,
        "connections_opened": tally.connections,
        "client_utilisation": round(cpu / seconds, 3),
    }


def show(result: dict[str, Any]) -> None:
    """Print the result, for people."""
    seconds = result["seconds"]
    megabytes = result["bytes_received"] / 1e6
    latency = "   ".join(f"{name} {value:,.2f}" for name, value in result["latency_ms"].items() if value is not None)
    statuses = "   ".join(f"{name} {count:,}" for name, count in result["statuses"].items())
    print(f"GET {result['url']}, {result['connections']} connections\n")
    print(f"  requests     {result['requests']:,} in {seconds:.2f} s")
    print(f"  throughput   {result['rps']:,.0f} req/s, {megabytes / seconds:,.2f} MB/s ({megabytes:,.2f} MB received)")
    print(f"  latency ms   {latency or 'none: nothing was answered'}")
    print(f"  answers      {statuses or 'none'}")
    print(f"  failures     {result['failed']:,}")
    for why, count in result["failures"].items():
        print(f"    {count:>9,}  {why}")
    refused = sum(count for name, count in result["statuses"].items() if name in ("4xx", "5xx"))
    if refused:
        print(f"\n  {refused:,} answers were errors (4xx, 5xx): is this the route you meant to measure?")
    if result["client_utilisation"] > 0.9:
        print("\n  This client was busy all the time: the gateway may be faster. Use a compiled one, such as wrk.")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_positive.__name__ = "positive number"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.sh",
        description="Send GET requests to a gateway over keepalive connections; print throughput and latency.",
        epilog="Exit code: 0 if every request was answered (whatever the status), 1 if not, 2 for a wrong command line.",
    )
    parser.add_argument("-u", dest="url", required=True, metavar="URL", help="what to get")
    parser.add_argument("-c", dest="connections", type=_positive, default=100, metavar="N", help="connections  [100]")
    parser.add_argument("-n", dest="requests", type=_positive, default=10_000, metavar="N", help="requests  [10000]")
    parser.add_argument("-H", dest="headers", action="append", default=[], metavar="'NAME: VALUE'", help="add a header")
    parser.add_argument("-t", dest="timeout", type=float, default=30.0, metavar="S", help="seconds per answer  [30]")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def main() -> int:
    """Run the command; gives the exit code."""
    parser = _parser()
    options = parser.parse_args()
    try:
        target = Target.of(options.url, options.headers)
    except ValueError as error:
        parser.error(str(error))
    connections = min(options.connections, options.requests)
    _raise_file_limit()
    load = run_load(
        target,
        connections=connections,
        requests=options.requests,
        timeout=options.timeout,
        progress=sys.stderr.isatty(),
    )
    cpu = time.process_time()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            tally, seconds = runner.run(load)
    except ConnectionError as error:
        print(f"run.sh: can't reach {target.host} port {target.port}: {error}; is the gateway running?", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nrun.sh: interrupted", file=sys.stderr)
        return 130
    result = summarise(target, connections, tally, seconds, time.process_time() - cpu)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)
    return 1 if result["failed"] else 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        uvloop = import_module("uvloop")
    except ImportError:
        return None
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
