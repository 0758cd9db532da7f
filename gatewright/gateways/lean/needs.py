"""What a phase needs to be told, and how that is learnt.

A call says itself what it brings: its first field names the others, separated by commas. So workers may differ in what
they want, and a gateway may have an older plan:

    method path query ip body ctx consumer route headers       facts of the request; `headers`: all, as one text
    h:NAME v:NAME                                              one header; one variable of the gateway
    status rheaders r:NAME rbody                               facts of the response

Nobody has to declare anything. The first calls bring all that costs the gateway little; what handlers look at in them
is what later calls bring. What is looked at and was not brought is asked for, and brought from then on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, Literal

from gatewright.errors import ProtocolError

__all__ = [
    "ALL_OF_LOG",
    "ALL_OF_REQUEST",
    "ALL_OF_RESPONSE",
    "EARLY",
    "EARLY_RESPONSE",
    "Learner",
    "fields_of",
    "plan_of",
    "question_of",
]

ALL_OF_REQUEST: Final = b"method,path,query,ip,ctx,consumer,headers"
ALL_OF_RESPONSE: Final = b"method,path,query,ip,ctx,consumer,headers,status,rheaders"
EARLY: Final = "early"
"""In the plan of a response phase: it's to be called before the upstream is asked, and brings nothing of its answer."""
EARLY_RESPONSE: Final = b"early,method,path,query,ip,ctx,consumer,headers"
ALL_OF_LOG: Final = (
    b"method,path,query,ip,ctx,consumer,headers,status,rheaders,"
    b"v:bytes_sent,v:request_time,v:upstream_status,v:upstream_response_time,v:request_id"
)
"""Nobody can be asked when the request has ended, so this is never less."""
_WINDOW: Final = 50
"""Calls that are looked at before less is brought."""
_MOST_NAMES: Final = 12
"""Single headers that are brought; of more, all are."""
_MOST: Final = 64
_MOST_PLANS: Final = 1024
_LONGEST_PLAN: Final = 1 << 13
_MOST_SEEN: Final = 256
"""Names that a learner keeps. A plugin may make them up of a client's text: what is beyond is asked for each time."""
_NAME: Final = re.compile(r"[a-z]+(?::[!-+\--~]{1,100})?")
"""What can stand in a plan; a name of another form (with a comma, say) is asked for each time."""
_WHOLE: Final = {"h": "headers", "r": "rheaders"}


@lru_cache(maxsize=_MOST_PLANS)
def fields_of(plan: bytes) -> Mapping[str, int]:
    """Where in a call each thing is that a plan names. The plan itself is the first field.

    Raises:
        ProtocolError: it's no plan.
    """
    if len(plan) > _LONGEST_PLAN:
        raise ProtocolError(f"a plan of {len(plan)} bytes, the limit is {_LONGEST_PLAN}")
    try:
        names = plan.decode("ascii").split(",") if plan else []
    except UnicodeDecodeError:
        raise ProtocolError("a call doesn't say what it brings: its first field is no list of names") from None
    if len(names) > _MOST:
        raise ProtocolError(f"a call brings {len(names)} things, the limit is {_MOST}")
    index = {name: number for number, name in enumerate(names, 1)}
    if len(index) != len(names):
        raise ProtocolError("a call says of one thing twice that it brings it")
    return index


def plan_of(names: Iterable[str]) -> bytes:
    """The plan that names these, in an order that is always the same."""
    wanted = set(names)
    for kind, whole in _WHOLE.items():
        single = {name for name in wanted if name.startswith(f"{kind}:")}
        if len(single) > _MOST_NAMES or (single and whole in wanted):
            wanted = (wanted - single) | {whole}
    variables = sorted(name for name in wanted if name.startswith("v:"))
    wanted.difference_update(variables[_MOST_NAMES:])  # the rest is asked for
    return ",".join(sorted(wanted)).encode()


def question_of(name: str) -> tuple[Literal["var", "request_body", "response_body"], str]:
    """What is asked for, in the words that all protocols have (see `gatewright.http.Question`): its kind and name.

    A header is called what nginx's variable of it is: so those who black secrets out know it.
    """
    kind, _, of = name.partition(":")
    if kind == "body":
        return "request_body", ""
    if kind == "rbody":
        return "response_body", ""
    prefix = {"h": "http_", "r": "sent_http_"}.get(kind)
    return "var", f"{prefix}{of.replace('-', '_')}" if prefix else of or kind


class Learner:
    """What one phase of one chain looks at.

    Attributes:
        wants: the plan that the gateway should follow.
    """

    __slots__ = ("_bodies", "_body", "_first", "_left", "_seen", "wants")

    def __init__(self, first: bytes, *, body: str = "body") -> None:
        """Begin to learn.

        Args:
            first: the plan to begin with.
            body: what the phase's body is called.
        """
        self._first = self.wants = first
        self._left = _WINDOW
        self._seen = {EARLY} & set(fields_of(first))
        self._body = body
        self._bodies = 0

    def note(self, name: str) -> None:
        """A handler has looked at this."""
        if name == self._body:
            self._bodies += 1
        elif name not in self._seen and len(self._seen) < _MOST_SEEN and _NAME.fullmatch(name):
            self._seen.add(name)
            if not self._left:
                self.wants = plan_of(self._seen)

    def after_call(self, plan: bytes) -> bytes | None:
        """A call that followed a plan has ended; gives another plan if that would be better."""
        if self._left:
            if plan != self._first:  # another worker has learnt already
                self._learn(plan)
                self._left = 0
                self.wants = plan_of(self._seen)
            else:
                self._left -= 1
                if not self._left:
                    if 2 * self._bodies >= _WINDOW:
                        self._seen.add(self._body)
                    self.wants = plan_of(self._seen)
        elif plan not in (self.wants, self._first):
            before = len(self._seen)
            self._learn(plan)
            if len(self._seen) > before:
                self.wants = plan_of(self._seen)
        return None if plan == self.wants else self.wants

    def _learn(self, plan: bytes) -> None:
        if len(self._seen) < _MOST_SEEN:
            self._seen.update(fields_of(plan))
