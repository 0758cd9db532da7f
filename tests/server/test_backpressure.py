"""What peers send ahead, or don't take, is bounded."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gatewright.errors import ConfigError
from gatewright.gateways.apisix import calls, replies
from gatewright.gateways.apisix.frames import FrameType
from gatewright.settings import Settings
from tests.conftest import StartRunner

WriteFiles = Callable[..., Path]

PLUGINS = """
import asyncio
from gatewright import Plugin, Response

class Waits(Plugin):
    async def on_request(self, request):
        await asyncio.sleep(float(request.headers.get("x-seconds", "0")))
        request.headers["x"] = request.path

class Big(Plugin):
    def on_request(self, request):
        return Response(200, body=b"x" * (1 << 20))

class Asks(Plugin):
    async def on_request(self, request):
        request.headers["x-length"] = str(len(await request.body()))
"""


def call(token: int, path: str = "/", seconds: str = "0") -> bytes:
    return calls.encode_http_req_call(
        id=1,
        conf_token=token,
        src_ip=b"\x7f\0\0\1",
        method="GET",
        path=path,
        args=(),
        headers=(("x-seconds", seconds),),
    )


def sent_until_it_blocks(sock: socket.socket, data: bytes, most: int) -> int:
    sock.settimeout(1)
    sent = 0
    try:
        while sent < most:
            sent += sock.send(data)
    except TimeoutError:
        pass
    finally:
        sock.settimeout(20)
    return sent


def test_while_a_call_is_under_way_no_more_is_read_than_a_little(
    start_runner: StartRunner, plugin_dir: WriteFiles
) -> None:
    runner = start_runner("-p", plugin_dir(plugins=PLUGINS))
    with runner.peer() as peer, runner.peer() as other:
        token = peer.prepare(("waits", "{}"))
        peer.send(call(token, seconds="50"))
        assert sent_until_it_blocks(peer.sock, bytes(1 << 16), 8 << 20) < 2 << 20
        assert other.request(token, "/other") is not None


def test_what_was_sent_ahead_is_served_in_its_turn(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(plugins=PLUGINS))
    with runner.peer() as peer:
        token = peer.prepare(("waits", "{}"))
        ahead = b"".join(call(token, f"/{number}/{'x' * 1000}") for number in range(1000))
        peer.send(call(token, "/first", seconds="0.5"))
        sending = threading.Thread(target=peer.send, args=(ahead,))
        sending.start()
        answers = []
        for _ in range(1001):
            _, action = replies.decode_req_reply(peer.receive())
            assert isinstance(action, replies.Rewrite)
            answers.append(dict(action.headers)["x"])
        sending.join()
        assert answers[0] == "/first"
        assert [answer.split("/")[1] for answer in answers[1:]] == [str(number) for number in range(1000)]


def test_the_answer_to_a_question_may_be_as_long_as_a_frame(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(plugins=PLUGINS))
    with runner.peer() as peer:
        action = peer.request(peer.prepare(("asks", "{}")), answers={"REQ_BODY": b"x" * (8 << 20)})
        assert isinstance(action, replies.Rewrite)
        assert dict(action.headers)["x-length"] == str(8 << 20)


def test_who_does_not_take_answers_gets_no_more_of_them(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(plugins=PLUGINS))
    with runner.peer() as peer, runner.peer() as other:
        token = peer.prepare(("big", "{}"))
        before = runner.workers()[0]["memory"]
        frames = call(token)
        sent = sent_until_it_blocks(peer.sock, frames, 8 << 20)
        assert sent < 2 << 20
        assert runner.workers()[0]["memory"] - before < 64 << 20
        assert other.request(token) is not None
        for _ in range(sent // len(frames)):  # and it has lost none
            assert peer.receive()[0] == FrameType.HTTP_REQ_CALL


def test_an_answer_that_nobody_asked_for_is_not_waited_for(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(plugins=PLUGINS))
    with runner.peer() as peer:
        token = peer.prepare(("waits", "{}"))
        peer.send(call(token, seconds="50") + b"\3\xff\xff\xff" + bytes(1000))
        assert peer.receive()[0] == FrameType.ERROR
        with pytest.raises(EOFError):
            peer.receive()


def test_all_together_hold_no_more_than_max_buffered(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(plugins=PLUGINS), "--max-frame", "1000000", "--max-buffered", "2000000")
    with runner.peer() as small, runner.peer() as one, runner.peer() as two, runner.peer() as three:
        token = small.prepare(("waits", "{}"))
        begun = b"\2" + (999_999).to_bytes(3, "big")
        small.send(begun + bytes(10_000))
        one.send(begun + bytes(700_000))
        two.send(begun + bytes(900_000))
        three.send(begun + bytes(600_000))
        assert two.receive()[0] == FrameType.ERROR, "it holds most"
        with pytest.raises(EOFError):
            two.receive()
        runner.wait_for_log("too much input waits in this process")
        with runner.peer() as fresh:
            assert fresh.request(token) is not None
        for peer in (small, one, three):
            peer.sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                peer.receive()


def test_what_all_leave_untaken_counts_too(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(plugins=PLUGINS), "--max-frame", "1000000", "--max-buffered", "3000000")
    with runner.peer() as one, runner.peer() as two, runner.peer() as three, runner.peer() as four:
        token = one.prepare(("big", "{}"))
        for peer in (one, two, three, four):
            peer.send(call(token))
        runner.wait_for_log("too much output waits in this process")
        assert runner.log.count("too much output waits") == 1
        whole = 0
        for peer in (one, two, three, four):
            try:
                whole += len(peer.receive()) > 1 << 20
            except EOFError:
                continue
        assert whole == 3


def test_max_buffered_has_room_for_a_frame() -> None:
    with pytest.raises(ConfigError, match=r"max_buffered .* is less than max_frame"):
        Settings(max_buffered=1 << 20)
