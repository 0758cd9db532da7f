"""What a plugin does to one request stays with that request, and what it can't mean is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gatewright.gateways.apisix.replies import Rewrite, Stop
from tests.conftest import RunnerProcess, StartRunner
from tests.peer import Refused

PLUGINS = """
import asyncio, time
from greenlet import GreenletExit
from gatewright import Plugin, Response
from gatewright.errors import CallRefusedError, GatewayClosedError
from gatewright.runtime.pdk import PhaseExit

class Session(Plugin):
    def on_request(self, request):
        if "x-user" in request.headers:
            request.response_headers["set-cookie"] = request.headers["x-user"]

DENY = Response(403, body="no")
class Deny(Plugin):
    def on_request(self, request):
        return DENY

class Same(Plugin):
    def on_response(self, request, response):
        response.headers["x-a"] = "1"
        return response
class SameAsync(Plugin):
    async def on_response(self, request, response):
        response.headers["x-a"] = "1"
        return response

WRONG = {
    "int body": lambda request: Response(200, body=12),
    "list body": lambda request: Response(200, body=[1]),
    "set_body": lambda request: request.set_body(5),
    "header name": lambda request: request.headers.__setitem__(5, "x"),
    "header value": lambda request: request.headers.__setitem__("x", 5),
    "argument name": lambda request: request.query.__setitem__(5, "x"),
    "path": lambda request: setattr(request, "path", 5),
}
class Wrong(Plugin):
    def on_request(self, request):
        return WRONG[request.path[1:]](request)

class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("this can't be told")

KINDS = {each.__name__: each for each in (KeyboardInterrupt, SystemExit, GreenletExit, GatewayClosedError,
    CallRefusedError, PhaseExit, GeneratorExit, asyncio.CancelledError, Unspeakable, StopIteration)}
def fail(request):
    raise KINDS[request.path[1:]]("as meant")
class Fail(Plugin):
    def on_request(self, request):
        fail(request)
class FailAsync(Plugin):
    async def on_request(self, request):
        fail(request)
class FailLate(Plugin):
    async def on_request(self, request):
        await asyncio.sleep(0.01)
        fail(request)
class FailBody(Plugin):
    async def on_request(self, request):
        await request.body()
        fail(request)
class FailApart(Plugin):
    blocking = True
    def on_request(self, request):
        fail(request)

class Puts(Plugin):
    def on_request(self, request):
        request.ctx["user"] = {"roles": ["user"]}
class Half(Plugin):
    on_error = "skip"
    def on_request(self, request):
        request.ctx["role"] = "admin"
        request.ctx.setdefault("user", {"roles": []})["roles"].append("admin")
        request.headers["x-role"] = "admin"
        del request.headers["x-gone"]
        request.query["a"] = "2"
        request.response_headers["x-seen"] = "1"
        request.set_body("changed")
        request.path = "/admin"
        raise RuntimeError("half way")
class Quits(Half):
    def on_request(self, request):
        request.headers["x-role"] = "admin"
        return 5
class Late(Plugin):
    on_error = "skip"
    timeout = 0.2
    async def on_request(self, request):
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            pass
        await asyncio.sleep(0.2)
        request.headers["x-late"] = "1"
        request.path = "/late"
class LateApart(Plugin):
    on_error = "skip"
    timeout = 0.2
    blocking = True
    def on_request(self, request):
        headers, roles = request.headers, request.ctx.get("user", {"roles": []})["roles"]
        time.sleep(0.5)
        roles.append("admin")
        headers["x-late"] = "1"
        request.path = "/late"
class Slow(Plugin):
    async def on_request(self, request):
        await asyncio.sleep(0.6)
class Reads(Plugin):
    on_error = "skip"
    async def on_request(self, request):
        await request.body()
        raise RuntimeError("after the body")
class ReadsAgain(Plugin):
    async def on_request(self, request):
        request.headers["x-body"] = (await request.body()).decode()
class Good(Plugin):
    on_error = "skip"
    def on_request(self, request):
        request.ctx["role"] = "user"
        request.headers["x-role"] = "user"
        request.headers["x-a"] = request.headers.get("x-a", "") + "!"
        request.query["a"] = "2"
        request.path = "/there"
class Told(Plugin):
    def on_request(self, request):
        request.headers["x-ctx"] = repr(request.ctx)
class HalfResponse(Plugin):
    on_error = "skip"
    def on_response(self, request, response):
        response.headers["x-role"] = "admin"
        response.status = 201
        response.set_body("changed")
        raise RuntimeError("half way")
class GoodResponse(Plugin):
    on_error = "skip"
    async def on_response(self, request, response):
        response.headers["x-role"] = await request.var("role")
        return response
