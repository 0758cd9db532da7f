"""The tries of a request: which node is asked after which, and what comes of none of them answering."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Final

from gatewright.dev.apisix.balancing import Turn
from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.messages import Headers
from gatewright.dev.target import Upstream
from gatewright.dev.upstream import Sender, UpstreamAnswer, UpstreamError

__all__ = ["NoAnswerError", "tried"]

log = logging.getLogger("gatewright.dev")

_NOT_REPEATED: Final = ("POST", "LOCK", "PATCH")
"""Methods of requests that are not sent again once a node may have them."""


class NoAnswerError(Exception):
    """No node has answered: what nginx says then, and what became of the tries."""

    def __init__(self, status: int, tries: str) -> None:
        super().__init__(tries)
        self.status = status
        self.tries = tries


async def tried(
    exchange: Exchange, turn: Turn, timeout: float, send: Sender, ended: set[Upstream], target: str, headers: Headers
) -> UpstreamAnswer:
    """An answer, after some tries.

    Args:
        exchange: the request.
        turn: whose nodes are tried.
        timeout: seconds for which one may be silent, unless its upstream says so itself.
        send: sends requests.
        ended: the nodes whose last connection has ended; to others nginx has one from earlier requests; updated.
        target: what is asked for.
        headers: those of the request.

    Raises:
        NoAnswerError: none of them had one.
    """
    pool, tries, node = turn.upstream, list[str](), turn.node
    left, began = pool.tries, perf_counter()
    while True:
        try:
            got = await send(
                node.host,
                node.port,
                tls=node.scheme == "https",
                method=exchange.method,
                target=target,
                headers=headers,
                body=exchange.body,
                timeout=timeout if pool.read is None else pool.read,
                connect=timeout if pool.connect is None else pool.connect,
                verify=False,
                upgrade=any(name.lower() == "upgrade" for name, _ in exchange.headers),
                early_hints=exchange.behaviour.since(17),
            )
        except UpstreamError as error:
            log.error("%s while reading response header from upstream", error)
            if error.unknown:
                raise NoAnswerError(503, "") from None
            tries.append("504" if error.late else "502")
            was_kept = not exchange.behaviour.since(17) and node not in ended
            ended.add(node)
            if error.sent and was_kept and not error.invalid and not error.late:
                left += 1  # a connection that was kept, and ends without an answer, is worth another one
            if error.invalid or (error.sent and exchange.method in _NOT_REPEATED) or len(tries) >= left:
                raise NoAnswerError(int(tries[-1]), ", ".join(tries)) from None
            too_late = pool.retry_timeout and perf_counter() - began > pool.retry_timeout
            following = None if too_late else turn.next()
            if following is None:  # there was one more try, which was nobody's
                raise NoAnswerError(502, ", ".join(tries) + " : ") from None
            if exchange.has_asked:
                log.warning("fault: before another try APISIX runs post-resp again, where it can't: 500")
                raise NoAnswerError(500, ", ".join(tries) + " : ") from None
            if exchange.upstream_host == node.authority and node.pass_host == "node":
                headers = [(n, following.authority if n == "Host" else v) for n, v in headers]
                exchange.upstream_host = following.authority
            node = following
            continue
        exchange.upstream_facts["upstream_status"] = ", ".join([*tries, str(got.status)])
        if got.complete and not got.garbled and got.framing not in ("close", "raw", "tunnel"):
            ended.discard(node)
        return got
