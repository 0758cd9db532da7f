"""The plugin server over both protocols, with plugins in kong-pdk's form, in a real process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgpack
import pytest
import yaml

from benchmarks.run import children
from gatewright.gateways.kong.conf import read_conf
from gatewright.settings.processors import usable_processors
from tests.kong.conftest import Start, can_connect, wait_until
from tests.kong.peer import Closed, Exited, Failed, MsgPackKong, connect

HELLO = """
import time
print("printed by a plugin")
Schema = ({"message": {"type": "string", "required": True}},)
version = "1.2.3"
priority = 77

class Plugin(object):
    def __init__(self, config):
        self.config = config
        if config.get("message") == "broken":
            raise ValueError("a broken configuration")

    def access(self, kong):
        host, err = kong.request.get_header("host")
        assert err is None
        again, _ = kong.request.get_header("host")
        assert again == host
        if host == "exit":
            try:
                kong.response.exit(403, b"no\\xff", {"x-why": ["because"]})
            except Exception:
                kong.log.err("an exit is not an error")
            kong.log.err("never reached")
        if host == "boom":
            raise RuntimeError("as meant")
        if host == "slow":
            time.sleep(0.3)
        kong.response.set_header("x-hello", "%s %s" % (self.config["message"], host))

    async def rewrite(self, kong):
        method, err = await kong.request.get_method()
        await kong.log.info("rewrite", method, err, 1.5, True, None)

    def log(self, kong):
        raise RuntimeError("in the log phase")

    def response(self, kong):
        kong.log.notice(kong.service.response.get_raw_body())
"""

QUICK = """
import time
class Plugin(object):
    def __init__(self, config):
        pass
    def access(self, kong):
        kong.response.set_header("x", "1")
