"""Calls of which very many come at once are begun as their answers are taken."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from gatewright.gateways.lean.frames import Kind
from gatewright.gateways.lean.gateway_side import Answered, GatewaySession, Greeted, Token
from gatewright.gateways.lean.needs import fields_of
from tests.conftest import StartRunner

BIG = """
from gatewright import Plugin, Response
class Big(Plugin):
    def on_request(self, request):
        return Response(200, body=b"x" * (1 << 20))
"""
MANY = 300


def test_answers_that_are_not_taken_are_not_made(start_runner: StartRunner, plugin_dir: Callable[..., Path]) -> None:
    runner = start_runner("-p", plugin_dir(big=BIG))
    runner.wait_for(runner.workers)
    before = runner.workers()[0]["memory"]
    session = GatewaySession()
    with socket.socket(socket.AF_UNIX) as sock, runner.peer() as other:
        sock.settimeout(20)
        sock.connect(str(runner.socket))
        sock.sendall(session.hello("gateway") + session.prepare(1, "route#1", [("big", "{}")], 1))
        greeted, token = _events(sock, session, 2)
        assert isinstance(greeted, Greeted)
        assert isinstance(token, Token)
        plan = token.plans[0] or b""
        brought = [b""] * len(fields_of(plan))
        calls = (session.call(Kind.REQUEST, number, token.token, plan, brought) for number in range(2, MANY))
        sock.sendall(b"".join(calls))
        assert other.prepare(("big", "{}")), "others are served"
        assert runner.workers()[0]["memory"] - before < 128 << 20
        answers = _events(sock, session, MANY - 2)
    assert all(isinstance(answer, Answered) and answer.stop for answer in answers)
    assert {answer.id for answer in answers} == {*range(2, MANY)}, "and none is lost"


def _events(sock: socket.socket, session: GatewaySession, count: int) -> list[object]:
    events: list[object] = []
    while len(events) < count:
        data = sock.recv(1 << 20)
        assert data, "the runner closed the connection"
        events += session.receive_data(data)
    return events
