"""What plugins make up of a client's text neither grows without end nor spoils what others rely on."""

from __future__ import annotations

from typing import Any

import pytest

from gatewright import Plugin
from gatewright.errors import ProtocolError
from gatewright.gateways.lean.frames import Kind, encode_frame
from gatewright.gateways.lean.needs import ALL_OF_REQUEST, Learner, fields_of
from gatewright.server.worker.service import Service
from tests.lean.test_plans import connected, in_service

KEPT: list[Any] = []


class Keeps(Plugin):
    name = "it"

    def on_request(self, request: Any) -> None:
        if request.path == "/keep":
            KEPT.append(request)
        elif request.path == "/wait":
            request.var("own")
        else:
            KEPT[0].var("secret")


def test_a_kept_request_asks_nothing_in_the_name_of_another_call_that_has_its_number() -> None:
    KEPT.clear()

    def work(service: Service) -> None:
        connection, wire = connected(service)
        connection.data_received(encode_frame(Kind.PREPARE, 1, (b"route", b"it", b"{}"), argument=7))
        token = wire.frames.pop()[3]
        for id, path in ((7, b"/keep"), (7, b"/wait"), (8, b"/use")):
            connection.data_received(encode_frame(Kind.REQUEST, id, (b"path", path), argument=token))
        kept, waits, used = wire.frames
        assert kept[0] == Kind.REQUEST
        assert waits[0] == Kind.ASK
        assert waits[4] == [b"v:own"]
        assert (used[0], used[2]) == (Kind.ERROR, 8), "refused, and nothing of the other call is told"
        connection.connection_lost(None)

    in_service(Keeps, work)


def test_what_is_looked_at_by_made_up_names_is_learnt_up_to_a_bound() -> None:
    learner = Learner(ALL_OF_REQUEST)
    for number in range(10_000):
        learner.note(f"h:x-{number}")
        learner.note(f"v:arg_{number}")
        learner.after_call(ALL_OF_REQUEST)
    assert len(learner._seen) <= 256
    assert len(fields_of(learner.wants)) <= 64


@pytest.mark.parametrize("name", ["v:a,b", "v:arg_é", "v:\udcff", "v:" + "x" * 101, "v:a b", "V:x", "v:\n"])
def test_a_name_that_can_not_stand_in_a_plan_spoils_none(name: str) -> None:
    learner = Learner(ALL_OF_REQUEST)
    learner.note("v:host")
    learner.note(name)
    for _ in range(60):
        learner.after_call(learner.wants)
    assert list(fields_of(learner.wants)) == ["v:host"]


def test_a_plan_has_a_length() -> None:
    with pytest.raises(ProtocolError, match="a plan of 10000 bytes"):
        fields_of(b"v" * 10_000)
