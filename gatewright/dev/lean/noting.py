"""What of a call over the lean path is written down for whoever looks (see `dev.trail`)."""

from __future__ import annotations

from time import perf_counter
from typing import Final

from gatewright.dev.lean.client import Host
from gatewright.dev.messages import text_of
from gatewright.dev.nginx import parse_args
from gatewright.dev.trail import body_form, current_phase
from gatewright.gateways.lean.gateway_side import Answered
from gatewright.gateways.lean.needs import question_of
from gatewright.gateways.lean.replies import Op

__all__ = ["NotingHost", "note_operations"]

_OF_REQUESTS: Final = (Op.SET_HEADER, Op.ADD_HEADER, Op.DROP_HEADER)
_OF_RESPONSES: Final = (
    Op.SET_RESPONSE_HEADER, Op.ADD_RESPONSE_HEADER, Op.DROP_RESPONSE_HEADER, Op.APPEND_RESPONSE_HEADER,
)  # fmt: skip


class NotingHost:
    """A request that calls over the lean path are told of, with each question noted."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def tell(self, name: str) -> bytes | None:
        """What was asked for."""
        phase = current_phase()
        if phase is None:
            return await self._host.tell(name)
        began = perf_counter()
        kind, of = question_of(name)
        try:
            value = await self._host.tell(name)
        except Exception as error:
            phase.ask(kind, of, None, perf_counter() - began, str(error))
            raise
        shown = body_form(value) if value is None or "body" in kind else text_of(value)
        phase.ask(kind, of, shown, perf_counter() - began)
        return value

    async def bring(self, name: str) -> bytes | None:
        """What a call brings, which is no question."""
        return await self._host.bring(name)


def note_operations(answer: Answered | None) -> None:
    """The runner has answered over the lean path; in the inspector's words for the other protocols' replies."""
    phase = current_phase()
    if phase is None:
        return
    told = [(op, [text_of(value) for value in values]) for op, values in answer.operations] if answer else []
    told = [each for each in told if each[0] not in (Op.PLAN, Op.CTX)]
    if answer is None or not told:
        phase.reply = {"kind": "nothing to change"}
        return
    one = {op: values[0] for op, values in told}
    headers = [[values[0], values[1] if values[1:] else None] for op, values in told if op in _OF_REQUESTS]
    response_headers = [[values[0], values[1] if values[1:] else None] for op, values in told if op in _OF_RESPONSES]
    body = next((values[0] for op, values in answer.operations if op in (Op.BODY, Op.RESPONSE_BODY)), None)
    if answer.stop or phase.name == "response":
        kind = "stop" if answer.stop else "response"
        status = int(one.get(Op.STATUS, "0"))
        phase.reply = {"kind": kind, "status": status, "headers": response_headers, "body": body_form(body)}
        return
    query = one.get(Op.QUERY)
    phase.reply = {
        "kind": "rewrite", "path": one.get(Op.PATH), "headers": headers,
        "query": [] if query is None else [[n, v] for n, values in parse_args(query).items() for v in values],
        "response_headers": {"headers": response_headers}, "body": body_form(body),
    }  # fmt: skip
