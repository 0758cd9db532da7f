"""What commands say when something small is wrong."""

from __future__ import annotations

import errno
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from gatewright.cli import main
from gatewright.dev.front import listening
from gatewright.dev.kong.declarative import parse_declarative
from gatewright.dev.kong.plugins import Plugins, known_plugins
from gatewright.errors import ConfigError, ListenError
from gatewright.gateways.kong.dump import dump
from gatewright.runtime.kong_modules import load_directory
from gatewright.server.host.listener import Listener
from gatewright.settings import Address, load_settings
from tests.conftest import StartRunner

PLUGIN = "from gatewright import Plugin\nclass Greet(Plugin):\n    def on_request(self, request): pass\n"


def gatewright(*arguments: object, **environ: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(map(str, arguments)), env=environ)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.output


class TestPorts:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["dev", "--port", "99999"], "99999 is not in the range"),
            (["dev", "--conf", "greet"], "--conf is NAME=JSON"),
            (["dev", "--conf", "greet={"], "--conf greet: not valid JSON"),
            (["dev", "--connect", "unix:/x.sock", "--gateway", "kong"], "--connect is for APISIX"),
            (["dev", "--gateway", "kong", "--apisix", "3.18"], "--apisix is for APISIX, and this is to be Kong"),
            (["dev", "--protocol", "protobuf"], "--protocol protobuf is for Kong: --gateway kong"),
            (["dev", "--connect", "unix:/x.sock", "--debug"], "--connect and --debug don't go together"),
            (["dev", "--routes", "x.yaml", "--conf", "a={}"], "--routes and --conf don't go together"),
            (["dev", "--connect", "unix:/x.sock", "--watch", "."], "--connect and --watch don't go together"),
            (["dev", "/nonexistent"], "/nonexistent does not exist"),
            (["dev", "--watch", "/nonexistent"], "--watch /nonexistent: there is no such file"),
            (["run", "--metrics", "127.0.0.1:99999"], "metrics is unix:/path or tcp://host:port, with a port"),
            (["run", "--listen", "127.0.0.1:99999"], "listen is unix:/path or tcp://host:port, with a port"),
        ],
    )  # fmt: skip
    def test_out_of_range_are_named(self, arguments: list[str], words: str) -> None:
        code, output = gatewright(*arguments)
        assert code == 2
        assert words in output

    def test_busy_ones_are_told_with_their_own_flag(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = Address(host="127.0.0.1", port=taken.getsockname()[1])
            with pytest.raises(ListenError, match="in use; choose another address with --metrics"):
                Listener.bind(address, flag="--metrics")

    @pytest.mark.parametrize(
        ("error", "cure"),
        [
            (socket.gaierror(-2, "Name or service not known"), "Name or service not known; choose another host with"),
            (OSError(errno.EADDRNOTAVAIL, ""), "choose another one with --host"),
            (OSError(errno.EADDRINUSE, ""), "choose another one with --port"),
        ],
    )
    def test_what_is_wrong_with_the_host_is_no_fault_of_the_port(self, error: OSError, cure: str) -> None:
        with pytest.raises(ListenError, match=cure), listening("nowhere:9080", "--port"):
            raise error


def test_a_runner_without_workers_can_be_asked(start_runner: StartRunner, plugin_dir: Callable[..., Path]) -> None:
    runner = start_runner("--workers", "0", "-p", plugin_dir(greet=PLUGIN))
    runner.wait_for_log("listening")
    with runner.peer() as peer:
        peer.request(peer.prepare(("greet", "{}")))
        status = runner.status()
        assert (status["ready"], status["workers"][0]["calls"], status["configurations"]) == (True, 1, 1)
        assert [plugin["name"] for plugin in status["plugins"]] == ["greet"]
        code, output = gatewright("status", "--listen", f"unix:{runner.socket}")
        assert code == 0, output
        code, output = gatewright("reload", "--listen", f"unix:{runner.socket}")
        assert code == 1
        assert "no reload without a supervisor" in output
        # and whoever only looks leaves nothing behind
        gatewright("doctor", "--listen", f"unix:{runner.socket}")
        assert runner.status()["configurations"] == 1


class TestSettings:
    def test_a_misspelt_variable_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match="GATEWRIGHT_TIMEUT: no such setting; did you mean GATEWRIGHT_TIMEOUT"):
            load_settings(flags={}, environ={"GATEWRIGHT_TIMEUT": "3"})

    def test_others_are_told_of(self, tmp_path: Path) -> None:
        environ = {"GATEWRIGHT_SERVICE_HOST": "10.0.0.1", "OTHER": "x", "GATEWRIGHT_TIMEOUT": "3"}
        assert load_settings(flags={}, environ=environ).ignored == ("GATEWRIGHT_SERVICE_HOST",)
        _, output = gatewright("doctor", "--listen", f"unix:{tmp_path}/x", GATEWRIGHT_SERVICE_HOST="10.0.0.1")
        assert re.search("ignored: .*GATEWRIGHT_SERVICE_HOST", output)

    def test_settings_of_a_plugin_that_is_not_there_are_told(
        self, start_runner: StartRunner, plugin_dir: Callable[..., Path], tmp_path: Path
    ) -> None:
        file = tmp_path / "settings.yaml"
        file.write_text("plugin_settings:\n  gret: {timeout: 1}\n")
        runner = start_runner("-c", file, "-p", plugin_dir(greet=PLUGIN))
        runner.wait_for_log("plugin_settings names a plugin that was not found")
        assert "did you mean greet?" in runner.log
        _, output = gatewright("doctor", "-c", file, "-p", tmp_path / "plugins")
        assert "plugin_settings names 'gret', which was not found" in output
        assert "did you mean greet?" in output


