"""An upstream's nodes, and which of them has a request (APISIX's balancer.lua, and what it picks with).

Each try of a request has another node, as long as there is one; an upstream of one node is tried again as it is. Nodes
of a lower priority come after all others. Among equals: by turns, by a hash of something of the request (the same ring
as APISIX's, so that a request has the same node), or the one with the fewest requests. APISIX begins its turns
anywhere; here they begin with the first node. `ewma` goes by turns, too: it needs times, which say nothing on a
developer's machine.
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Final

from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.variables import lua_value, resolved
from gatewright.dev.messages import raw
from gatewright.dev.target import Upstream

__all__ = ["KINDS", "Balanced", "Node", "Turn"]

_POINTS: Final = 160
"""On the ring, for each unit of weight."""
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it is written; without a port it has the scheme's."""

    host: str
    port: int | None = None
    weight: int = 1
    priority: int = 0


Weights = Mapping[int, int]
"""Weights by the node's number."""
Pick = Callable[[frozenset[int]], int]
"""Gives the next node; of those that were tried, one only if there is no other."""


@dataclass(frozen=True, slots=True)
class Balanced:
    """An upstream.

    Attributes:
        nodes: its nodes.
        kind: how one is picked, of `KINDS`.
        scheme: http or https.
        pass_host: whose Host they get: the client's (`pass`), the node's (`node`), or another (`rewrite`).
        upstream_host: that other one.
        retries: how many more tries there are; `None`: one for each other node.
        retry_timeout: seconds after which there are no more; 0: there is no such limit.
        connect: seconds for a connection; `None`: the usual ones.
        read: seconds for which a node may be silent; `None`: the usual ones.
        hash_on: where what is hashed comes from.
        key: which of that.
        state: how far turns and counts are.
    """

    nodes: Sequence[Node]
    kind: str = "roundrobin"
    scheme: str = "http"
    pass_host: str = "pass"
    upstream_host: str = ""
    retries: int | None = None
    retry_timeout: float = 0
    connect: float | None = None
    read: float | None = None
    hash_on: str = "vars"
    key: str = ""
    state: _State = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", _State(self))

    @classmethod
    def of(cls, target: Upstream) -> Balanced:
        """An upstream of one node."""
        node = Node(target.host, target.port)
        return cls((node,), scheme=target.scheme, pass_host=target.pass_host, upstream_host=target.upstream_host)

    @property
    def tries(self) -> int:
        """How often a request is tried at most."""
        return 1 + (len(self.nodes) - 1 if self.retries is None else self.retries)

    def target(self, number: int) -> Upstream:
        """A node to send a request to."""
        node = self.nodes[number]
        port = node.port or _PORTS.get(self.scheme, 80)
        return Upstream(node.host, port, self.scheme, self.pass_host, self.upstream_host)

    def hashed(self, exchange: Exchange) -> str:
        """What of a request decides, where it's hashed; without anything, the client's address."""
        found: object
        if self.hash_on == "consumer":
            found = exchange.consumer_name
        elif self.hash_on == "vars_combinations":
            found = resolved(exchange, self.key)
            found = None if found == self.key else found
        else:
            prefix = {"header": "http_", "cookie": "cookie_"}.get(self.hash_on, "")
            found = lua_value(exchange, prefix + self.key)
        return exchange.client_ip if found is None else str(found)


class _State:
    """How far an upstream's turns are; one picker for each priority, the highest first."""

    def __init__(self, upstream: Balanced) -> None:
        groups: dict[int, dict[int, int]] = {}
        for number, node in enumerate(upstream.nodes):
            groups.setdefault(node.priority, {})[number] = node.weight
        make = KINDS.get(upstream.kind, _Turns)
        self.pickers = [make(upstream, groups[priority]) for priority in sorted(groups, reverse=True)]