"""


both = pytest.mark.parametrize("protocol", ["msgpack", "protobuf"])


@both
def test_a_plugin_made_for_kong_pdk(serve: Start, protocol: str) -> None:
    server = serve(protocol, hello=HELLO)
    with server.kong() as kong:
        instance = kong.start("hello", {"message": "hi", "__seq__": 1})
        kong.event(instance, "access", {"kong.request.get_header": lambda name: f"{name}-value"})
        assert kong.calls == [
            ("kong.request.get_header", ["host"]),
            ("kong.response.set_header", ["x-hello", "hi host-value"]),
        ]
        kong.calls.clear()
        kong.event(instance, "rewrite", {"kong.request.get_method": lambda: "GET"})
        assert kong.calls == [
            ("kong.request.get_method", []),
            ("kong.log.info", ["rewrite", "GET", "None", "1.5", "True", "None"]),
        ]


@both
def test_exit_ends_the_handler_and_the_event(start: Start, protocol: str) -> None:
    server = start(protocol, hello=HELLO)
    with server.kong() as kong:
        instance = kong.start("hello", {"message": "hi"})
        for _ in range(5):
            with pytest.raises(Exited) as exited:
                kong.event(instance, "access", {"kong.request.get_header": lambda _: "exit"})
            assert exited.value.status == 403
            assert exited.value.body == b"no\xff"
            assert exited.value.headers == {"x-why": ["because"]}
        assert not any(method.startswith("kong.log") for method, _ in kong.calls)
        kong.event(instance, "access", {"kong.request.get_header": lambda _: "on"})
    assert server.process.poll() is None


@both
def test_an_exception_refuses_the_request_and_others_go_on(serve: Start, protocol: str) -> None:
    """The original deadlocks on an exception before the first PDK call, and lets requests pass after it."""
    server = serve(protocol, hello=HELLO)
    with server.kong() as kong:
        instance = kong.start("hello", {"message": "hi", "route_id": "r-1"})
        for _ in range(3):
            with pytest.raises(Exited) as exited:
                kong.event(instance, "access", {"kong.request.get_header": lambda _: "boom"})
            assert exited.value.status == 500
        kong.event(instance, "log", {})  # nothing can be refused there: the event just ends
        kong.event(instance, "access", {"kong.request.get_header": lambda _: "on"})
    assert "as meant" in server.log
    assert "in the log phase" in server.log
    assert "route=hello#r-1 " in server.log


@both
def test_unknown_plugins_and_broken_configurations_refuse_and_do_not_loop(serve: Start, protocol: str) -> None:
    server = serve(protocol, hello=HELLO)
    with server.kong() as kong:
        for name, config in (("hello", {"message": "broken"}), ("nobody", {})):
            instance = kong.start(name, config)
            for phase in ("access", "rewrite"):
                with pytest.raises(Exited) as exited:
                    kong.event(instance, phase, {})
                assert exited.value.status == 500
    assert "a broken configuration" in server.log
    assert "no plugin is called 'nobody'" in server.log


def test_lost_instances_are_said_so_that_kong_starts_them_anew(serve: Start) -> None:
    server = serve("msgpack", hello=HELLO)
    with server.kong() as kong:
        instance = kong.start("hello", {"message": "hi"})
        assert kong.stop(instance)["Id"] == instance
        with pytest.raises(Failed, match=f"no plugin instance #{instance}"):
            kong.event(instance, "access", {})
        with pytest.raises(Failed, match="no plugin instance #5"):
            kong.stop(5)
        with pytest.raises(Failed, match="is not JSON"):
            kong.start("hello", "{")
        lost = kong.rpc("plugin.Step", {"EventId": 12, "Data": 1})  # its request is refused, not let through
        assert (lost["Data"]["Method"], lost["Data"]["Args"][0]) == ("kong.response.exit", 500)
        with pytest.raises(Failed, match="no such method"):
            kong.rpc("plugin.SetPluginDir", "/tmp")


def test_lost_instances_close_the_connection_over_protobuf(serve: Start) -> None:
    server = serve("protobuf", hello=HELLO)
    with server.kong() as kong:
        instance = kong.start("hello", {"message": "hi"})
        assert kong.stop(instance).instance_status.instance_id == instance
        with pytest.raises(Closed):
            kong.event(instance, "access", {})
        again = kong.start("hello", {"message": "hi"})
        kong.event(again, "access", {"kong.request.get_header": lambda _: "on"})


@both
def test_ids_are_not_given_twice_nor_by_a_restarted_server(start: Start, protocol: str) -> None:
    seen: set[int] = set()
    for _ in range(2):
        server = start(protocol, hello=HELLO)
        with server.kong() as kong:
            new = [kong.start("hello", {"message": "hi"}) for _ in range(20)]
            for instance in new:
                kong.stop(instance)
            new += [kong.start("hello", {"message": "hi"}) for _ in range(20)]
        assert not seen & set(new)
        assert len(set(new)) == 40
        seen |= set(new)
        server.process.terminate()
        server.process.wait(10)


@both
def test_what_the_server_says_of_itself(start: Start, protocol: str) -> None:
    server = start(protocol, hello=HELLO)
    with server.kong() as kong:
        instance = kong.start("hello", {"message": "hi"})
        if protocol == "msgpack":
            assert kong.rpc("plugin.GetPluginInfo", "hello")["Phases"] == ["rewrite", "access", "response", "log"]
            status = kong.rpc("plugin.GetStatus")
            assert status["Plugins"]["hello"]["Instances"][0]["Id"] == instance
            assert kong.rpc("plugin.InstanceStatus", instance)["Name"] == "hello"
        else:
            assert list(kong.rpc("cmd_get_plugin_names", {}).plugin_names.names) == ["hello"]
            info = kong.rpc("cmd_get_plugin_info", {"name": "hello"}).plugin_info
            assert (info.name, info.version, info.priority) == ("hello", "1.2.3", 77)
            assert json.loads(info.schema)["name"] == "hello"
            status = kong.rpc("cmd_get_instance_status", {"instance_id": instance}).instance_status
            assert (status.name, status.instance_id) == ("hello", instance)


@pytest.mark.parametrize("protocol", [pytest.param("msgpack", marks=pytest.mark.long), "protobuf"])
@pytest.mark.alone
def test_a_slow_handler_holds_nobody_up(start: Start, protocol: str) -> None:
    server = start(protocol, hello=HELLO, quick=QUICK)
    with server.kong() as kong:  # the first slow call is seen, and its handler moved to threads
        instance = kong.start("hello", {"message": "hi"})
        kong.event(instance, "access", {"kong.request.get_header": lambda _: "slow"})
    kongs = [server.kong() for _ in range(6)]
    ids = [kong.start("hello", {"message": "hi"}) for kong in kongs]
    for kong, instance in zip(kongs, ids, strict=True):
        kong.event(instance, "access", {"kong.request.get_header": lambda _: "slow"})
    began = time.monotonic()
    threads = [
        threading.Thread(target=kong.event, args=(i, "access", {"kong.request.get_header": lambda _: "slow"}))
        for kong, i in zip(kongs, ids, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 1.5
    for kong in kongs:
        kong.close()


@both
def test_500_connections_need_no_more_threads(start: Start, protocol: str) -> None:
    server = start(protocol, quick=QUICK)
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    tasks = Path(f"/proc/{children[0]}/task")
    with server.kong() as kong:
        instance = kong.start("quick", {})
        before = len(list(tasks.iterdir()))
        socks = [connect(server.path) for _ in range(500)]
        kong.event(instance, "access", {})
        assert len(list(tasks.iterdir())) == before
        for sock in socks:
            sock.close()


@pytest.mark.parametrize("garbage", [b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n", b"\x94\x01\x01\xc0\xc0"])
@both
def test_garbage_ends_its_connection_only(serve: Start, protocol: str, garbage: bytes) -> None:
    server = serve(protocol, quick=QUICK)
    with server.kong() as kong:
        instance = kong.start("quick", {})
        with connect(server.path) as sock:
            sock.sendall(garbage)
            if protocol == "msgpack":
                assert sock.recv(100) == b""
        kong.event(instance, "access", {})


def test_no_lua_style_gives_values(serve: Start) -> None:
    source = QUICK + '        assert kong.request.get_header("host") == "h"\n'
    server = serve("msgpack", "--no-lua-style", quick=source)
    with server.kong() as kong:
        kong.event(kong.start("quick", {}), "access", {"kong.request.get_header": lambda _: "h"})


# --- dumps


def dump(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "kong_pdk.cli", *map(str, arguments)], capture_output=True, timeout=60, check=False
    )


HELLO_INFO = {
    "Name": "hello", "Phases": ["rewrite", "access", "response", "log"], "Priority": 77, "Version": "1.2.3",
    "Schema": {
        "name": "hello",
        "fields": [{"config": {"type": "record", "fields": [{"message": {"type": "string", "required": True}}]}}],
    },
}  # fmt: skip


def test_dumps_are_pure_whatever_plugins_print(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(HELLO + '\nimport os; os.write(1, b"raw")\n')
    (tmp_path / "broken.py").write_text("def x(:\n")
    run = dump("-d", tmp_path, "--dump-all-plugins")
    assert json.loads(run.stdout) == [HELLO_INFO]
    assert b"printed by a plugin" in run.stderr
    assert b"broken.py:1" in run.stderr
    run = dump("-d", tmp_path, "-dump-all-plugins", "--protocol", "protobuf")
    assert json.loads(run.stdout) == {"Protocol": "ProtoBuf:1", "Plugins": [HELLO_INFO]}
    assert msgpack.unpackb(dump("-d", tmp_path, "--dump-plugin-info", "hello").stdout) == HELLO_INFO
    assert b"there is no plugin 'other'" in dump("-d", tmp_path, "--dump-plugin-info", "other").stderr


def test_a_plugins_own_file_listens_where_kong_looks_for_it(tmp_path: Path) -> None:
    """And where it did before."""
    file = tmp_path / "own.py"
    file.write_text(
        QUICK + "\nif __name__ == '__main__':\n    from kong_pdk.cli import start_dedicated_server\n"
        "    start_dedicated_server('own', Plugin, '1.0', 5)\n"
    )
    with subprocess.Popen([sys.executable, file, "-p", tmp_path], stderr=subprocess.DEVNULL) as process:
        try:
            for name in ("own.socket", "own.sock"):
                wait_until(lambda name=name: can_connect(tmp_path / name))
                with MsgPackKong(tmp_path / name, 1) as kong:
                    kong.event(kong.start("own", {}), "access", {})
        finally:
            process.terminate()
        assert process.wait(10) == 0


def test_a_missing_prefix_is_named(tmp_path: Path) -> None:
    run = dump("-d", tmp_path, "-p", tmp_path / "none")
    assert run.returncode == 2
    assert f"the directory {tmp_path}/none doesn't exist".encode() in run.stderr


# --- several workers

WHERE = """
import os
class Plugin(object):
    def __init__(self, config):
        self.config = config
    def access(self, kong):
        for n in range(3):
            kong.response.set_header("x-pid", str(os.getpid()))
        if self.config.get("die"):
            os._exit(3)