class TestDoctor:
    @pytest.mark.parametrize("words", [["python3", "{}/apisix/main.py", "start"], ["{}/apisix/main.py", "start"]])
    def test_knows_how_older_runners_are_started(self, tmp_path: Path, words: list[str]) -> None:
        plugins = tmp_path / "apisix" / "plugins"
        plugins.mkdir(parents=True)
        (plugins / "greet.py").write_text(PLUGIN)
        (tmp_path / "apisix" / "main.py").write_text("")
        file = tmp_path / "config.yaml"
        file.write_text(json.dumps({"ext-plugin": {"cmd": [word.format(tmp_path) for word in words]}}))
        _, output = gatewright("doctor", "--apisix-config", file)
        assert "plugin greet (on_request)" in output
        assert "no plugins were found" not in output

    def test_looks_where_the_command_says(self, tmp_path: Path, plugin_dir: Callable[..., Path]) -> None:
        file = tmp_path / "config.yaml"
        directory = plugin_dir(greet=PLUGIN)
        file.write_text(json.dumps({"ext-plugin": {"cmd": [sys.executable, "run", "--plugins", str(directory)]}}))
        _, output = gatewright("doctor", "--apisix-config", file)
        assert "plugin greet (on_request)" in output


def test_a_kong_yml_to_start_from_suits_the_plugins(tmp_path: Path) -> None:
    (tmp_path / "strict.py").write_text(
        "import msgspec\nfrom typing import Literal\nfrom gatewright import Plugin\n"
        "class Part(msgspec.Struct):\n    name: str\n"
        "class Strict(Plugin):\n    class Config(msgspec.Struct):\n"
        "        url: str\n        kind: Literal['b', 'a']\n        most: int\n        part: Part\n"
        "        often: int = 3\n"
        "    def on_request(self, request): pass\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "gatewright", "kong", "conf", "-d", str(tmp_path), "--declarative"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    content = yaml.safe_load(run.stdout)
    assert content["plugins"][0]["config"].keys() >= {"url", "kind", "most"}
    plugins = list(load_directory(tmp_path).plugins.values())
    Plugins(known_plugins(dump(plugins, "msgpack"), lambda _: ""), parse_declarative(content))


def test_an_idle_worker_can_be_profiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gatewright.cli import profile

    asked: list[list[str]] = []

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        if "--idle" in command:
            (tmp_path / "p.svg").write_text("<svg/>")
        return subprocess.CompletedProcess(command, int("--idle" not in command), "", "Error: No stack counts found")

    monkeypatch.setattr(profile, "_run", run)
    monkeypatch.setattr("shutil.which", lambda *_, **__: "/bin/py-spy")
    code, output = gatewright("profile", "--pid", 1, "-s", 1, "-o", tmp_path / "p.svg")
    assert code == 0, output
    assert "did nothing meanwhile" in output
    assert ["--idle" in command for command in asked] == [False, True]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import gatewright.testing", "testing needs h2, which is not installed: pip install 'gatewright[testing]'"),
        (
            "from gatewright.cli import main; main(['call', 'x'])",
            "`gatewright call` needs h2: pip install 'gatewright[dev-gateway]'",
        ),
    ],
)
def test_what_an_installation_without_extras_lacks_is_named_with_its_extra(code: str, told: str) -> None:
    lacking = """
import sys

class Lacking:
    def find_spec(self, name, path, target=None):
        if name == "h2":
            raise ModuleNotFoundError("No module named 'h2'", name="h2")

sys.meta_path.insert(0, Lacking())
"""
    run = subprocess.run([sys.executable, "-c", lacking + code], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert told in run.stderr


def test_a_route_s_value_is_never_told_and_the_lean_path_takes_it_as_it_is(tmp_path: Path) -> None:
    from gatewright import Plugin, SyncRequest
    from gatewright.doctor.routes import check_routes

    class Greet(Plugin):
        def on_request(self, request: SyncRequest) -> None: ...

    def found(phase: str, entry: str) -> list[tuple[str, str]]:
        file = tmp_path / "apisix.yaml"
        file.write_text(
            f"routes:\n  - uri: /*\n    plugins:\n      {phase}:\n        conf:\n          - {entry}\n#END\n"
        )
        return [(each.level, each.text) for each in check_routes(file, {"greet": Greet}, {})]

    entry = "{name: greet, value: {word: hunter2}}"
    assert [level for level, _ in found("gatewright", entry)] == ["good"]
    assert [level for level, _ in found("gatewright", "{name: greet}")] == ["good"]
    for wrong in (entry, "{name: 5, value: hunter2}", "{nam: greet, value: hunter2}", "hunter2"):
        ((level, text),) = found("ext-plugin-pre-req", wrong)
        assert (level, "hunter2" in text) == ("problem", False)
        assert f"{tmp_path / 'apisix.yaml'}" in text
