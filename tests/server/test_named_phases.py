"""A plugin that a route names under a phase for which it has no handler: the route must not stay open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RunnerProcess, StartRunner
from tests.peer import Refused

PLUGINS = """
from gatewright import Plugin

class Asks(Plugin):
    def on_request(self, request):
        request.headers["x-asked"] = "1"
class Answers(Plugin):
    async def on_response(self, request, response):
        response.headers["x-answered"] = "1"
class SkippedAnswers(Answers):
    on_error = "skip"
class Either(Asks):
    optional_phases = True
"""


@pytest.fixture
def runner(start_runner: StartRunner, plugin_dir: Callable[..., Path]) -> RunnerProcess:
    runner = start_runner("-p", plugin_dir(p=PLUGINS), "--workers", "1")
    runner.wait_for_log("listening")
    return runner


def test_a_plugin_without_a_handler_for_the_phase_is_refused_in_words(runner: RunnerProcess) -> None:
    with runner.peer() as peer:
        with pytest.raises(Refused):
            peer.request(peer.prepare(("answers", "{}")))
        assert peer.response(peer.prepare(("asks", "{}"))).status == 503
        # others in the chain don't make up for it
        assert peer.response(peer.prepare(("answers", "{}"), ("asks", "{}"))).status == 503
    runner.wait_for_log("asks has no on_response")
    assert "optional_phases" in runner.log


def test_a_plugin_may_say_that_it_is_meant(runner: RunnerProcess) -> None:
    with runner.peer() as peer:
        reply = peer.response(peer.prepare(("answers", "{}"), ("either", "{}")))
        assert ("x-answered", "1") in reply.headers


def test_its_policy_holds_as_for_any_failure(runner: RunnerProcess) -> None:
    with runner.peer() as peer:
        assert peer.request(peer.prepare(("skipped-answers", "{}"), ("asks", "{}"))).headers == [("x-asked", "1")]
