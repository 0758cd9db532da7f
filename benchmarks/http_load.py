"""Drive a gateway over HTTP: N requests over C keepalive connections; prints throughput and latency.

Standard library only, so that any `python3` runs it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections import Counter
from urllib.parse import urlsplit


class Load:
    """What all connections share."""

    def __init__(self, requests: int, raw: bytes) -> None:
        self.left = requests
        self.total = requests
        self.raw = raw
        self.latencies: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.bytes = 0
        self.broken = 0


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, int, bool]:
    """Read one answer: its status, its bytes, and whether the connection stays open."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    lower = head.lower()
    size = len(head)
    keep = b"\r\nconnection: close" not in lower
    if status in (204, 304):
        return status, size, keep
    if b"\r\ntransfer-encoding: chunked" in lower:
        while True:
            line = await reader.readline()
            length = int(line.split(b";")[0], 16)
            size += len(line) + len(await reader.readexactly(length + 2))
            if not length:
                return status, size, keep
    match = re.search(rb"\r\ncontent-length: *(\d+)", lower)
    if match:
        return status, size + len(await reader.readexactly(int(match[1]))), keep
    return status, size + len(await reader.read()), False


async def connection(load: Load, host: str, port: int, *, tls: bool) -> None:
    """Send requests until none is left."""
    reader = writer = None
    while load.left > 0:
        load.left -= 1
        began = time.perf_counter()
        try:
            if reader is None or writer is None:
                reader, writer = await asyncio.open_connection(host, port, ssl=tls or None)
            writer.write(load.raw)
            status, size, keep = await read_answer(reader)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            load.broken += 1
            reader = writer = None
            continue
        load.latencies.append(time.perf_counter() - began)
        load.statuses[f"{status // 100}xx"] += 1
        load.bytes += size
        if not keep:
            writer.close()
            reader = writer = None
    if writer is not None:
        writer.close()


async def progress(load: Load) -> None:
    """Show how far it is, on a terminal."""
    while load.left > 0 and sys.stderr.isatty():
        print(f"\r{load.total - load.left}/{load.total}", end="", file=sys.stderr, flush=True)
        await asyncio.sleep(0.2)


async def run(url: str, connections: int, requests: int) -> int:
    """Run the load and print the result; gives the exit code."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        print(f"-u is a URL such as http://127.0.0.1:9080/headers, not {url!r}", file=sys.stderr)
        return 2
    port = parts.port or (443 if tls else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    raw = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: gatewright-http-load\r\nAccept: */*\r\n\r\n"
    try:
        _, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls or None)
        writer.close()
    except OSError as error:
        print(f"{url}: {error.strerror or error}: is the gateway running?", file=sys.stderr)
        return 1
    load = Load(requests, raw.encode())
    began = time.perf_counter()
    shown = asyncio.ensure_future(progress(load))
    await asyncio.gather(*(connection(load, parts.hostname, port, tls=tls) for _ in range(connections)))
    elapsed = time.perf_counter() - began
    shown.cancel()
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    report(load, url, connections, elapsed)
    return 0 if load.latencies and not load.broken and not load.statuses["5xx"] else 1


def report(load: Load, url: str, connections: int, elapsed: float) -> None:
    """Print what was measured."""
    latencies = sorted(load.latencies) or [0.0]

    def at(share: float) -> str:
        return f"{latencies[min(int(len(latencies) * share), len(latencies) - 1)] * 1000:.2f} ms"

    answers = ", ".join(f"{count} {kind}" for kind, count in sorted(load.statuses.items()))
    print(f"{url}, {connections} connections, {len(load.latencies)} answers in {elapsed:.2f} s")
    print(f"  answers     {answers or 'none'}{f', {load.broken} broken' if load.broken else ''}")
    print(f"  throughput  {len(load.latencies) / elapsed:,.0f} requests/s, {load.bytes / elapsed / 1e6:.2f} MB/s")
    mean = sum(latencies) / len(latencies) * 1000
    print(f"  latency     mean {mean:.2f} ms, p50 {at(0.5)}, p95 {at(0.95)}, p99 {at(0.99)}, max {at(1)}")


def positive(text: str) -> int:
    """A number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__)
    parser.add_argument("-u", "--url", required=True, help="URL to request")
    parser.add_argument("-c", "--connections", type=positive, default=10, help="connections at once (10)")
    parser.add_argument("-n", "--requests", type=positive, default=1000, help="requests in all (1000)")
    args = parser.parse_args()
    sys.exit(asyncio.run(run(args.url, args.connections, args.requests)))


if __name__ == "__main__":
    main()
