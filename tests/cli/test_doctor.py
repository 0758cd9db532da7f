"""`gatewright doctor` finds each usual cause of a 503, and says the cure."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatewright.doctor.sockets import may_connect, worker_users
from tests import launching
from tests.conftest import MEASURING, StartRunner
from tests.peer import Refused

WriteFiles = Callable[..., Path]

PLUGIN = "from gatewright import Plugin\nclass Good(Plugin):\n    def on_request(self, request): pass\n"


class Diagnosis:
    def __init__(self, run: subprocess.CompletedProcess[str]) -> None:
        assert run.stdout, run.stderr
        self.findings: list[dict[str, Any]] = json.loads(run.stdout)
        self.code = run.returncode

    def of(self, level: str) -> str:
        return "\n".join(f"{f['text']} -> {f['cure']}" for f in self.findings if f["level"] == level)


def doctor(*arguments: object, cwd: Path | None = None) -> Diagnosis:
    return Diagnosis(run("doctor", "--json", *arguments, cwd=cwd))


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gatewright", *map(str, arguments)]
    return launching.run(command, cwd=cwd, env={"PATH": os.environ["PATH"], **MEASURING})


@pytest.fixture
def plugins(plugin_dir: WriteFiles) -> Path:
    return plugin_dir(good=PLUGIN)


KONG_PLUGIN = "class Plugin(object):\n    def __init__(self, config): pass\n    def access(self, kong): pass\n"


def two_plugins(directory: Path) -> Path:
    (directory / "plugins").mkdir()
    for name in ("one", "two"):
        (directory / "plugins" / f"{name}.py").write_text(KONG_PLUGIN)
    return directory / "plugins"


@pytest.mark.long
def test_what_older_and_newer_kongs_never_call(tmp_path: Path) -> None:
    plugins = two_plugins(tmp_path)
    (tmp_path / "kong.conf").write_text(run("kong", "conf", "-d", plugins, "-p", tmp_path).stdout)
    levels = {"3.4.2": "problem", "3.1": "problem", "3.0": "note", "3.9.1": "note", "": "warning"}
    for version, level in levels.items():
        found = doctor("--kong-conf", tmp_path / "kong.conf", *(["--gateway-version", version] if version else []))
        assert "two: Kong" in found.of(level)
        assert ("never calls a plugin server" in found.of("problem")) == (level == "problem")
        assert found.of(level).count("one: Kong") == 0, "it is started by Kong"
    older = run("kong", "conf", "-d", plugins, "-p", tmp_path, "--kong-version", "3.4").stdout
    (tmp_path / "older.conf").write_text(older)
    assert [line.partition(" ")[0] for line in older.splitlines()] == [
        "plugins", "pluginserver_names", "pluginserver_gatewright_socket", "pluginserver_gatewright_start_cmd",
        "pluginserver_gatewright_query_cmd",
    ]  # fmt: skip
    found = doctor("--kong-conf", tmp_path / "older.conf", "--gateway-version", "3.4")
    assert "gatewright: one 0.1.0, access" in found.of("good")
    assert "gatewright: two 0.1.0, access" in found.of("good")
    assert "takes one alone" not in found.of("problem")
    found = doctor("--kong-conf", tmp_path / "older.conf", "--gateway-version", "3.9")
    assert "from 3.9 on Kong takes one alone of its 2 plugins" in found.of("problem")
    assert "not a version of Kong" in run("kong", "conf", "-d", plugins, "--kong-version", "new").stderr


def test_a_kong_yml_to_start_from_does_not_ask_kong_itself(tmp_path: Path) -> None:
    plugins = two_plugins(tmp_path)
    printed = run("kong", "conf", "-d", plugins, "--declarative").stdout
    assert not any(f":{port}" in printed for port in (*range(8000, 8008), *range(8443, 8448)))
    assert '"http://u:1"' in run("kong", "conf", "-d", plugins, "--declarative", "--upstream", "http://u:1").stdout


@pytest.mark.parametrize("protocol", ["msgpack", pytest.param("protobuf", marks=pytest.mark.long)])
def test_plugin_servers_of_a_kong_conf(tmp_path: Path, protocol: str) -> None:
    (tmp_path / "plugins").mkdir()
    source = "class Plugin(object):\n    def __init__(self, config): pass\n    def access(self, kong): pass\n"
    (tmp_path / "plugins" / "one.py").write_text(source)
    (tmp_path / "plugins" / "two.py").write_text("print('noise')\n" + source)
    conf = run("kong", "conf", "-d", tmp_path / "plugins", "-p", tmp_path, "--protocol", protocol).stdout
    (tmp_path / "kong.conf").write_text(conf)
    found = doctor("--kong-conf", tmp_path / "kong.conf")
    assert "one.socket is not there" in found.of("problem")
    assert "kong restart; Kong's error log" in found.of("problem")
    assert "ext-plugin" not in found.of("problem"), "that is APISIX's"
    assert "two: Kong starts it along with one; Kong 3.1 to 3.4 would never call it" in found.of("warning")
    found = doctor("--kong-conf", tmp_path / "kong.conf", "--gateway-version", "3.9")
    assert "two: Kong starts it along with one" in found.of("note")
    external = "".join(line for line in conf.splitlines(keepends=True) if "start_cmd" not in line)
    (tmp_path / "external.conf").write_text(external)
    found = doctor("--kong-conf", tmp_path / "external.conf")
    assert "or let Kong: pluginserver_one_start_cmd" in found.of("problem")
    assert "two: Kong does not start it; somebody else has to, and" in found.of("warning")
    assert ("speaks MessagePack" in found.of("warning")) == (protocol == "msgpack")
    found = doctor("--kong-conf", tmp_path / "external.conf", "--gateway-version", "3.7")
    assert ("Kong 3.7 lets requests pass while" in found.of("warning")) == (protocol == "protobuf")
    command = [sys.executable, "-m", "kong_pdk.cli", "-d", tmp_path / "plugins", "-p", tmp_path]
    server = subprocess.Popen(
        [*command, "--socket-per-plugin", "--protocol", protocol, "-v"], stderr=subprocess.PIPE, env=MEASURING
    )
    try:
        assert server.stderr is not None
        while b"listening" not in server.stderr.readline():
            assert server.poll() is None
        found = doctor("--kong-conf", tmp_path / "kong.conf", "--gateway-user", "root")
        assert found.of("problem") == ""
        assert found.code == 0
        for words in ("one: one 0.1.0, access", "two.socket: a runner answers", "the runner is ready"):
            assert words in found.of("good")
        assert ("speaks MessagePack" in found.of("note")) == (protocol == "msgpack")
        other = {"msgpack": "protobuf", "protobuf": "msgpack"}[protocol]  # the dump says one, the server speaks another
        wrong = run("kong", "conf", "-d", tmp_path / "plugins", "-p", tmp_path, "--protocol", other).stdout
        (tmp_path / "wrong.conf").write_text(wrong.replace("plugins = bundled,one,two", "plugins = bundled,one"))
        found = doctor("--kong-conf", tmp_path / "wrong.conf", "--gateway-user", "root")
        assert "what listens there is no plugin runner" in found.of("problem")
        assert "the plugin two is not enabled" in found.of("problem")
    finally:
        server.terminate()
        server.communicate(timeout=10)


def test_plugin_servers_of_a_kong_conf_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "bad.conf").write_text(
        "pluginserver_names = a,b\npluginserver_a_query_cmd = echo hello\npluginserver_a_start_cmd = /not/there -x\n"
        "pluginserver_b_query_cmd = /not/there --dump\n"
    )
    found = doctor("--kong-conf", tmp_path / "bad.conf")
    assert "printed 'hello" in found.of("problem")
    assert "program is not there: /not/there" in found.of("problem")
    assert "b: failed decoding plugin info" in found.of("problem")
    assert "No such file" in doctor("--kong-conf", tmp_path / "none.conf").of("problem")


def test_a_healthy_runner(start_runner: StartRunner, plugins: Path) -> None:
    runner = start_runner("-p", plugins, "--workers", "2")
    runner.wait_for_log("listening")
    found = doctor("-p", plugins, "--listen", f"unix:{runner.socket}", "--gateway-user", "root")
    assert found.of("problem") == ""
    assert found.code == 0
    good = found.of("good")
    assert f"{runner.socket}: a runner answers" in good
    assert "plugin good (on_request)" in good
    assert "the runner is ready: 2 workers" in good
    assert "the gateway's user root may connect" in good


def test_a_missing_socket_and_one_nearby(start_runner: StartRunner, plugins: Path) -> None:
    runner = start_runner("-p", plugins)
    found = doctor("-p", plugins, "--listen", f"unix:{runner.socket}x")
    assert f"{runner.socket}x is not there" in found.of("problem")
    assert f"there is {runner.socket}: is the path misspelt?" in found.of("problem")
    assert found.code == 1


def test_a_stale_socket(plugins: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "stale.sock"))
    found = doctor("-p", plugins, "--listen", f"unix:{tmp_path}/stale.sock")
    assert "is stale: nobody listens" in found.of("problem")


def test_a_file_that_is_no_socket(plugins: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is not a socket" in doctor("-p", plugins, "--listen", f"unix:{tmp_path}/file").of("problem")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_foreign_socket(plugins: Path, tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "foreign.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()

        def serve() -> None:
            connection, _ = sock.accept()
            connection.recv(1000)
            connection.sendall(answer)
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        found = doctor("-p", plugins, "--listen", f"unix:{path}")
        thread.join()
    assert "what listens there is no plugin runner" in found.of("problem")


def test_a_runner_whose_workers_do_not_serve(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    runner = start_runner("-p", plugin_dir(slow="import time\ntime.sleep(30)\n"))
    found = doctor("-p", "json", "--listen", f"unix:{runner.socket}")
    assert "somebody listens but doesn't answer within 3 s" in found.of("problem")
    assert "the runner is not ready" in found.of("problem")
    os.kill(runner.process.pid, signal.SIGKILL)


def test_rights(start_runner: StartRunner, plugins: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can look at another user's rights here")
    runner = start_runner("-p", plugins)
    arguments = ("-p", plugins, "--listen", f"unix:{runner.socket}", "--gateway-user")
    nobody = pwd.getpwnam("nobody")
    closed = may_connect(runner.socket, nobody)
    assert closed is not None
    assert str(closed) in doctor(*arguments, "nobody").of("problem")
    assert "there is no user 'nosuchuser'" in doctor(*arguments, "nosuchuser").of("problem")
    place = Path("/tmp") / f"gatewright-doctor-{os.getpid()}"
    place.mkdir(mode=0o755)
    try:
        path = place / "r.sock"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
            path.chmod(0o660)
            assert may_connect(path, nobody) == path
            path.chmod(0o666)
            assert may_connect(path, nobody) is None
            os.chown(path, nobody.pw_uid, 0)
            path.chmod(0o400)
            assert may_connect(path, nobody) == path
            os.chown(path, 0, nobody.pw_gid)
            path.chmod(0o660)
            assert may_connect(path, nobody) is None
            place.chmod(0o700)
            assert may_connect(path, nobody) == place
    finally:
        for entry in place.iterdir():
            entry.unlink()
        place.rmdir()


def test_users_of_running_gateways(tmp_path: Path) -> None:
    for pid, title in (("10", b"nginx: worker process\0"), ("11", b"bash\0"), ("x", b"")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(title)
        (tmp_path / pid / "status").write_text(f"Name:\tx\nPPid:\t1\nUid:\t0\t{os.getuid()}\t0\t0\n")
    assert worker_users(tmp_path) == {pwd.getpwuid(os.getuid()).pw_name}


def test_plugins_that_do_not_load_or_do_not_exist(plugin_dir: WriteFiles, tmp_path: Path) -> None:
    found = doctor("-p", plugin_dir(broken="def x(:\n"), "--listen", f"unix:{tmp_path}/r.sock")
    assert "broken.py:1: SyntaxError" in found.of("problem")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no plugins were found" in doctor("-p", empty, "--listen", f"unix:{tmp_path}/r.sock").of("problem")
    assert "those that come along" in doctor("--listen", f"unix:{tmp_path}/r.sock").of("note")


def test_failures_of_a_running_runner(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    plugins = plugin_dir(good=PLUGIN, broken="import nothing_of_this_name\n")
    runner = start_runner("-p", plugins)
    with runner.peer() as peer:
        token = peer.prepare(("gone", "{}"), key="route#7")
        with pytest.raises(Refused):
            peer.request(token)
    os.kill(runner.workers()[0]["pid"], signal.SIGKILL)
    runner.wait_for(lambda: runner.status()["ready"])
    with runner.peer() as peer, pytest.raises(Refused):
        peer.request(token)
    found = doctor("-p", plugins, "--listen", f"unix:{runner.socket}")
    assert "nothing_of_this_name" in found.of("problem")
    assert "route#7: plugin gone is broken: no plugin is called 'gone'" in found.of("problem")
    assert "killed by SIGKILL" in found.of("warning")
    assert "lately: plugin not found" in found.of("warning")


@pytest.mark.parametrize(
    ("config", "level", "words"),
    [
        ("apisix: {}", "problem", "has no ext-plugin section"),
        ("ext_plugin: {cmd: [ls]}", "problem", "is called ext-plugin, not ext_plugin"),
        ("ext-plugin: {path_for_test: /other.sock}", "problem", "APISIX dials /other.sock"),
        ("ext-plugin: {path_for_test: 'unix:SOCKET'}", "problem", "without unix:"),
        ("ext-plugin: {path_for_test: SOCKET}", "good", "APISIX dials SOCKET, where the runner listens"),
        ("ext-plugin: {cmd: [/no/such/program]}", "problem", "there is no program '/no/such/program'"),
        ("ext-plugin: {cmd: gatewright run}", "problem", "cmd is a list of words"),
        ("ext-plugin: {cmd: [/bin/sh, /no/such.py]}", "problem", "there is no file /no/such.py"),
        ("ext-plugin: {cmd: [/bin/sh]}", "good", "APISIX starts /bin/sh"),
        ("ext-plugin: {cmd: [sh]}", "good", "APISIX starts /"),
        ("ext-plugin: {cmd: [sh, --listen, x]}", "warning", "leave --listen out"),
        ("ext-plugin: {cmd: [sh], path_for_test: /x}", "warning", "both ext-plugin.cmd and path_for_test"),
        ("ext-plugin: {cmd: [/bin/sh]}\nplugins: [cors]", "problem", "lacks ext-plugin-pre-req"),
        ("a: [", "problem", "is not valid YAML"),
        ("- a", "problem", "holds no settings"),
    ],
)
def test_gateway_settings(plugins: Path, tmp_path: Path, config: str, level: str, words: str) -> None:
    path = f"{tmp_path}/r.sock"
    (tmp_path / "config.yaml").write_text(config.replace("SOCKET", path))
    found = doctor("-p", plugins, "--listen", f"unix:{path}", "--apisix-config", tmp_path / "config.yaml")
    assert words.replace("SOCKET", path) in found.of(level)


def test_a_missing_gateway_file_is_a_problem(plugins: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    found = doctor("-p", plugins, "--apisix-config", missing, "--routes", missing)
    assert found.of("problem").count(str(missing)) >= 2


def test_routes_that_name_what_is_not_there(plugins: Path, tmp_path: Path) -> None:
    file = tmp_path / "apisix.yaml"
    file.write_text(
        "routes:\n- id: 7\n  plugins:\n"
        "    ext-plugin-pre-req: {conf: [{name: good, value: '{}'}, {name: godo, value: ''}]}\n"
        "global_rules:\n- id: 1\n  plugins:\n    ext-plugin-post-resp: {conf: [{name: other, value: ''}]}\n#END\n"
    )
    found = doctor("-p", plugins, "--routes", file)
    assert "route 7: ext-plugin-pre-req names plugin 'godo', which was not found; found: good" in found.of("problem")
    assert "names plugin 'other'" in found.of("problem")
    assert "plugin good is there" in found.of("good")


@pytest.mark.parametrize(
    ("version", "level", "words"),
    [
        ("2.6.0", "problem", "has no plugin runners"),
        ("2.15.3", "warning", "on_response is never called"),
        ("3.9.1", "good", "runs plugins in both phases"),
        ("new", "note", "is no version"),
    ],
)
def test_gateway_versions(plugins: Path, version: str, level: str, words: str) -> None:
    assert words in doctor("-p", plugins, "--gateway-version", version).of(level)


def test_timeouts_longer_than_the_gateways(plugins: Path, tmp_path: Path) -> None:
    (tmp_path / "gatewright.yaml").write_text("timeout: 90\nplugin_settings: {slow: {timeout: 61}}\nconf_expire: 60\n")
    found = doctor("-p", plugins, cwd=tmp_path)
    assert "timeout is 90 s, but APISIX waits for 60 s only" in found.of("warning")
    assert "timeout of slow is 61 s" in found.of("warning")
    assert "conf_expire is 60 s" in found.of("warning")


def test_invalid_settings(tmp_path: Path) -> None:
    (tmp_path / "gatewright.yaml").write_text("workers: some\n")
    assert "the settings are invalid: gatewright.yaml:1: workers is auto or a number" in doctor(cwd=tmp_path).of(
        "problem"
    )


def test_as_text(plugins: Path, tmp_path: Path) -> None:
    shown = run("doctor", "-p", plugins, "--listen", f"unix:{tmp_path}/none.sock")
    assert shown.returncode == 1
    assert "ok      plugin good" in shown.stdout
    assert "PROBLEM " in shown.stdout
    assert "        -> start the runner" in shown.stdout
    assert "1 problem found" in shown.stdout