class Turn:
    """The tries of one request.

    Attributes:
        upstream: whose nodes are tried; it has one at least.
        node: the one for the first try.
    """

    def __init__(self, upstream: Balanced, exchange: Exchange) -> None:
        self.upstream = upstream
        self._picked = self._picks(exchange)
        self.node = next(self._picked)

    def next(self) -> Upstream | None:
        """The node for the next try; `None` if all of several have been tried."""
        return next(self._picked, None)

    def _picks(self, exchange: Exchange) -> Iterator[Upstream]:
        upstream = self.upstream
        while len(upstream.nodes) == 1:
            yield upstream.target(0)
        for picker in upstream.state.pickers:
            pick, tried = picker.pick(exchange), frozenset[int]()
            for _ in picker.weights:
                number = pick(tried)
                yield upstream.target(number)
                picker.ended(number)
                tried |= {number}


class _Turns:
    """One after the other, the heavier more often (lua-resty-balancer's roundrobin)."""

    def __init__(self, upstream: Balanced, weights: Weights) -> None:
        self.weights = weights
        self._heaviest = max(weights.values())
        self._step = reduce(math.gcd, weights.values())
        self._at, self._least = 0, self._heaviest
        self._order = list(weights)

    def pick(self, exchange: Exchange) -> Pick:
        """How a request's nodes are picked."""
        return self._pick

    def ended(self, number: int) -> None:
        """A try has ended."""

    def _pick(self, tried: frozenset[int]) -> int:
        number = self._find()
        for _ in range(sum(self.weights.values()) + len(self.weights) - 1):
            if number not in tried:
                break
            number = self._find()
        return number

    def _find(self) -> int:
        while True:
            while self._at < len(self._order):
                number = self._order[self._at]
                self._at += 1
                if self.weights[number] >= self._least:
                    return number
            self._at = 0
            self._least -= self._step
            if self._least <= 0:
                self._least = self._heaviest


class _Ring:
    """By a hash (lua-resty-balancer's chash): the node whose point on the ring comes next."""

    def __init__(self, upstream: Balanced, weights: Weights) -> None:
        self.weights = weights
        self._upstream = upstream
        unit = reduce(math.gcd, weights.values()) or 1
        self._points = sorted(
            (point, number) for number, weight in weights.items() for point in self._of(number, weight // unit)
        )

    def _of(self, number: int, weight: int) -> Iterator[int]:
        target = self._upstream.target(number)
        base, point = zlib.crc32(raw(f"{target.host}\0{target.port}")), 0
        for _ in range(weight * _POINTS):
            point = zlib.crc32(point.to_bytes(4, "little"), base)
            yield point

    def pick(self, exchange: Exchange) -> Pick:
        """How a request's nodes are picked."""
        at = bisect_left(self._points, (zlib.crc32(raw(self._upstream.hashed(exchange))), -1))

        def pick(tried: frozenset[int]) -> int:
            nonlocal at
            points = self._points
            if not points:  # no node has a weight
                return next((number for number in self.weights if number not in tried), next(iter(self.weights)))
            for at in range(at + bool(tried), at + len(points) + 1):  # noqa: B020 - goes on from where it was
                if points[at % len(points)][1] not in tried:
                    break
            return points[at % len(points)][1]

        return pick

    def ended(self, number: int) -> None:
        """A try has ended."""


class _Fewest:
    """The one with the fewest requests for its weight."""

    def __init__(self, upstream: Balanced, weights: Weights) -> None:
        self.weights = weights
        self._scores = {number: 1 / weight if weight else math.inf for number, weight in weights.items()}

    def pick(self, exchange: Exchange) -> Pick:
        """How a request's nodes are picked."""
        return self._pick

    def _pick(self, tried: frozenset[int]) -> int:
        number = min(self._scores.keys() - tried or self._scores, key=lambda each: (self._scores[each], each))
        self._scores[number] += 1 / (self.weights[number] or 1)
        return number

    def ended(self, number: int) -> None:
        """A try has ended."""
        self._scores[number] -= 1 / (self.weights[number] or 1)


KINDS: Final[Mapping[str, type[_Turns] | type[_Ring] | type[_Fewest]]] = {
    "roundrobin": _Turns, "chash": _Ring, "least_conn": _Fewest, "ewma": _Turns,
}  # fmt: skip
"""How a node is picked, by the name that `type` has."""
