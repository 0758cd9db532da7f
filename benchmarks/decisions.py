"""What a decision of `rate-limit` costs with counts in Redis, beside clients that do nothing but ask Redis.

The limiter as the plugin uses it: 64 callers at once, each waiting for its answer before it asks again, GCRA, one key
for each. The bare clients send 64 `EVALSHA`s of the same script in one piece, a decision each, and read 64 answers:
one is redis-py's pipeline, the other nothing but hiredis on a stream. This process has one core and Redis another;
turns alternate. What counts is processor time, which others on the machine change least: `a second` is what a core for
each of the two has time for, be it here or in Redis, and `ratio` is the limiter's to that client's.

    python -m benchmarks.decisions [--seconds 1] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hiredis
import uvloop

from gatewright.plugins._shared.limiting import Limit
from gatewright.plugins._shared.limiting.redis_store import RedisStore
from gatewright.plugins._shared.limiting.script import SCRIPT_SHA, Policy, arguments
from gatewright.plugins._shared.redis_server import RedisConfig, shared_server
from tests.plugins.redis_servers import RedisProcess

__all__ = ["LIMITER", "RAW", "REDIS_PY", "Measured", "measure_decisions"]

CALLERS = 64
LIMITER, REDIS_PY, RAW = "rate-limit's store", "redis-py's pipeline", "hiredis alone"
_LIMITS = (Limit.of(1_000_000, 1),)
_POLICY = Policy(_LIMITS, 1, False)
_COMMANDS = [
    ("EVALSHA", SCRIPT_SHA, 1, *_POLICY.keys(f"caller-{number}"), *arguments([_POLICY])) for number in range(CALLERS)
]

Turn = Callable[[float], Awaitable[int]]


@dataclass
class Measured:
    """Of each turn: microseconds of a decision here and in Redis, and decisions a second by the clock."""

    here: list[float] = field(default_factory=list)
    redis: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)

    @property
    def rate_of_cores(self) -> float:
        """Decisions a second, with a core for this process and one for Redis."""
        return 1e6 / max(statistics.median(self.here), statistics.median(self.redis))


async def measure_decisions(redis: RedisProcess, seconds: float, rounds: int) -> dict[str, Measured]:
    """Take turns.

    Args:
        redis: a server for this alone.
        seconds: of each turn.
        rounds: turns of each.
    """
    server, release = await shared_server(RedisConfig(servers=(redis.address,), timeout=30.0), plugin="benchmark")
    reader, writer = await asyncio.open_connection("127.0.0.1", redis.port)
    store = server.kept(RedisStore)

    async def limiter(until: float) -> int:
        async def ask(key: str) -> int:
            count = 0
            while time.monotonic() < until:
                verdict = await store.decide(key, _LIMITS)
                assert verdict.allowed
                count += 1
            return count

        return sum(await asyncio.gather(*(ask(f"caller-{number}") for number in range(CALLERS))))

    async def redis_py(until: float) -> int:
        count = 0
        while time.monotonic() < until:
            pipeline = server.client.pipeline(transaction=False)
            for command in _COMMANDS:
                pipeline.execute_command(*command)
            answers = await pipeline.execute()
            assert answers[-1][0] == 1
            count += len(answers)
        return count

    async def raw(until: float) -> int:
        count, parser = 0, hiredis.Reader()
        while time.monotonic() < until:
            writer.write(b"".join([hiredis.pack_command(command) for command in _COMMANDS]))
            answers: list[Any] = []
            while len(answers) < CALLERS:
                parser.feed(await reader.read(1 << 16))
                while (answer := parser.gets()) is not False:
                    answers.append(answer)
            assert answers[-1][0] == 1
            count += CALLERS
        return count

    turns: dict[str, Turn] = {LIMITER: limiter, REDIS_PY: redis_py, RAW: raw}
    found = {name: Measured() for name in turns}
    for turn in turns.values():
        await turn(time.monotonic() + seconds / 5)  # warm
    for _ in range(rounds):
        for name, turn in turns.items():
            begun, here, there = time.monotonic(), time.process_time(), _processor_seconds(redis)
            count = await turn(begun + seconds)
            found[name].here.append((time.process_time() - here) / count * 1e6)
            found[name].redis.append((_processor_seconds(redis) - there) / count * 1e6)
            found[name].rate.append(count / (time.monotonic() - begun))
    writer.close()
    await release()
    return found


def _processor_seconds(redis: RedisProcess) -> float:
    return int(Path(f"/proc/{redis.process.pid}/schedstat").read_text().split()[0]) / 1e9


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="benchmarks.decisions", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        print("one core only: by the clock, Redis takes half of it", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="gatewright-bench-") as directory:
        redis = RedisProcess(Path(directory)).wait()
        try:
            os.sched_setaffinity(redis.process.pid, {cores[-1]})
            os.sched_setaffinity(0, {cores[0]})
            found = uvloop.run(measure_decisions(redis, args.seconds, args.rounds))
        finally:
            redis.end()
    print(f"{'':<20}  {'CPU us':>7}  {'Redis us':>8}  {'a second':>9}  {'by the clock':>12}  {'ratio':>6}")
    ours = found[LIMITER].rate_of_cores
    for name, each in found.items():
        here, there, rate = map(statistics.median, (each.here, each.redis, each.rate))
        print(
            f"{name:<20}  {here:>7.1f}  {there:>8.1f}  {each.rate_of_cores:>9,.0f}  {rate:>12,.0f}"
            f"  {ours / each.rate_of_cores:>6.2f}"
        )


if __name__ == "__main__":
    main()
