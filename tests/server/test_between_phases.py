"""`request.ctx` reaches the response phase, in whichever worker; and the request's facts can be had there."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatewright.gateways.apisix.replies import InfoRequest, RespReply, Rewrite
from tests.conftest import RunnerProcess, StartRunner
from tests.peer import Peer

WriteFiles = Callable[..., Path]

PLUGINS = """
import asyncio, os, threading
from gatewright import Plugin, Response

class Put(Plugin):
    def on_request(self, request):
        request.ctx.update({"user": request.headers["x-user"], "raw": b"\\xff"})
        request.ctx.update({"list": [1, 2.5, None, True], "pair": (1, 2)})
        request.headers["x-pid"] = str(os.getpid())

class PutLock(Plugin):
    def on_request(self, request):
        request.ctx["lock"] = threading.Lock()
        request.ctx["user"] = "ada"

class PutMuch(Plugin):
    def on_request(self, request):
        request.ctx["much"] = "x" * (1 << 20)
        request.ctx["user"] = "ada"

class PutNothing(Plugin):
    def on_request(self, request):
        request.ctx

class PutMore(Plugin):
    async def on_request(self, request):
        request.ctx["more"] = "of a later phase"

def told(request, response):
    ctx = request.ctx
    response.headers["x-ctx"] = repr(dict(ctx))
    response.headers["x-pid"] = str(os.getpid())

class Get(Plugin):
    def on_response(self, request, response):
        told(request, response)

class GetAsync(Plugin):
    async def on_response(self, request, response):
        told(request, response)

class GetLate(Plugin):
    async def on_response(self, request, response):
        await asyncio.sleep(0.01)
        told(request, response)

class GetApart(Plugin):
    blocking = True
    def on_response(self, request, response):
        told(request, response)

class GetLock(Plugin):
    async def on_response(self, request, response):
        response.headers["x-user"] = request.ctx["user"]
        request.ctx.get("lock" if request.method == "GET" else "much")

class Facts(Plugin):
    def on_response(self, request, response):
        self.tell(request, response)
    def tell(self, request, response):
        query = request.query.multi_items()
        response.headers["x-facts"] = f"{request.method} {request.path} {query} {request.client_ip}"
        response.headers["x-agent"] = request.headers.get("user-agent", "none")
        response.headers["x-other"] = request.headers.get("x-other", "none")

class FactsAsync(Facts):
    async def on_response(self, request, response):
        self.tell(request, response)

class FactsLate(Facts):
    async def on_response(self, request, response):
        task = asyncio.create_task(asyncio.sleep(0.01))
        await task
        self.tell(request, response)
        assert asyncio.current_task() is not None
        async with asyncio.timeout(5):
            await asyncio.sleep(0.001)

class FactsCancelled(Facts):
    async def on_response(self, request, response):
        asyncio.get_running_loop().call_later(0.05, asyncio.current_task().cancel)
        try:
            self.tell(request, response)
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            response.headers["x-cancelled"] = "yes"
            raise

class OwnTask(Plugin):
    async def on_response(self, request, response):
        async def look():
            return request.ctx
        await asyncio.create_task(look())
"""
WITHOUT = """
from gatewright import Plugin
class Put(Plugin):
    def on_request(self, request):
        request.ctx["user"] = "ada"
class Answer(Plugin):
    def on_response(self, request, response):
        pass
