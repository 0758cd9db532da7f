"""What a plugin of APISIX's own is here: a place in the order of all, and what it does in each phase."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.route import PluginConf
from gatewright.dev.messages import Answer

__all__ = ["Around", "Builtin", "Counters"]


@dataclass(slots=True)
class Counters:
    """What all requests of a gateway have in common: calls left, and until when, by key.

    Attributes:
        left: by key.
        excess: how many there were too many lately, and when that was found, by key.
    """

    left: dict[str, tuple[int, float]] = field(default_factory=dict)
    excess: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Around:
    """What there is beside the request.

    Attributes:
        consumers: plugins by the consumer's name.
        counters: what is counted.
        custom_ids: what consumers are called elsewhere, by name.
    """

    consumers: Mapping[str, Mapping[str, Any]]
    counters: Counters
    custom_ids: Mapping[str, str]


Phase = Callable[[Exchange, PluginConf, Around], Awaitable[Answer | None]]


def _takes_all(conf: Mapping[str, Any]) -> None:
    """Nothing to check."""


@dataclass(frozen=True, slots=True)
class Builtin:
    """A plugin.

    Attributes:
        priority: the highest runs first; the ext-plugins have 12000, -3000 and -4000.
        rewrite: what it does with a request first; an answer ends it.
        access: what it does with a request after all have rewritten.
        answer: what it does with any answer, also with one that is made here.
        identifies: it finds out who calls; such a plugin runs once.
        check: refuses a configuration that can't be done here, with a `ValueError`.
    """

    priority: int
    rewrite: Phase | None = None
    access: Phase | None = None
    answer: Callable[[Exchange, Answer, PluginConf], Answer] | None = None
    identifies: bool = False
    check: Callable[[Mapping[str, Any]], None] = _takes_all