"""


@both
def test_instances_started_on_one_worker_are_valid_on_all(start: Start, protocol: str) -> None:
    server = start(protocol, "-m", where=WHERE, environ={"GATEWRIGHT_WORKERS": "3"})
    kongs = [server.kong(connections=1) for _ in range(6)]
    instance = kongs[0].start("where", {})
    seen = set()
    for kong in kongs:
        kong.event(instance, "access", {})
        seen.update(args[1] for _, args in kong.calls)
    assert len(seen) == usable_processors()
    kongs[1].stop(instance)
    time.sleep(0.2)
    for kong in kongs:
        with pytest.raises((Failed, Closed)):
            kong.event(instance, "access", {})
        kong.close()


def test_steps_find_the_worker_that_runs_the_event(serve: Start) -> None:
    server = serve("msgpack", "-m", where=WHERE)
    with server.kong(connections=5) as kong:
        instance = kong.start("where", {})
        for _ in range(50):
            kong.calls.clear()
            kong.event(instance, "access", {})
            assert len({args[1] for _, args in kong.calls}) == 1, "an event stays in its worker"
            assert len(kong.calls) == 3


def test_the_events_of_a_dead_worker_are_refused_and_others_go_on(start: Start) -> None:
    server = start("msgpack", "-m", where=WHERE)
    with server.kong(connections=1) as one, server.kong(connections=1) as other:
        good, bad = one.start("where", {}), one.start("where", {"die": True})
        step = one.rpc("plugin.HandleEvent", {"InstanceId": bad, "EventName": "access"})
        other.event(good, "access", {})
        os.kill(int(step["Data"]["Args"][1]), signal.SIGKILL)
        time.sleep(0.3)
        step = other.rpc("plugin.Step", {"EventId": step["EventId"]})
        assert step["Data"]["Method"] == "kong.response.exit"
        assert step["Data"]["Args"][0] == 500
        other.event(good, "access", {})


# --- many plugins in one process


@pytest.mark.parametrize("workers", ["0", "2"])
def test_each_plugin_of_a_directory_has_its_own_dump_and_socket_and_one_process_serves_them(
    start: Start, tmp_path: Path, workers: str
) -> None:
    sources = {"hello": HELLO, "quick-one": QUICK}
    server = start("msgpack", "--socket-per-plugin", environ={"GATEWRIGHT_WORKERS": workers}, **sources)
    command = [sys.executable, "-m", "gatewright", "kong"]
    text = subprocess.check_output([*command, "conf", "-d", tmp_path / "plugins", "-p", tmp_path], text=True)
    hello, quick = read_conf(text)
    assert hello.start_command.endswith(f"kong-pluginserver -d {tmp_path}/plugins -p {tmp_path} --socket-per-plugin")
    assert not quick.start_command
    for known in (hello, quick):
        (info,) = json.loads(subprocess.check_output(known.query_command, shell=True, stderr=subprocess.DEVNULL))
        assert info["Name"] == known.name
        with MsgPackKong(Path(known.socket)) as kong:
            pdk = {"kong.request.get_method": lambda: "GET"}
            kong.event(kong.start(known.name, {"message": "x"}), info["Phases"][0], pdk)
    server.process.terminate()
    assert server.process.wait(10) == 0
    assert not list(tmp_path.glob("*.sock*"))


def test_a_plugin_that_comes_with_a_reload_gets_a_socket_and_one_that_cannot_have_its_own_says_so(
    start: Start, tmp_path: Path
) -> None:
    server = start("msgpack", "--socket-per-plugin", quick=QUICK)
    (tmp_path / "plugins" / "later.py").write_text(QUICK)
    (tmp_path / "plugins" / "taken.py").write_text(QUICK)
    (tmp_path / "taken.socket").write_text("not a socket")
    server.process.send_signal(signal.SIGHUP)
    for name in ("quick", "later"):
        wait_until(lambda name=name: can_connect(tmp_path / f"{name}.socket"))
        with MsgPackKong(tmp_path / f"{name}.socket") as kong:
            kong.event(kong.start(name, {}), "access", {})
    wait_until(lambda: "taken.socket exists and is not a socket" in server.log)


def test_a_declarative_example_and_errors(tmp_path: Path) -> None:
    (tmp_path / "quick.py").write_text(QUICK)
    command = [sys.executable, "-m", "gatewright", "kong"]
    example = yaml.safe_load(subprocess.check_output([*command, "conf", "-d", tmp_path, "--declarative"]))
    assert example["plugins"] == [{"name": "quick", "config": {}}]
    missing = subprocess.run([*command, "dump", "-d", tmp_path, "nope"], capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert missing.stdout == ""
    assert "there is no plugin 'nope'" in missing.stderr


def test_the_original_beside_us_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "kong_pdk-0.36.dist-info").mkdir()
    (tmp_path / "kong_pdk-0.36.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: kong-pdk\nVersion: 0.36\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "kong_pdk.cli", "-d", tmp_path, "-p", tmp_path],
        capture_output=True, text=True, timeout=60, check=False, env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert run.returncode == 2
    assert "pip uninstall kong-pdk" in run.stderr


@both
def test_a_reload_brings_new_code_over_the_same_connections(start: Start, protocol: str, tmp_path: Path) -> None:
    server = start(protocol, quick=QUICK)
    with server.kong() as kong:
        instance = kong.start("quick", {})
        kong.event(instance, "access", {})
        assert kong.calls[-1][1] == ["x", "1"]
        (tmp_path / "plugins" / "quick.py").write_text(QUICK.replace('"1"', '"2"'))
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 15
        while kong.calls[-1][1] != ["x", "2"]:
            assert time.monotonic() < deadline
            kong.event(instance, "access", {})
        for _ in range(50):
            kong.event(instance, "access", {})
            assert kong.calls[-1][1] == ["x", "2"]
    deadline = time.monotonic() + 10
    while "worker ended" not in server.log:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- workers that die


DEADLY = """
import os, time
class Plugin(object):
    def __init__(self, config): pass
    def access(self, kong):
        how, _ = kong.request.get_header("x-how")
        if how == "die": os._exit(9)
        if how == "segfault":
            import ctypes; ctypes.string_at(0)
        if how == "later":
            kong.request.get_method()
        if how == "wait":
            time.sleep(0.3)
    def rewrite(self, kong):
        os._exit(9)
    def log(self, kong):
        os._exit(9)