"""


@pytest.fixture
def runner(start_runner: StartRunner, plugin_dir: Callable[..., Path]) -> RunnerProcess:
    runner = start_runner("-p", plugin_dir(p=PLUGINS), "--workers", "1")
    runner.wait_for_log("listening")
    return runner


def call(runner: RunnerProcess, *plugins: str, path: str = "/", **more: object) -> Stop | Rewrite | None:
    with runner.peer() as peer:
        return peer.request(peer.prepare(*((name, "{}") for name in plugins)), path, **more)  # type: ignore[arg-type]


def test_an_answer_that_a_plugin_keeps_is_never_changed(runner: RunnerProcess) -> None:
    first = call(runner, "session", "deny", headers=[("x-user", "alice")])
    second = call(runner, "session", "deny", headers=[])
    assert isinstance(first, Stop)
    assert isinstance(second, Stop)
    assert ("set-cookie", "alice") in first.headers
    assert second.headers == [("content-type", "text/plain; charset=utf-8")]


def test_giving_the_upstreams_answer_back_changes_nothing(runner: RunnerProcess) -> None:
    for name in ("same", "same-async"):
        with runner.peer() as peer:
            reply = peer.response(
                peer.prepare((name, "{}"), key="route#1#ext-plugin-post-resp#1"),
                headers=[("Content-Type", "text/plain"), ("X", "1")],
            )
        assert reply.headers == [("content-type", "text/plain"), ("x", "1"), ("x-a", "1")]


def test_what_can_not_be_sent_is_refused_in_words(runner: RunnerProcess) -> None:
    whats = ("int body", "list body", "set_body", "header name", "header value", "argument name", "path")
    for what in whats:
        with pytest.raises(Refused):
            call(runner, "wrong", path=f"/{what}")
    runner.wait_for(lambda: runner.log.count("plugin failed: request refused") + runner.log.count("left_out") >= 5)
    assert "a body is bytes or str, not int" in runner.log


def test_whatever_a_handler_raises_is_answered_and_ends_no_worker(runner: RunnerProcess) -> None:
    kinds = ("KeyboardInterrupt", "SystemExit", "GreenletExit", "GatewayClosedError", "CallRefusedError", "PhaseExit",
             "GeneratorExit", "CancelledError", "Unspeakable", "StopIteration")  # fmt: skip
    pids = [worker["pid"] for worker in runner.workers()]
    for plugin in ("fail", "fail-async", "fail-late", "fail-body", "fail-apart"):
        with runner.peer() as peer:
            token = peer.prepare((plugin, "{}"))
            for kind in kinds:
                with pytest.raises(Refused):
                    peer.request(token, f"/{kind}")
    assert [worker["pid"] for worker in runner.workers()] == pids


@pytest.mark.parametrize("plugin", ["half", "quits"])
def test_what_a_skipped_plugin_has_changed_is_taken_back(runner: RunnerProcess, plugin: str) -> None:
    headers = [("host", "x"), ("x-gone", "still here")]
    assert call(runner, plugin, headers=headers, args=[("a", "1")]) is None
    action = call(runner, plugin, "told", headers=headers)
    assert action == Rewrite(headers=[("x-ctx", "{}")])
    action = call(runner, "puts", plugin, "told", headers=headers)
    assert action == Rewrite(headers=[("x-ctx", "{'user': {'roles': ['user']}}")]), (
        "inside of what others put there, too"
    )


@pytest.mark.parametrize("plugin", ["late", "late-apart"])
def test_a_skipped_plugin_that_goes_on_changes_nothing_any_more(runner: RunnerProcess, plugin: str) -> None:
    assert call(runner, plugin, "slow") is None
    action = call(runner, "puts", plugin, "slow", "told")
    assert action == Rewrite(headers=[("x-ctx", "{'user': {'roles': ['user']}}")])


def test_what_a_skipped_plugin_has_read_is_known(runner: RunnerProcess) -> None:
    with runner.peer() as peer:
        token = peer.prepare(("reads", "{}"), ("reads-again", "{}"))
        action = peer.request(token, method="POST", answers={"REQ_BODY": b"body"})
        assert action == Rewrite(headers=[("x-body", "body")])
        assert len(peer.asked) == 1


def test_a_plugin_that_could_be_skipped_but_succeeds_has_its_changes(runner: RunnerProcess) -> None:
    action = call(runner, "good", "good", "told", headers=[("x-a", "1")], args=[("a", "1")])
    assert isinstance(action, Rewrite)
    assert action.path == "/there"
    assert action.args == [("a", "2")]
    assert dict(action.headers) == {"x-role": "user", "x-a": "1!!", "x-ctx": "{'role': 'user'}"}


def test_skipping_in_the_response_phase(runner: RunnerProcess) -> None:
    with runner.peer() as peer:
        token = peer.prepare(("half-response", "{}"), ("good-response", "{}"), key="route#1#ext-plugin-post-resp#1")
        reply = peer.response(token, answers={"role": b"guest"})
    assert (reply.status, reply.body) == (0, b"")
    assert reply.headers == [("content-type", "text/plain"), ("x-role", "guest")]
