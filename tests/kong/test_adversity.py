"""What goes wrong on Kong's side or ours, and must neither let a request pass nor touch another one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from gatewright.errors import ConfigError, PluginError
from gatewright.gateways.kong.pdk import METHODS
from gatewright.observe.control import ask_json
from gatewright.runtime.kong_modules import adapt
from gatewright.server.ipc.guard import Guard
from tests.kong.conftest import Server, Start
from tests.kong.peer import Closed, Exited, Failed, MsgPackKong, connect

both = pytest.mark.parametrize("protocol", ["msgpack", "protobuf"])
ways = pytest.mark.parametrize("flags", [(), ("-g",)], ids=["plain", "-g"])

PLUGIN = """
import threading, time
from greenlet import GreenletExit

class Plugin(object):
    def __init__(self, config):
        self.shared = None

    def access(self, kong):
        who, _ = kong.request.get_header("who")
        if who == "later":
            threading.Timer(0.2, lambda: kong.response.exit(418, "belongs to another")).start()
            threading.Timer(0.3, lambda: kong.response.set_header("x", "late")).start()
        if who == "waits":
            time.sleep(0.6)
        if who == "share":
            self.shared = kong
            kong.response.exit(200, "shared")
        if who == "use":
            self.shared.response.set_header("x", "y")
        if who == "kill-me":
            raise GreenletExit
        if who == "crash":
            import os; os._exit(9)
        if who == "slow":
            time.sleep(0.5)
            kong.response.exit(403, "no")
        if who == "ask":
            kong.request.get_method()
            kong.response.exit(403, "no")
        if who == "body":
            body, _ = kong.request.get_raw_body()
            kong.response.exit(403, str(len(body)))
        if who == "body, crash":
            kong.request.get_raw_body()
            import os; os._exit(9)
        if who == "parallel":
            found = []
            threads = [threading.Thread(target=lambda n=n: found.append(kong.request.get_header(f"h{n}")[0]))
                       for n in range(3)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            kong.response.set_header("x", ",".join(sorted(found)))
        if who == "table":
            kong.request.get_headers(5)[0].pop("a")
            kong.response.set_header("x", ",".join(sorted(kong.request.get_headers(5)[0])))

    async def rewrite(self, kong):
        import asyncio
        try:
            await asyncio.wait_for(kong.request.get_method(), 0.1)
        except asyncio.TimeoutError:
            await kong.response.set_header("x", "gone on")
"""


def pdk(who: str, **more: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    return {"kong.request.get_header": lambda name: who if name == "who" else name, **more}


def answer(kong: Any, instance: int, who: str, **more: Any) -> int:
    with pytest.raises(Exited) as exited:
        kong.event(instance, "access", {**pdk(who), **{name.replace("_DOT_", "."): run for name, run in more.items()}})
    return exited.value.status


@both
@ways
def test_a_kong_that_outlives_its_event_touches_no_other(serve: Start, protocol: str, flags: tuple[str, ...]) -> None:
    server = serve(protocol, *flags, plain=PLUGIN)
    with server.kong(1) if protocol == "msgpack" else server.kong() as kong:
        instance = kong.start("plain", {})
        kong.event(instance, "access", pdk("later"))
        kong.calls.clear()
        kong.event(instance, "access", pdk("waits"))  # the first one's timers go off meanwhile
        assert kong.calls == [("kong.request.get_header", ["who"])]


@both
@ways
def test_anothers_kong_is_no_way_out(serve: Start, protocol: str, flags: tuple[str, ...]) -> None:
    server = serve(protocol, *flags, plain=PLUGIN)
    with server.kong() as kong, server.kong() as other:
        instance = kong.start("plain", {})
        assert answer(kong, instance, "share") == 200
        assert answer(other, instance, "use") == 500
        assert "the event is over" in server.log


@both
@ways
def test_whatever_ends_a_handler_its_request_does_not_pass(start: Start, protocol: str, flags: tuple[str, ...]) -> None:
    server = start(protocol, *flags, plain=PLUGIN)
    with server.kong() as kong:
        assert answer(kong, kong.start("plain", {}), "kill-me") == 500


@both
@ways
def test_calls_at_once_wait_for_each_other(serve: Start, protocol: str, flags: tuple[str, ...]) -> None:
    server = serve(protocol, *flags, plain=PLUGIN, environ={"GATEWRIGHT_HOLD_LIMIT": "5"})
    with server.kong() as kong:
        instance = kong.start("plain", {})
        if flags:  # in the loop a handler that waits for its own threads would wait for ever
            kong.event(instance, "access", pdk("parallel"))
            assert kong.calls[-1] == ("kong.response.set_header", ["x", "h0,h1,h2"])
        slow = {"kong.request.get_method": lambda: time.sleep(0.3) or "GET"}
        kong.calls.clear()
        kong.event(instance, "rewrite", slow)
        assert kong.calls[-1] == ("kong.response.set_header", ["x", "gone on"])


@both
def test_tables_that_handlers_change_are_their_own(serve: Start, protocol: str) -> None:
    server = serve(protocol, plain=PLUGIN)
    with server.kong() as kong:
        headers = {"kong.request.get_headers": lambda _: {"a": ["1"], "b": ["2"]}}
        kong.event(kong.start("plain", {}), "access", {**pdk("table"), **headers})
        assert kong.calls[-1] == ("kong.response.set_header", ["x", "a,b"])
        assert len([method for method, _ in kong.calls if method == "kong.request.get_headers"]) == 1


@both
@ways
def test_a_stop_lets_what_is_under_way_end(start: Start, protocol: str, flags: tuple[str, ...]) -> None:
    server = start(protocol, *flags, plain=PLUGIN, environ={"GATEWRIGHT_DRAIN": "10"})
    statuses = []
    with server.kong() as kong, server.kong() as other:
        instance = kong.start("plain", {})
        thread = threading.Thread(target=lambda: statuses.append(answer(kong, instance, "slow")))
        thread.start()
        time.sleep(0.2)

        def stop() -> str:
            server.process.terminate()
            time.sleep(0.2)
            return "GET"

        statuses.append(answer(other, instance, "ask", kong_DOT_request_DOT_get_method=stop))
        thread.join()
        assert statuses == [403, 403]
    assert server.process.wait(15) == 0
    assert "Traceback" not in server.log


def test_a_stop_that_cannot_wait_refuses(start: Start) -> None:
    server = start("msgpack", "-g", plain=PLUGIN, environ={"GATEWRIGHT_DRAIN": "0.1"})
    with server.kong() as kong:
        instance = kong.start("plain", {})
        threading.Timer(0.1, server.process.terminate).start()
        assert answer(kong, instance, "slow") == 500
    assert server.process.wait(10) == 1


@both
def test_crashes_in_a_row_let_nobody_pass(start: Start, protocol: str) -> None:
    server = start(protocol, plain=PLUGIN)
    with server.kong() as kong:
        instance = kong.start("plain", {})
    for _ in range(7):
        with server.kong() as kong:
            assert answer(kong, instance, "crash") == 500
    with server.kong() as kong:
        assert answer(kong, instance, "slow") == 403


@both
@pytest.mark.parametrize("size", [1_000, 1_000_000])
def test_a_request_in_many_pieces_is_refused_like_any_other(start: Start, protocol: str, size: int) -> None:
    server = start(protocol, plain=PLUGIN)
    with server.kong() as kong:
        instance = kong.start("plain", {})
        body = {"kong_DOT_request_DOT_get_raw_body": lambda: b"x" * size}
        assert answer(kong, instance, "body, crash", **body) == 500
    with server.kong() as kong:
        assert answer(kong, instance, "body", **body) == 403


def test_a_worker_that_dies_in_mid_request_leaves_nobody_waiting(start: Start) -> None:
    server = start("msgpack", plain=PLUGIN)
    with server.kong(1) as kong, server.kong(1) as other:
        instance = kong.start("plain", {})
        request = msgpack.packb([0, 77, "plugin.HandleEvent", [{"InstanceId": instance, "EventName": "access"}]])
        kong.pool[0].sendall(request[:-9])
        time.sleep(0.2)
        assert answer(other, instance, "crash") == 500
        kong.pool[0].settimeout(5)
        refusal = msgpack.unpackb(kong.pool[0].recv(4096))
        assert refusal[1] == 77
        assert refusal[3]["Data"]["Method"] == "kong.response.exit"


@both
@pytest.mark.alone
def test_an_answer_that_is_too_long_is_refused(start: Start, protocol: str) -> None:
    server = start(protocol, plain=PLUGIN)
    with server.kong() as kong:
        instance = kong.start("plain", {})
        body = b"x" * (65 << 20)
        assert answer(kong, instance, "body", kong_DOT_request_DOT_get_raw_body=lambda: body) == 500
    assert "broke the protocol" in server.log


@both
def test_connections_beyond_the_limit_are_refused(start: Start, protocol: str) -> None:
    server = start(protocol, plain=PLUGIN, environ={"GATEWRIGHT_MAX_CONNECTIONS": "3"})
    with server.kong() as kong:
        instance = kong.start("plain", {})
    time.sleep(0.3)
    kongs = [MsgPackKong(server.path, 1) if protocol == "msgpack" else server.kong() for _ in range(6)]
    held = [connect(server.path) for _ in range(3)]
    statuses = [answer(kong, instance, "ask") for kong in kongs]
    assert 500 in statuses
    assert "too many connections" in server.log
    for sock in held:
        sock.close()
    for kong in kongs:
        kong.close()
    time.sleep(0.3)
    with server.kong() as kong:
        assert answer(kong, instance, "ask") == 403


@both
def test_an_instance_that_is_gone_is_started_anew_though_the_worker_has_a_guard(serve: Start, protocol: str) -> None:
    server = serve(protocol, plain=PLUGIN)
    with server.kong() as kong, pytest.raises((Failed, Closed)):  # and no answer of 500, which Kong would believe
        kong.event(4711, "access", pdk("ask"))


# --- parts


def test_event_ids_stay_within_what_lua_holds_exactly() -> None:
    from gatewright.server.drivers.kong.instances import Instances

    instances = Instances.__new__(Instances)
    instances._pid, instances.events, instances._next_event = (1 << 24) - 1, {}, (1 << 28) - 3
    numbers = [instances.new_event_number() for _ in range(6)]
    assert len(set(numbers)) == 6
    assert all(number < 1 << 53 and number == int(float(number)) for number in numbers)


def test_the_guard() -> None:
    guard = Guard(2)
    one, two = guard.take_slot(), guard.take_slot()
    assert one is not None
    assert two is not None
    assert guard.take_slot() is None
    guard.mark(one, b"x" * 100, whole=False)
    assert guard.asked(one) == (b"x" * 31, False)
    guard.mark(one, b"x" * 100)
    assert guard.asked(one) == (b"x" * 31, True)
    assert guard.asked(two) == (b"", True)
    guard.sending(one)
    assert guard.asked(one) == (b"", False)
    guard.clear(one)
    assert guard.asked(one) == (b"", True)
    guard.free(one)
    assert guard.take_slot() == one


@pytest.mark.parametrize(
    ("method", "args"),
    [("kong.service.request.set_path", [5]), ("kong.service.request.set_raw_query", [True]),
     ("kong.response.exit", [200, 3]), ("kong.response.clear_header", [[104, 105]])],
)  # fmt: skip
def test_numbers_are_no_text(method: str, args: list[Any]) -> None:
    with pytest.raises(PluginError, match="text or bytes are expected"):
        METHODS[method].encode(args)


@pytest.mark.parametrize(
    ("what", "words"),
    [({"schema": 5}, "Schema is a list"), ({"schema": ({"a": "string"},)}, "a field of Schema is written"),
     ({"schema": ({"a": {"type": "string", "one_of": {1}}},)}, "wants JSON"), ({"priority": "high"}, "whole number")],
)  # fmt: skip
def test_odd_schemas_are_told(what: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        adapt("odd", type("Plugin", (), {}), **what)


def test_an_odd_module_keeps_no_other_from_being_served(start: Start, tmp_path: Path) -> None:
    server = start("msgpack", plain=PLUGIN, odd="Schema = None\nclass Plugin(object): pass\n")
    assert "Schema is a list of fields, not None" in server.log
    with server.kong() as kong:
        assert answer(kong, kong.start("plain", {}), "ask") == 403
    command = [sys.executable, "-m", "kong_pdk.cli", "-d", tmp_path / "plugins", "-p", tmp_path, "--dump-all-plugins"]
    dump = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Traceback" not in dump.stderr
    assert "odd.py" in dump.stderr


@pytest.mark.parametrize(
    "request_",
    [
        [0, 1, "plugin.HandleEvent", [{"InstanceId": "abc", "EventName": "access"}]],
        [0, 1, "plugin.HandleEvent", [{"InstanceId": (1 << 64) - 1, "EventName": "access"}]],
        [0, 1, "plugin.Step", [{"EventId": "abc"}]],
        [0, 1, "plugin.Step", [{"EventId": [1]}]],
        [0, 1, "plugin.CloseInstance", [{"a": 1}]],
        [0, 1, "plugin.InstanceStatus", ["abc"]],
        [0, "one", "plugin.GetStatus", []],
        [0, 1, ["plugin.GetStatus"], []],
        [0, 1, "plugin.StartInstance", [{"Name": 5, "Config": 7}]],
        [0, 1, "plugin.HandleEvent", []],
    ],
)
def test_ids_that_are_none_end_their_connection_only(serve: Start, request_: list[Any]) -> None:
    server = serve("msgpack", plain=PLUGIN)
    with server.kong() as kong, MsgPackKong(server.path, 1) as odd:
        instance = kong.start("plain", {})
        odd.pool[0].sendall(msgpack.packb(request_))
        odd.pool[0].settimeout(8)
        answered = odd.pool[0].recv(4096)
        if answered and request_[2] == "plugin.HandleEvent" and request_[3]:
            assert b"kong.response.exit" in answered, "or else the request would pass"
        assert answer(kong, instance, "ask") == 403
    assert "worker ended" not in server.log


def test_under_gevent_a_class_that_no_import_finds_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(
        "def make():\n    class Plugin: pass\n    return Plugin\n"
        "from kong_pdk.cli import start_dedicated_server\n"
        "start_dedicated_server('made', make(), '1', 1, ())\n"
    )
    command = [sys.executable, tmp_path / "made.py", "-g", "-p", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, "needs its class at the top of" in ended.stderr) == (2, True)


BIG = """
version, priority, Schema = "1.0.0", 1, ()
class Plugin:
    def __init__(self, config): pass
    def access(self, kong):
        kong.response.exit(200, "x" * (1 << 20))
"""


def memory_of_worker(server: Server) -> int:
    (worker,) = ask_json(f"{server.path}.control", "/status")[1]["workers"]
    return int(worker["memory"])


def test_answers_that_kong_does_not_take_are_not_made(start: Start) -> None:
    server = start("msgpack", big=BIG)
    with server.kong(1) as kong:
        instance = kong.start("big", {})
        before = memory_of_worker(server)
        asked = [{"InstanceId": instance, "EventName": "access"}]
        kong.pool[0].sendall(b"".join(msgpack.packb([0, n, "plugin.HandleEvent", asked]) for n in range(1000)))
        with server.kong(1) as other:
            assert other.start("big", {}) != instance, "others are served"
        assert memory_of_worker(server) - before < 64 << 20
        answered = 0
        unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=1 << 26)
        while answered < 1000:  # and none is lost
            unpacker.feed(kong.pool[0].recv(1 << 20))
            answered += sum(message[3]["Data"]["Method"] == "kong.response.exit" for message in unpacker)


def test_a_configuration_that_is_too_much_is_not_read_and_refuses_all(serve: Start) -> None:
    for protocol in ("msgpack", "protobuf"):
        server = serve(protocol, plain=PLUGIN)
        with server.kong() as kong:
            heavy = kong.start("plain", '{"a": [' + "[]," * 1_000_000 + "[]]}")
            with pytest.raises(Exited) as raised:
                kong.event(heavy, "access", {})
            assert raised.value.status == 500
        assert "its configuration is too large to be read" in server.log


def test_a_dedicated_server_says_what_is_wrong_with_its_plugin(tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text(
        "class Plugin(object):\n    pass\n"
        "from kong_pdk.cli import start_dedicated_server\n"
        "start_dedicated_server('odd', Plugin, '1', 'high', ())\n"
    )
    ended = subprocess.run([sys.executable, file, "--dump"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "kong_pdk: odd: " in ended.stderr
    assert "priority" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("cuts", [(24,), (24, -7), (1, 2, 3)])
def test_a_request_that_is_cut_anywhere_is_served(serve: Start, workers: str, cuts: tuple[int, ...]) -> None:
    server = serve("msgpack", plain=PLUGIN, environ={"GATEWRIGHT_WORKERS": workers})
    with server.kong(1) as kong:
        instance = kong.start("plain", {})
        request = msgpack.packb([0, 7, "plugin.HandleEvent", [{"InstanceId": instance, "EventName": "access"}]])
        for begin, end in zip((0, *cuts), (*cuts, len(request)), strict=True):
            kong.pool[0].sendall(request[begin:end])
            time.sleep(0.1)
        _, ticket, error, step = msgpack.unpackb(kong.pool[0].recv(4096))
        assert (ticket, error) == (7, None)
        assert step["Data"] == {"Method": "kong.request.get_header", "Args": ["who"]}


LONG = """
import asyncio, os
class Plugin(object):
    def __init__(self, config):
        pass
    async def access(self, kong):
        await kong.response.set_header("x", "y" * 3_000_000)
        await asyncio.sleep(0.3)
        os._exit(9)
"""


def test_a_worker_that_dies_after_a_long_call_leaves_nobody_without_an_answer(start: Start) -> None:
    server = start("msgpack", plain=LONG)
    with server.kong(1) as kong:
        instance = kong.start("plain", {})
        with pytest.raises(Exited) as exited:
            kong.event(instance, "access", {})
        assert exited.value.status == 500


WRAPPED = """
import asyncio, functools
shared = {}

def wrapped(handler):  # and so no `async def` any more
    @functools.wraps(handler, assigned=("__name__",), updated=())
    def run(self, kong):
        return handler(self, kong)
    return run

class Plugin(object):
    def __init__(self, config):
        pass
    @wrapped
    async def access(self, kong):
        kong.request.get_method()
    async def rewrite(self, kong):
        await asyncio.sleep(0)
        await kong.request.get_path()
        await kong.response.set_header("x", "well")
    async def certificate(self, kong):
        shared["kong"] = kong
        await asyncio.sleep(0.3)
    async def preread(self, kong):
        await shared["kong"].request.get_path()
"""


@both
def test_a_coroutine_that_does_not_await_harms_only_itself(serve: Start, protocol: str) -> None:
    server = serve(protocol, plain=WRAPPED)
    with server.kong() as kong, server.kong() as other:
        instance = kong.start("plain", {})
        for _ in range(3):
            with pytest.raises(Exited) as exited:
                kong.event(instance, "access", {"kong.request.get_method": lambda: "GET"})
            assert exited.value.status == 500
            other.event(instance, "rewrite", {"kong.request.get_path": lambda: "/"})
            assert other.calls.pop() == ("kong.response.set_header", ["x", "well"])
    assert "can't wait without `await`" in server.log


@both
def test_whoever_asks_through_an_event_that_ends_does_not_wait_for_ever(start: Start, protocol: str) -> None:
    server = start(protocol, plain=WRAPPED)
    with server.kong() as kong, server.kong() as other:
        instance = kong.start("plain", {})
        first = threading.Thread(target=kong.event, args=(instance, "certificate", {}))
        first.start()
        time.sleep(0.1)
        began = time.monotonic()
        try:
            # The question goes out on the first one's connection, whose end comes while it's at work.
            other.event(instance, "preread", {"kong.request.get_path": lambda: "/"})
        except Exited as exited:
            assert exited.status == 500
        assert time.monotonic() - began < 5
        first.join(10)
        assert not first.is_alive()


KEEPS = """
import gc
class Plugin(object):
    def __init__(self, config):
        pass
    def access(self, kong):
        self.kong = kong  # and what others do with it in the meantime is theirs
        self.kong.response.set_header("x", self.kong.request.get_header("x")[0])
    def log(self, kong):
        gc.collect()
        kong.log.info(sum(type(each) is Plugin for each in gc.get_objects()))
    def rewrite(self, kong):
        value, _ = kong.rpc.call("a", 1)
        kong.response.set_header("y", kong.my.place("b")[0] + kong.up("c")[0] + kong.my.way._call[0] + value)
"""


def test_text_that_is_not_utf8_is_passed_on(serve: Start) -> None:
    server = serve("msgpack", plain=KEEPS)
    with server.kong() as kong:
        kong.event(kong.start("plain", {}), "access", {"kong.request.get_header": lambda _: "caf\udce9"})
        assert kong.calls[-1] == ("kong.response.set_header", ["x", "caf\udce9"])


@both
def test_a_kong_that_a_plugin_keeps_goes_with_its_instance(serve: Start, protocol: str) -> None:
    server = serve(protocol, plain=KEEPS)
    with server.kong() as kong:
        for number in range(10):
            instance = kong.start("plain", {"number": number})
            kong.event(instance, "access", {"kong.request.get_header": lambda _: "v"})
            kong.stop(instance)
        kong.event(kong.start("plain", {}), "log", {})
        method, args = kong.calls[-1]
        assert method == "kong.log.info"
        assert int(args[0]) <= 3


def test_any_name_is_a_function_of_kongs(serve: Start) -> None:
    server = serve("msgpack", plain=KEEPS)
    answers = {name: lambda *args: "/".join(map(str, args)) for name in ("kong.rpc.call", "kong.my.place", "kong.up")}
    with server.kong() as kong, pytest.raises(Exited):  # but what begins with an underscore is not
        kong.event(kong.start("plain", {}), "rewrite", answers)
    assert [method for method, _ in kong.calls] == ["kong.rpc.call", "kong.my.place", "kong.up", "kong.response.exit"]


ASKS_ANOTHER = """
class Plugin(object):
    def __init__(self, config):
        self.kong = None
    def access(self, kong):
        who, _ = kong.request.get_header("x")
        if who == "a":
            self.kong.request.get_path()
        else:
            self.kong = kong
            path, _ = kong.request.get_path()
            kong.response.set_header("x", f"{who} {path}")
"""


def test_a_connection_that_is_lost_in_the_middle_touches_no_other(serve: Start) -> None:
    """A handler that waits for the answer to another event's question ends with its own connection."""
    server = serve("protobuf", plain=ASKS_ANOTHER)

    def begin(sequence: int) -> Any:
        sock = connect(server.path)
        call = kong.messages.RpcCall(sequence=sequence)
        call.cmd_handle_event.instance_id, call.cmd_handle_event.event_name = instance, "access"
        kong._send(sock, call.SerializeToString())
        return sock

    def answer_to(sock: Any, method: str, value: str) -> None:
        assert kong._receive(sock).decode() == method
        kong._receive(sock)
        kong._send(sock, kong.messages.wrap(kong.messages.methods[method][1], value).SerializeToString())

    def changed(sock: Any) -> list[Any]:
        method = kong._receive(sock).decode()
        assert method == "kong.response.set_header"
        return list(kong.messages.positional(kong.messages.methods[method][0].FromString(kong._receive(sock))))

    with server.kong() as kong:
        instance = kong.start("plain", {})
        b = begin(1)
        answer_to(b, "kong.request.get_header", "b")
        a = begin(2)
        time.sleep(0.1)
        answer_to(a, "kong.request.get_header", "a")  # and so it asks through B, which waits itself
        time.sleep(0.2)
        a.close()
        time.sleep(0.2)
        c = begin(3)  # is served where A was
        time.sleep(0.1)
        answer_to(b, "kong.request.get_path", "/b")
        assert changed(b) == ["x", "b /b"]
        answer_to(c, "kong.request.get_header", "c")
        answer_to(c, "kong.request.get_path", "/c")
        assert changed(c) == ["x", "c /c"]
        b.close()
        c.close()
    assert "Traceback" not in server.log


@pytest.mark.parametrize("cut", [3, 12, 40])
def test_a_worker_that_dies_after_a_request_in_parts_is_answered_for(start: Start, cut: int) -> None:
    server = start("msgpack", plain=PLUGIN)
    with server.kong(1) as kong:
        instance = kong.start("plain", {})
        kong.event(instance, "access", pdk("nobody"))
        request = msgpack.packb([0, 7, "plugin.HandleEvent", [{"InstanceId": instance, "EventName": "access"}]])
        kong.pool[0].sendall(request[:cut])
        time.sleep(0.2)
        kong.pool[0].sendall(request[cut:])
        step = msgpack.unpackb(kong.pool[0].recv(4096))[3]
        answer_ = msgpack.packb([0, 8, "plugin.Step", [{"EventId": step["EventId"], "Data": "crash"}]])
        kong.pool[0].sendall(answer_[:cut])
        time.sleep(0.2)
        kong.pool[0].sendall(answer_[cut:])
        kong.pool[0].settimeout(10)
        assert b"kong.response.exit" in kong.pool[0].recv(4096)