"""


@both
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_worker_that_dies_in_mid_event_has_its_request_refused(start: Start, protocol: str, workers: str) -> None:
    server = start(protocol, deadly=DEADLY, quick=QUICK, environ={"GATEWRIGHT_WORKERS": workers})
    with server.kong() as kong, server.kong() as other:
        instance, quick = kong.start("deadly", {}), other.start("quick", {})
        for how in ("die", "segfault"):
            with pytest.raises(Exited) as exited:
                kong.event(instance, "access", {"kong.request.get_header": lambda _, how=how: how})
            assert exited.value.status == 500
            kong.close()
            kong = server.kong()
            with contextlib.closing(server.kong()) as fresh:  # others go on, with the same instance
                fresh.event(quick, "access", {})
                fresh.event(instance, "access", {"kong.request.get_header": lambda _: "fine"})
        with pytest.raises(Exited):  # before any PDK call
            kong.event(instance, "rewrite", {})
        kong.close()


@both
def test_a_worker_killed_while_kong_is_at_work_has_its_request_refused(start: Start, protocol: str) -> None:
    server = start(protocol, deadly=DEADLY, environ={"GATEWRIGHT_WORKERS": "1"})
    with server.kong(1) if protocol == "msgpack" else server.kong() as kong:
        instance = kong.start("deadly", {})
        (pid,) = children(server.process.pid)

        def kill() -> str:
            time.sleep(0.05)  # until the worker has noted that Kong is at work
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: "worker ended unexpectedly" in server.log)
            return "GET"

        pdk = {"kong.request.get_header": lambda _: "later", "kong.request.get_method": kill}
        with pytest.raises(Exited) as exited:
            kong.event(instance, "access", pdk)
        assert exited.value.status == 500


@both
def test_idle_connections_of_a_dead_worker_are_served_by_another(start: Start, protocol: str) -> None:
    server = start(protocol, quick=QUICK, environ={"GATEWRIGHT_WORKERS": "1"})
    with server.kong() as kong:
        instance = kong.start("quick", {})
        for _ in range(3):
            (pid,) = children(server.process.pid)
            time.sleep(0.05)  # until the worker has noted that all is answered
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: children(server.process.pid) not in ([], [pid]))
            kong.event(instance, "access", {})


@pytest.mark.long
def test_a_letter_to_a_dead_worker_is_answered(start: Start) -> None:
    server = start("msgpack", deadly=DEADLY, environ={"GATEWRIGHT_WORKERS": "2"})
    with server.kong(1) as one, server.kong(1) as other:
        instance = one.start("deadly", {})
        step = one.rpc("plugin.HandleEvent", {"InstanceId": instance, "EventName": "access"})
        began = time.monotonic()
        answer = other.rpc("plugin.Step", {"EventId": step["EventId"], "Data": "die"})  # over the other worker's
        assert answer["Data"]["Method"] == "kong.response.exit"
        assert answer["Data"]["Args"][0] == 500
        assert time.monotonic() - began < 10
