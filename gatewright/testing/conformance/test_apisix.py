"""What APISIX expects of a plugin runner."""

from __future__ import annotations

import secrets

import pytest

from gatewright.gateways.apisix.calls import encode_prepare_conf
from gatewright.gateways.apisix.frames import FrameType
from gatewright.gateways.apisix.replies import decode_action, decode_error
from gatewright.testing.conformance.asking import Runner

_NOT_FOUND = 2


def test_a_configuration_without_plugins_has_a_token(runner: Runner) -> None:
    for token in (runner.prepare(None), runner.prepare([])):
        frame = runner.ask(token)
        assert frame[0] == FrameType.HTTP_REQ_CALL
        assert decode_action(frame) is None


def test_the_same_configuration_has_the_same_token(runner: Runner) -> None:
    key = f"conformance#{secrets.token_hex(8)}"
    assert runner.prepare([], key) == runner.prepare([], key)


def test_a_token_that_nobody_gave_out_is_refused_before_anything_runs(runner: Runner) -> None:
    frame = runner.ask(secrets.randbits(32))
    assert frame[0] == FrameType.ERROR, "APISIX prepares anew only after an error frame"
    assert decode_error(frame) == _NOT_FOUND


def test_a_plugin_that_is_not_there_refuses_the_request(runner: Runner) -> None:
    token = runner.prepare([(f"no-such-plugin-{secrets.token_hex(4)}", "{}")])
    assert runner.ask(token)[:1] == bytes((FrameType.ERROR,)), "the request would pass without the plugin"


@pytest.mark.parametrize("id", [0, 1, (1 << 22) + 1, (1 << 32) - 1])
def test_every_number_of_a_call_is_answered(runner: Runner, id: int) -> None:
    assert runner.ask(runner.prepare(), id=id)[0] == FrameType.HTTP_REQ_CALL


def test_no_answer_is_without_a_payload(runner: Runner) -> None:
    assert len(runner.ask(runner.prepare())) > 4, "APISIX takes an empty payload for a fault of its own: 500"


@pytest.mark.parametrize(
    "more",
    [
        {"args": [("z", None), ("y", ""), ("a", "1"), ("a", "2")]},
        {"headers": [("x-latin", b"caf\xe9".decode("utf-8", "surrogateescape")), ("cookie", "a=1"), ("cookie", "b=2")]},
        {"src_ip": bytes(15) + b"\x01"},
        {"path": b"/\xff%".decode("utf-8", "surrogateescape")},
        {"headers": [(f"x-{n}", "v" * 50) for n in range(2000)]},
        *({"method": method} for method in ("HEAD", "OPTIONS", "TRACE", "PROPPATCH")),
    ],
)
def test_odd_requests_are_answered(runner: Runner, more: dict[str, object]) -> None:
    assert runner.ask(runner.prepare(), **more)[0] == FrameType.HTTP_REQ_CALL


def test_frames_may_come_byte_by_byte_and_one_after_the_other(runner: Runner) -> None:
    token = runner.prepare()
    with runner.connect() as connection:
        for _ in range(3):
            for byte in runner.call(token):
                connection.send(bytes((byte,)))
            assert connection.frame()[0] == FrameType.HTTP_REQ_CALL


def test_an_open_connection_keeps_nobody_waiting(runner: Runner) -> None:
    # APISIX dials before it has the token, and dials once more to get it.
    with runner.connect(), runner.connect() as waiting:
        token = runner.prepare()
        waiting.send(runner.call(token))
        assert waiting.frame()[0] == FrameType.HTTP_REQ_CALL


@pytest.mark.parametrize("data", [b"\xff\x00\x00\x01x", b"\x02\x00\x00\x00", b"\x02\x00\x00\x04\xff\xff\xff\xff"])
def test_garbage_ends_its_own_connection_only(runner: Runner, data: bytes) -> None:
    with runner.connect() as connection:
        connection.send(data)
        answer = connection.frame()
        assert answer == b"" or answer[0] == FrameType.ERROR
    assert runner.ask(runner.prepare())[0] == FrameType.HTTP_REQ_CALL


def test_a_gateway_that_leaves_in_the_middle_harms_nobody(runner: Runner) -> None:
    with runner.connect() as connection:
        connection.send(encode_prepare_conf("conformance#half", [])[:-3])
    assert runner.prepare() >= 0
