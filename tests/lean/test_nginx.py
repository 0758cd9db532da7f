"""The lean path through a real nginx: what the upstream saw, what the client got."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.conftest import RunnerProcess, StartRunner
from tests.lean.nginx import Nginx

WAYS = ("pool", "mux")


def do(code: str) -> tuple[str, dict[str, str]]:
    return "do", {"request": code}


def do_async(code: str) -> tuple[str, dict[str, str]]:
    return "do-async", {"request": code}


@pytest.mark.parametrize("way", WAYS)
class TestRequests:
    def test_what_is_not_changed_reaches_the_upstream_byte_for_byte(self, nginx: Nginx, way: str) -> None:
        answer = nginx.ask(f"/{way}/a%2fb/%C3%A4?x=%41&&b&x=+1", do("pass"), headers=[("X-A", "1"), ("X-A", "2")])
        assert answer.line == f"GET /{way}/a%2fb/%C3%A4?x=%41&&b&x=+1 HTTP/1.1"
        assert answer.saw("x-a") == ["1", "2"]

    def test_headers_are_set_added_and_deleted(self, nginx: Nginx, way: str) -> None:
        code = "h = request.headers; h['x-new'] = h['x-a'].upper(); h.add('x-many', '2'); del h['x-gone']"
        answer = nginx.ask(
            f"/{way}/", do(code), headers=[("X-A", "value"), ("X-Many", "1"), ("X-Gone", "1"), ("X-Gone", "2")]
        )
        assert answer.saw("x-new") == ["VALUE"]
        assert answer.saw("x-many") == ["1", "2"]
        assert answer.saw("x-gone") == []

    def test_repeated_headers_are_seen_apart(self, nginx: Nginx, way: str) -> None:
        code = "request.headers['x-seen'] = '|'.join(request.headers.get_all('x-a'))"
        for _ in range(60):  # brought first with all the others, and then alone
            answer = nginx.ask(f"/{way}/", do(code), headers=[("X-A", "1"), ("x-a", "2, 3")])
            assert answer.saw("x-seen") == ["1|2, 3"]

    def test_three_hundred_headers(self, nginx: Nginx, way: str) -> None:
        code = "request.headers['x-count'] = str(sum(n.startswith('x-n') for n in request.headers))"
        answer = nginx.ask(f"/{way}/", do(code), headers=[(f"X-N{number}", "v") for number in range(300)])
        assert answer.saw("x-count") == ["300"]

    @pytest.mark.parametrize("size", [1, 3000, 8192, 8193, 30_000])
    def test_a_header_of_any_length_is_seen_whole(self, nginx: Nginx, way: str, size: int) -> None:
        value = "".join(str(number % 10) for number in range(size))
        code = "request.headers['x-turned'] = request.headers['x-long'][::-1]"
        for _ in range(60):  # brought first with all the others, and then alone
            answer = nginx.ask(f"/{way}/", do(code), headers=[("X-Long", value)])
            assert answer.saw("x-turned") == [value[::-1]]

    def test_a_path_is_sent_elsewhere_and_keeps_its_query(self, nginx: Nginx, way: str) -> None:
        answer = nginx.ask(f"/{way}/old?x=%41&b", do("request.path = '/new ä?'"))
        assert answer.line == "GET /new%20%C3%A4%3F?x=%41&b HTTP/1.1"

    def test_arguments_that_are_not_changed_stay_as_they_are(self, nginx: Nginx, way: str) -> None:
        code = "request.query['b'] = 'ä&'; del request.query['gone']; request.query['z'] = ''"
        answer = nginx.ask(f"/{way}/?a=%41&bare&b=1&gone=1&b=2", do(code))
        assert answer.line == f"GET /{way}/?a=%41&bare&b=%C3%A4%26&z= HTTP/1.1"

    @pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
    def test_bodies_of_any_size_are_read_and_replaced(self, nginx: Nginx, way: str, size: int) -> None:
        body = os.urandom(size)
        code = "b = request.body(); request.headers['x-size'] = str(len(b)); request.set_body(b[::-1])"
        answer = nginx.ask(f"/{way}/", do(code), method="POST", body=body)
        assert answer.saw("x-size") == [str(size)]
        assert answer.seen_body == body[::-1]
        assert answer.saw("content-length") == [str(size)]

    def test_a_body_is_emptied(self, nginx: Nginx, way: str) -> None:
        answer = nginx.ask(f"/{way}/", do("request.set_body(b'')"), method="POST", body=b"secret")
        assert (answer.status, answer.seen_body, answer.saw("content-length")) == (200, b"", ["0"])

    def test_variables_and_the_clients_address(self, nginx: Nginx, way: str) -> None:
        code = (
            "request.headers['x-facts'] = ' '.join([request.method, request.path, request.client_ip, "
            "request.var('request_uri'), str(request.var('no_such_variable'))])"
        )
        answer = nginx.ask(f"/{way}/%41?q", do(code), method="PUT")
        assert answer.saw("x-facts") == [f"PUT /{way}/A 127.0.0.1 /{way}/%41?q None"]

    def test_a_plugin_answers_the_client(self, nginx: Nginx, way: str) -> None:
        code = "return Response(418, [('x-a', '1'), ('x-a', '2')], b'short and stout')"
        answer = nginx.ask(f"/{way}/", do(code))
        assert (answer.status, answer.body, answer.header("x-a")) == (418, b"short and stout", ["1", "2"])

    def test_headers_for_the_client_of_a_request_that_goes_on(self, nginx: Nginx, way: str) -> None:
        answer = nginx.ask(f"/{way}/", do("request.response_headers.set_all('x-a', ['1', '2'])"))
        assert (answer.status, answer.header("x-a")) == (200, ["1", "2"])

    def test_async_handlers_wait_for_loop_and_gateway(self, nginx: Nginx, way: str) -> None:
        code = "await asyncio.sleep(0.01); request.headers['x-size'] = str(len(await request.body()))"
        assert nginx.ask(f"/{way}/", do_async(code), method="POST", body=b"12345").saw("x-size") == ["5"]

    def test_plugins_of_a_chain_share_a_context(self, nginx: Nginx, way: str) -> None:
        answer = nginx.ask(
            f"/{way}/", do("request.ctx['a'] = 'ä'"), do("request.response_headers['x-a'] = request.ctx['a'] + '!'")
        )
        assert answer.header("x-a") == ["Ã¤!"]  # http.client reads latin-1

    @pytest.mark.parametrize(
        "plugin",
        [
            do("1/0"),
            do("raise SystemExit"),
            ("do-quick", {"request": "time.sleep(0.5)"}),
            ("do-quick-async", {"request": "await asyncio.sleep(3)"}),
            ("do-quick-blocking", {"request": "time.sleep(1)"}),
            do("request.headers['x'] = '\\n'"),
            do("return 'no response'"),
            ("nobody-s-plugin", {}),
            ("do", {"request": "this is no python"}),
        ],
        ids=str,
    )
    def test_whatever_fails_is_refused(self, nginx: Nginx, way: str, plugin: tuple[str, dict[str, str]]) -> None:
        answer = nginx.ask(f"/{way}/", plugin)
        assert answer.status == 503
        assert not answer.header("x-upstream")

    def test_a_skipped_plugin_changes_nothing(self, nginx: Nginx, way: str) -> None:
        answer = nginx.ask(f"/{way}/", ("do-skip", {"request": "request.headers['x-a'] = '1'; 1/0"}), do("pass"))
        assert (answer.status, answer.saw("x-a")) == (200, [])


def test_many_calls_share_a_connection(nginx: Nginx, runner: RunnerProcess) -> None:
    code = "await asyncio.sleep(0.2); request.headers['x-me'] = request.headers['x-number']"
    seen: list[tuple[int, list[str]]] = []

    def ask(number: int) -> None:
        seen.append((number, nginx.ask("/mux/", do_async(code), headers=[("X-Number", str(number))]).saw("x-me")))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [(number, [str(number)]) for number in range(30)]


def test_calls_that_come_together_bring_what_is_theirs(nginx: Nginx) -> None:
    """Long fields and short ones, many of them in one piece of output."""
    code = "await asyncio.sleep(0.05); request.headers['x-turned'] = request.headers['x-long'][::-1]"
    wrong: list[int] = []

    def ask(number: int) -> None:
        value = f"{number}" * (10, 4000, 9000)[number % 3]
        for _ in range(5):
            if nginx.ask("/mux/", do_async(code), headers=[("X-Long", value)]).saw("x-turned") != [value[::-1]]:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(10, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("way", [*WAYS, "usual"])
def test_a_runner_that_is_gone_killed_or_new(
    start_runner: StartRunner, plugin_file: str, tmp_path_factory: pytest.TempPathFactory, way: str
) -> None:
    runner = start_runner("-p", plugin_file, "--no-installed-plugins")
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), runner.socket)
    try:
        guarded = do("request.headers['x-checked'] = 'yes'")
        assert nginx.ask(f"/{way}/", guarded).saw("x-checked") == ["yes"]
        victim = runner.workers()[0]["pid"]
        slow = threading.Thread(
            target=lambda: results.append(nginx.ask(f"/{way}/", do_async("await asyncio.sleep(20)")).status)
        )
        results: list[int] = []
        slow.start()
        runner.wait_for(lambda: runner.workers() and runner.workers()[0]["calls_under_way"] == 1)
        os.kill(victim, signal.SIGKILL)
        slow.join(10)
        assert results == [503]
        runner.wait_for(lambda: runner.workers() and runner.workers()[0]["pid"] != victim)
        runner.wait_for(lambda: nginx.ask(f"/{way}/", guarded).saw("x-checked") == ["yes"])
        assert runner.stop() == 0
        answer = nginx.ask(f"/{way}/", guarded)
        assert (answer.status, answer.header("x-upstream")) == (503, [])
        start_runner("-p", plugin_file, "--no-installed-plugins", socket=runner.socket)  # knows no token
        assert nginx.ask(f"/{way}/", guarded).saw("x-checked") == ["yes"]
    finally:
        nginx.stop()


def test_nginx_reloads_and_its_old_workers_end(
    start_runner: StartRunner, plugin_file: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runner = start_runner("-p", plugin_file, "--no-installed-plugins")
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), runner.socket)
    guarded = do("request.headers['x-checked'] = 'yes'")

    def workers() -> set[str]:
        pid = nginx.process.pid
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    try:
        for way in (*WAYS, "usual"):
            assert nginx.ask(f"/{way}/", guarded).saw("x-checked") == ["yes"]
        before = workers()
        nginx.process.send_signal(signal.SIGHUP)
        runner.wait_for(lambda: workers() and not workers() & before)
        for way in (*WAYS, "usual"):
            assert nginx.ask(f"/{way}/", guarded).saw("x-checked") == ["yes"]
        assert "[error]" not in nginx.log  # an idle connection is none
    finally:
        nginx.stop()


def test_a_reload_under_load_loses_nothing(
    start_runner: StartRunner, plugin_file: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runner = start_runner("-p", plugin_file, "--no-installed-plugins", "--workers", "2")
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), runner.socket)
    outcomes: list[tuple[int, list[str]]] = []
    stop = threading.Event()

    def load() -> None:
        connection = nginx.connect()
        while not stop.is_set():
            answer = nginx.ask("/usual/", do("request.headers['x-checked'] = 'yes'"), connection=connection)
            outcomes.append((answer.status, answer.saw("x-checked")))
        connection.close()

    threads = [threading.Thread(target=load) for _ in range(8)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(3):
            pids = {worker["pid"] for worker in runner.status()["workers"]}
            runner.process.send_signal(signal.SIGHUP)
            runner.wait_for(lambda pids=pids: not pids & {worker["pid"] for worker in runner.status()["workers"]}, 30)
        stop.set()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        nginx.stop()
    assert len(outcomes) > 100
    assert set(map(str, outcomes)) == {"(200, ['yes'])"}


LATER = """
from gatewright import Plugin

class Later(Plugin):
    def {handler}:
        {does}
"""


def test_a_handler_that_comes_with_a_reload_is_called(
    start_runner: StartRunner, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The gateway was told that there is nothing to do in that phase."""
    file = tmp_path / "later.py"
    file.write_text(LATER.format(handler="on_log(self, request, response)", does="pass"))
    runner = start_runner("-p", file, "--no-installed-plugins", "--workers", "2")
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), runner.socket)
    try:
        assert nginx.ask("/early/", "later").status == 200
        pids = {worker["pid"] for worker in runner.workers()}
        file.write_text(LATER.format(handler="on_request(self, request)", does="1/0"))
        runner.process.send_signal(signal.SIGHUP)
        runner.wait_for(lambda: not pids & {worker["pid"] for worker in runner.workers()})
        runner.wait_for(lambda: nginx.ask("/early/", "later").status == 503)
    finally:
        nginx.stop()
