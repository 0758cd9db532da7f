"""A response phase whose worker is killed is answered: APISIX would send the upstream's body with its own 503."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gatewright.gateways.apisix import calls, replies
from gatewright.gateways.apisix.frames import FrameType
from gatewright.gateways.apisix.replies import InfoRequest, InfoType, RespReply
from tests.conftest import RunnerProcess, StartRunner
from tests.peer import Peer

REFUSED = RespReply(503, [("content-type", "text/plain; charset=utf-8")], b"The service is unavailable.\n")
WAITS = """
import asyncio, logging, os, time
from gatewright import Plugin

class Waits(Plugin):
    timeout = None
    async def on_request(self, request):
        await asyncio.sleep(60)
    async def on_response(self, request, response):
        match self.config.get("does"):
            case "waits":
                await asyncio.sleep(60)
            case "blocks":
                logging.warning("blocks now")
                time.sleep(60)
            case "reads":
                await response.body()
        response.headers["x-pid"] = str(os.getpid())
"""
SECRET = [("X-Secret", "1")]


@pytest.fixture
def runner(start_runner: StartRunner, plugin_dir: Callable[..., Path]) -> RunnerProcess:
    runner = start_runner("-p", plugin_dir(waits=WAITS))
    runner.wait_for_log("listening")
    return runner


def call(peer: Peer, does: str, number: int) -> None:
    """Ask, and wait for nothing."""
    token = peer.prepare(("waits", json.dumps({"does": does})))
    peer.send(calls.encode_http_resp_call(id=number, conf_token=token, status=200, headers=SECRET))


def kill(runner: RunnerProcess) -> None:
    os.kill(runner.workers()[0]["pid"], signal.SIGKILL)


def test_a_response_phase_under_way_is_refused(runner: RunnerProcess) -> None:
    with runner.peer() as peer:
        call(peer, "waits", 7)
        runner.wait_for(lambda: runner.workers()[0]["calls_under_way"])
        kill(runner)
        assert replies.decode_resp_reply(peer.receive()) == (7, REFUSED)
        with pytest.raises(EOFError):  # at once: the gateway must not put it back into its pool
            peer.receive()


def test_a_body_that_the_gateway_still_sends_is_taken(runner: RunnerProcess) -> None:
    with runner.peer() as peer:
        call(peer, "reads", 8)
        assert replies.decode_info_request(peer.receive()) == InfoRequest(InfoType.RESP_BODY)
        kill(runner)
        peer.send(calls.encode_extra_info_result(b"x" * 5_000_000))
        assert replies.decode_resp_reply(peer.receive()) == (8, REFUSED)


def test_what_a_blocked_worker_has_not_read_is_served_by_the_next_one(runner: RunnerProcess) -> None:
    pid = runner.workers()[0]["pid"]
    with runner.peer() as blocking, runner.peer() as waiting:
        token = waiting.prepare(("waits", "{}"))
        call(blocking, "blocks", 9)
        runner.wait_for_log("blocks now")
        waiting.send(calls.encode_http_resp_call(id=10, conf_token=token, status=200, headers=SECRET))
        os.kill(pid, signal.SIGKILL)
        assert replies.decode_resp_reply(blocking.receive()) == (9, REFUSED)
        while (frame := waiting.receive())[0] == FrameType.EXTRA_INFO:
            waiting.send(calls.encode_extra_info_result(b"GET"))
        number, reply = replies.decode_resp_reply(frame)
        assert number == 10
        assert dict(reply.headers)["x-pid"] not in (None, str(pid))


def test_what_comes_on_an_idle_connection_after_its_worker_was_killed_is_served(runner: RunnerProcess) -> None:
    """APISIX may take it out of its pool in the very moment in which it would be closed."""
    pid = runner.workers()[0]["pid"]
    with runner.peer() as idle:
        token = idle.prepare(("waits", "{}"))

        def served_by() -> str | None:
            answers = {"RESP_BODY": b"x", "request_method": b"GET"}
            return dict(idle.response(token, 200, headers=SECRET, answers=answers).headers).get("x-pid")

        assert served_by() == str(pid)
        kill(runner)
        runner.wait_for_log("worker ended")
        assert served_by() not in (None, str(pid))


def test_a_request_phase_under_way_is_ended_soon(runner: RunnerProcess) -> None:
    with runner.peer() as idle, runner.peer() as waiting:
        token = waiting.prepare(("waits", json.dumps({"does": "waits"})))
        waiting.send(
            calls.encode_http_req_call(
                id=11, conf_token=token, src_ip=bytes(4), method="GET", path="/", args=[], headers=[]
            )
        )
        runner.wait_for(lambda: runner.workers()[0]["calls_under_way"])
        kill(runner)
        began = time.monotonic()
        for peer in (waiting, idle):
            with pytest.raises((EOFError, ConnectionError)):
                peer.receive()
        assert time.monotonic() - began < 3