"""
numbers = itertools.count(1)


@pytest.fixture(params=["0", "3"], ids=["one process", "three workers"])
def runner(
    request: pytest.FixtureRequest, start_runner: StartRunner, plugin_dir: WriteFiles
) -> Iterator[RunnerProcess]:
    started = start_runner("-p", plugin_dir(p=PLUGINS), "--workers", request.param)
    started.wait_for_log("listening")
    yield started


class Exchange:
    """One request through a gateway: its phases come over whichever connection is free."""

    def __init__(self, runner: RunnerProcess) -> None:
        self.runner = runner
        self.id = f"{next(numbers):032x}".encode()
        self.answers = {"request_id": self.id, "request_method": b"GET"}
        self.asked: list[str] = []

    def request(self, plugin: str, user: str = "ada") -> dict[str, str | None]:
        with self.runner.peer() as peer:
            token = peer.prepare((plugin, "{}"))
            action = peer.request(token, headers=[("x-user", user)], answers=self.answers)
            self.asked = [question.name for question in peer.asked]
            return dict(action.headers) if isinstance(action, Rewrite) else {}

    def response(self, plugin: str, **answers: bytes) -> dict[str, str | None]:
        with self.runner.peer() as peer:
            return dict(self.response_on(peer, plugin, **answers).headers)

    def response_on(self, peer: Peer, plugin: str, **answers: bytes) -> RespReply:
        token = peer.prepare((plugin, "{}"), key="route#1#ext-plugin-post-resp#1")
        reply = peer.response(token, answers={**self.answers, **answers})
        self.asked = [question.name for question in peer.asked]
        return reply


PUT = {"user": "ada", "raw": b"\xff", "list": [1, 2.5, None, True], "pair": [1, 2]}


@pytest.mark.parametrize("plugin", ["get", "get-async", "get-late", "get-apart"])
def test_what_the_request_phase_put_is_there_in_the_response_phase(
    runner: RunnerProcess, plugin: str, request: pytest.FixtureRequest
) -> None:
    pids = set()
    for _ in range(6):
        exchange = Exchange(runner)
        one = exchange.request("put")
        assert exchange.asked == ["request_id"]
        assert set(one) == {"x-pid"}, "nothing of it is visible to the upstream"
        other = exchange.response(plugin)
        assert other["x-ctx"] == repr(PUT)
        pids.add((one["x-pid"], other["x-pid"]))
    if request.node.callspec.params["runner"] != "0":
        assert any(one != other for one, other in pids), "it went from one worker to another"


def test_requests_under_way_at_once_stay_apart(runner: RunnerProcess) -> None:
    exchanges = {f"user {number}": Exchange(runner) for number in range(20)}
    for user, exchange in exchanges.items():
        exchange.request("put", user)
    for user, exchange in reversed(exchanges.items()):
        assert exchange.response("get")["x-ctx"] == repr(PUT | {"user": user})


def test_both_request_phases_leave_something(runner: RunnerProcess) -> None:
    exchange = Exchange(runner)
    exchange.request("put")
    exchange.request("put-more")
    assert exchange.response("get")["x-ctx"] == repr(PUT | {"more": "of a later phase"})


def test_it_survives_a_reload_between_the_phases(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(p=PLUGINS), "--workers", "2")
    runner.wait_for_log("listening")
    exchange = Exchange(runner)
    before = exchange.request("put")
    runner.process.send_signal(1)
    runner.wait_for_log("reloaded")
    runner.wait_for(lambda: len(runner.workers()) == 2)
    after = exchange.response("get")
    assert after["x-ctx"] == repr(PUT)
    assert after["x-pid"] != before["x-pid"]


def test_a_request_without_a_request_phase_has_an_empty_context(runner: RunnerProcess) -> None:
    assert Exchange(runner).response("get")["x-ctx"] == "{}"
    exchange = Exchange(runner)
    exchange.request("put-nothing")
    assert exchange.asked == []
    assert exchange.response("get")["x-ctx"] == "{}"


@pytest.mark.parametrize(("plugin", "method"), [("put-lock", b"GET"), ("put-much", b"POST")])
def test_what_could_not_be_kept_is_missed_in_words(runner: RunnerProcess, plugin: str, method: bytes) -> None:
    exchange = Exchange(runner)
    exchange.request(plugin)
    with runner.peer() as peer:
        assert exchange.response_on(peer, "get-lock", request_method=method).status == 503
    runner.wait_for_log("has not come from the request phase")
    assert exchange.response("get")["x-ctx"] == repr({"user": "ada"})


def test_chains_without_readers_pay_nothing(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(p=WITHOUT))
    runner.wait_for_log("listening")
    exchange = Exchange(runner)
    exchange.request("put")
    assert exchange.asked == ["request_id"], "its module has both words: it may be a reader"
    parts = WITHOUT.partition("class Answer")
    other = plugin_dir(p=parts[0], q="from gatewright import Plugin\n" + parts[1] + parts[2])
    runner = start_runner("-p", other)
    runner.wait_for_log("listening")
    exchange = Exchange(runner)
    exchange.request("put")
    assert exchange.asked == []


def test_a_task_of_ones_own_is_told_where_to_look(runner: RunnerProcess) -> None:
    with runner.peer() as peer:
        assert Exchange(runner).response_on(peer, "own-task").status == 503
    runner.wait_for_log("look at it in the handler")


FACTS = {
    "request_method": b"POST", "uri": b"/a b\xff", "args": b"n=1&flag&n=a+b%20c", "remote_addr": b"2001:db8::1",
    "http_user_agent": b"curl", "server_protocol": b"HTTP/1.1", "RESP_BODY": b"body",
}  # fmt: skip


@pytest.mark.parametrize("plugin", ["facts", "facts-async", "facts-late"])
def test_the_requests_facts_are_fetched_together_when_asked_for(runner: RunnerProcess, plugin: str) -> None:
    exchange = Exchange(runner)
    headers = exchange.response(plugin, **FACTS)
    query = [("n", "1"), ("flag", ""), ("n", "a b c")]
    assert headers["x-facts"] == f"POST /a b\udcff {query} 2001:db8::1"
    assert headers["x-agent"] == "curl"
    assert headers["x-other"] == "none"
    assert exchange.asked[:4] == ["request_method", "uri", "args", "remote_addr"]
    assert exchange.asked[4:6] == ["http_user_agent", "http_x_other"]


def test_a_handler_that_is_cancelled_while_it_looks_is_refused(runner: RunnerProcess) -> None:
    exchange = Exchange(runner)

    def slowly(question: InfoRequest) -> bytes | None:
        time.sleep(0.05)
        return FACTS.get(question.name)

    with runner.peer() as peer:
        token = peer.prepare(("facts-cancelled", "{}"), key="route#1#ext-plugin-post-resp#1")
        assert peer.response(token, answers=slowly).status == 503
    runner.wait_for_log("the handler was cancelled")
    assert Exchange(runner).response("facts-async", **FACTS)["x-agent"] == "curl", exchange


def test_a_gateway_without_request_ids_is_told_of(runner: RunnerProcess) -> None:
    exchange = Exchange(runner)
    del exchange.answers["request_id"]
    exchange.request("put")
    with runner.peer() as peer:
        assert exchange.response_on(peer, "get").status == 503
    runner.wait_for_log("request_id")
