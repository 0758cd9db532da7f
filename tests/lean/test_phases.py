"""Response and log phase, consumers and idle connections of others, through a real nginx."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.collector import Collector
from tests.conftest import RunnerProcess, StartRunner
from tests.lean.nginx import Nginx


def answers(code: str) -> tuple[str, dict[str, str]]:
    return "answers", {"code": code}


def early(code: str) -> tuple[str, dict[str, str]]:
    return "early", {"code": code}


class TestDecidedEarly:
    """`early_response = True`: before the upstream is asked."""

    def test_headers_and_status_are_changed(self, nginx: Nginx) -> None:
        code = (
            "h = response.headers; h['x-new'] = request.headers['x-a']; response.status = 202; h.discard('x-upstream')"
        )
        answer = nginx.ask("/early/", early(code), headers=[("X-A", "1")])
        assert (answer.status, answer.header("x-new"), answer.header("x-upstream")) == (202, ["1"], [])
        assert b"GET /early/" in answer.body

    def test_a_value_is_added_to_what_the_upstream_sent(self, nginx: Nginx) -> None:
        answer = nginx.ask("/early/", early("response.headers.add('x-upstream', 'too')"))
        assert answer.header("x-upstream") == ["echo", "too"]

    def test_several_plugins_one_after_another(self, nginx: Nginx) -> None:
        answer = nginx.ask(
            "/early/", early("response.headers.add('x-a', '1')"), early("response.headers.add('x-a', '2')")
        )
        assert answer.header("x-a") == ["1", "2"]

    @pytest.mark.parametrize(
        "code",
        [
            "response.status == 200",
            "response.headers['x-upstream']",
            "'x-upstream' in response.headers",
            "list(response.headers)",
            "response.body()",
            "response.set_body(b'mine')",
            "1/0",
        ],
    )
    def test_looking_at_the_answer_is_refused_before_the_upstream_is_asked(self, nginx: Nginx, code: str) -> None:
        answer = nginx.ask("/early/", early(code))
        assert (answer.status, answer.header("x-upstream")) == (503, [])

    def test_a_plugin_that_may_look_at_the_answer_is_refused(self, nginx: Nginx) -> None:
        answer = nginx.ask("/early/", answers("pass"))
        assert (answer.status, answer.header("x-upstream")) == (503, [])


class TestWithTheAnswerInHand:
    def test_status_headers_and_body_are_seen(self, nginx: Nginx) -> None:
        facts = "response.status, response.headers['x-upstream'], len(response.body())"
        code = f"response.headers['x-seen'] = ' '.join(map(str, [{facts}]))"
        answer = nginx.ask("/answer/", answers(code), headers=[("X-Status", "404"), ("X-Body", "none")])
        assert (answer.status, answer.header("x-seen"), answer.body) == (404, ["404 echo 4"], b"none")

    def test_everything_is_replaced(self, nginx: Nginx) -> None:
        code = "return Response(201, [('x-a', '1'), ('x-a', '2')], 'mine')"
        answer = nginx.ask("/answer/", answers(code))
        assert (answer.status, answer.header("x-a"), answer.body) == (201, ["1", "2"], b"mine")
        assert answer.header("x-upstream") == []

    def test_a_long_body_is_read_and_replaced(self, nginx: Nginx) -> None:
        body = bytes(range(256)) * 1000
        code = "response.set_body(response.body().partition(b'\\0')[2][::-1])"
        answer = nginx.ask("/answer/", answers(code), method="POST", body=bytes(reversed(body)).replace(b"\0", b"0"))
        assert len(answer.body) == len(body)
        assert answer.body == body.replace(b"\0", b"0")

    @pytest.mark.parametrize("status", [204, 304])
    def test_answers_without_a_body(self, nginx: Nginx, status: int) -> None:
        answer = nginx.ask("/answer/", answers("response.headers['x-a'] = '1'"), headers=[("X-Status", str(status))])
        assert (answer.status, answer.header("x-a"), answer.body) == (status, ["1"], b"")

    def test_head(self, nginx: Nginx) -> None:
        answer = nginx.ask("/answer/", answers("response.headers['x-a'] = '1'"), method="HEAD")
        assert (answer.status, answer.header("x-a"), answer.body) == (200, ["1"], b"")

    def test_async(self, nginx: Nginx) -> None:
        assert nginx.ask("/answer/", "answers-async", headers=[("X-Body", "12345")]).header("x-size") == ["5"]

    def test_the_upstream_gets_path_query_and_body(self, nginx: Nginx) -> None:
        answer = nginx.ask("/answer/%3Fa%20b?x=%41&b", answers("pass"), method="PUT", body=b"body")
        assert (answer.line, answer.seen_body) == ("PUT /answer/%3Fa%20b?x=%41&b HTTP/1.1", b"body")

    def test_a_failure_shows_nothing_of_the_upstreams(self, nginx: Nginx) -> None:
        answer = nginx.ask("/answer/", answers("1/0"), headers=[("X-Body", "secret")])
        assert (answer.status, answer.header("x-upstream"), b"secret" in answer.body) == (503, [], False)


def test_plugins_are_told_how_requests_end(nginx: Nginx, runner: RunnerProcess) -> None:
    assert nginx.ask("/early/log", "logs", "logs-async").status == 200
    runner.wait_for_log("ended: GET /early/log 200 in the request echo route of logs")
    runner.wait_for_log("ended, too: 127.0.0.1 0.")


def test_a_failure_in_the_log_phase_is_told_and_keeps_nobody_from_the_rest(nginx: Nginx, runner: RunnerProcess) -> None:
    assert nginx.ask("/early/second", "logs", "logs-async", headers=[("X-Raise", "1")]).status == 200
    runner.wait_for_log("plugin failed after the answer")
    runner.wait_for_log("ended, too: 127.0.0.1 0.")
    assert "in the log phase" in runner.log


def test_a_plugin_says_who_calls(nginx: Nginx) -> None:
    assert nginx.ask("/usual/", "who").saw("x-who") == ["None ada"]
    assert nginx.ask("/usual/", "who", ("do", {"request": "request.headers['x-second'] = request.consumer"})).saw(
        "x-second"
    ) == ["ada"]


def test_a_chain_with_nothing_to_do_in_any_phase_is_refused(nginx: Nginx) -> None:
    assert nginx.ask("/usual/", "answers").status == 503  # no response phase here
    assert nginx.ask("/usual/", "logs-async").status == 503


def test_idle_connections_of_others_to_the_same_socket_are_left_alone(nginx: Nginx) -> None:
    connection = nginx.connect()
    for _ in range(20):
        connection.request("GET", "/idle")
        assert connection.getresponse().read() == b"left\n"
        assert nginx.ask("/pool/", ("do", {"request": "request.headers['x-a'] = '1'"})).saw("x-a") == ["1"]
    connection.close()


def test_what_calls_took_is_counted_by_path(nginx: Nginx, runner: RunnerProcess) -> None:
    nginx.ask("/usual/", "who")
    from gatewright.observe.control import ask

    runner.wait_for(
        lambda: 'gatewright_path_calls_total{path="lean"}' in ask(f"{runner.socket}.control", "/metrics")[1].decode()
    )


def test_a_request_is_traced_from_the_gateways_span_on(
    start_runner: StartRunner, plugin_file: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runner = start_runner(
        "-p", plugin_file, "--no-installed-plugins", "--tracing", f"http://127.0.0.1:{collector.server_port}"
    )
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), runner.socket)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    try:
        for _ in range(60):  # beyond what is brought first: the header is among what is brought then
            answer = nginx.ask(
                "/usual/", ("do", {"request": "request.headers['x-a'] = '1'"}),
                headers=[("Traceparent", f"00-{trace}-00f067aa0ba902b7-01")],
            )  # fmt: skip
            assert answer.saw("x-a") == ["1"]
        refused = nginx.ask("/usual/", ("do", {"request": "1/0"}))
        assert refused.status == 503
    finally:
        nginx.stop()
    runner.wait_for(lambda: len(collector.spans) >= 122)
    spans = collector.spans
    continued = [span for span in spans if span.trace_id.hex() == trace]
    assert {span.name for span in continued} == {"gatewright request", "do on_request"}
    assert len(continued) == 120
    assert any("refused" in span.status.message for span in spans)
