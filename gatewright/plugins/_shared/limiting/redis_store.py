"""Counts in Redis, which all workers and runners share. Requests that come together are asked for together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from gatewright.plugins._shared.limiting.rules import Limit, StoreFailedError, Verdict
from gatewright.plugins._shared.limiting.script import SCRIPT, SCRIPT_SHA, Policy, arguments, verdicts
from gatewright.plugins._shared.redis_server import RedisServer, ServerFailedError

__all__ = ["RedisStore"]

_MOST_TOGETHER: Final = 128
"""Requests in one call of the script: longer ones would keep Redis's other clients waiting (some 5 us each)."""
_WORTH_ANOTHER: Final = 16
"""Requests that wait for the call under way; so many go in one beside it. Small calls are dear."""
_MOST_POLICIES: Final = 1000

Asked = tuple[list[str], Policy, "asyncio.Future[Verdict]"]


class RedisStore:
    """A store for one event loop (see `Store`).

    One call of one script decides many requests at once, for all of their limits. In a Cluster a script can use keys of
    one slot only: there each request is a call of its own, and those that go to one node go in one pipeline.
    """

    def __init__(self, server: RedisServer) -> None:
        """Make a store.

        Args:
            server: where the counts are.
        """
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Asked] = []
        self._calls = 0
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._policies: dict[tuple[Any, ...], Policy] = {}

    async def decide(self, key: str, limits: Sequence[Limit], cost: int = 1, *, force: bool = False) -> Verdict:
        """See `Store.decide`."""
        shape = (*limits, cost, force)
        policy = self._policies.get(shape)
        if policy is None:
            if len(self._policies) >= _MOST_POLICIES:
                self._policies.clear()
            policy = self._policies[shape] = Policy(limits, cost, force)
        answer: asyncio.Future[Verdict] = self._loop.create_future()
        self._waiting.append((policy.keys(key), policy, answer))
        if not self._scheduled and self._may_call():
            self._scheduled = True
            self._loop.call_soon(self._call)
        return await answer

    def _may_call(self) -> bool:
        return self._calls == 0 or (self._calls == 1 and len(self._waiting) >= _WORTH_ANOTHER)

    def _call(self) -> None:
        self._scheduled = False
        while self._waiting and self._may_call():
            batch, self._waiting = self._waiting[:_MOST_TOGETHER], self._waiting[_MOST_TOGETHER:]
            self._calls += 1
            task = self._loop.create_task(self._run(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: list[Asked]) -> None:
        try:
            work = self._decide_each if self._server.is_cluster else self._decide_together
            found = await self._server.ask(lambda client: work(client, batch))
        except ServerFailedError as error:
            # Who waited for this call has waited for as long: nobody waits for two timeouts.
            late, self._waiting = self._waiting, []
            for _, _, answer in batch + late:
                if not answer.done():
                    answer.set_exception(StoreFailedError(str(error)))
        except BaseException as error:
            for _, _, answer in batch:
                if not answer.done():
                    answer.set_exception(StoreFailedError(f"{type(error).__name__}: {error}"))
            raise
        else:
            for (_, _, answer), verdict in zip(batch, found, strict=True):
                if not answer.done():  # its deadline may have come
                    answer.set_result(verdict)
        finally:
            self._calls -= 1
            self._call()

    @staticmethod
    async def _decide_together(client: Any, batch: list[Asked]) -> list[Verdict]:
        keys = [key for keys, _, _ in batch for key in keys]
        policies = [policy for _, policy, _ in batch]
        answer = await _evaluate(client, len(keys), *keys, *arguments(policies))
        return verdicts(answer, policies)

    @staticmethod
    async def _decide_each(client: Any, batch: list[Asked]) -> list[Verdict]:
        if len(batch) == 1:
            return await RedisStore._decide_together(client, batch)
        pipeline = client.pipeline()
        for keys, policy, _ in batch:
            pipeline.execute_command("EVALSHA", SCRIPT_SHA, len(keys), *keys, *arguments([policy]))
        answers = await pipeline.execute(raise_on_error=False)
        found: list[Verdict] = []
        for (keys, policy, _), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                answer = await _evaluate(client, len(keys), *keys, *arguments([policy]))
            found += verdicts(answer, [policy])
        return found


async def _evaluate(client: Any, *rest: str | int) -> Any:
    from redis.exceptions import NoScriptError

    try:
        return await client.execute_command("EVALSHA", SCRIPT_SHA, *rest)
    except NoScriptError:  # a server that is new, or was emptied of scripts
        return await client.execute_command("EVAL", SCRIPT, *rest)
