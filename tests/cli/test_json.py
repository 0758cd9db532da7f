"""`--json`, everywhere a machine might read: one JSON value on standard output, whatever comes of the command."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from gatewright.cli import main
from gatewright.cli._failing import in_parts

GREET = """\
import msgspec
from gatewright import Plugin

print("printed at import")

class Greet(Plugin):
    class Config(msgspec.Struct):
        word: str = "hi"

    def on_request(self, request):
        request.headers["x-word"] = self.config.word
"""
WITHOUT = {
    "run": "it goes on for good; its log is JSON with --log-format json",
    "completion": "a shell reads it",
    "kong dump": "it prints JSON always: Kong reads it",
}
"""Commands without `--json`, and why."""
NOBODY = ("--listen", "unix:/nowhere/runner.sock")
# The command, whether it goes well, what the JSON has.
COMMANDS: list[tuple[list[str], int, str]] = [
    (["new", "other"], 0, "made"),
    (["new", "class"], 2, "Python's own"),
    (["inspect", "nowhere.jsonl"], 2, "No such file"),
    (["check", "plugins"], 0, "plugins"),
    (["check", "nowhere"], 1, "errors"),
    (["check", "plugins", "--conf", 'greet={"wrod": 1}'], 1, "wrod"),
    (["call", "greet", "-p", "plugins"], 0, "upstream"),
    (["call", "gret", "-p", "plugins"], 2, "did you mean greet?"),
    (["call", "greet", "-p", "plugins", "-H", "nonsense"], 2, "NAME: VALUE"),
    (["schema", "greet", "-p", "plugins"], 0, "properties"),
    (["schema", "greet", "-p", "plugins", "--as", "route"], 0, "routes"),
    (["schema", "gret", "-p", "plugins"], 2, "did you mean greet?"),
    (["plugins", "-p", "plugins"], 0, "shipped"),
    (["plugins", "cors"], 0, "properties"),
    (["plugins", "gret", "-p", "plugins"], 2, "did you mean greet?"),
    (["config"], 0, "listen"),
    (["config", "--workers", "many"], 2, "workers is auto or a number"),
    (["status", *NOBODY], 2, "--listen, or --control"),
    (["reload", *NOBODY], 2, "--listen, or --control"),
    (["log-level", "debug", *NOBODY], 2, "--listen, or --control"),
    (["log-level", "loud", *NOBODY], 2, "log-level --help"),
    (["profile", *NOBODY], 2, "--listen, or --control"),
    (["profile", "-o", "x.png", *NOBODY], 2, "--output ends in"),
    (["doctor", *NOBODY, "-p", "plugins"], 1, "level"),
    (["dev", "plugins", "--connect", "unix:/nowhere", "--debug"], 2, "don't go together"),
    (["dev", "plugins", "--conf", "greet={"], 2, "not valid JSON"),
    (["dev", "nowhere"], 2, "does not exist"),
    (["kong", "conf", "-d", "plugins"], 0, "pluginserver_greet_socket"),
    (["kong", "conf", "-d", "plugins", "--declarative"], 0, "_format_version"),
    (["kong", "conf"], 2, "-d DIRECTORY"),
    (["kong", "conf", "-d", "nowhere"], 2, "kong conf --help"),
    (["kong", "install", "lua"], 0, "files"),
    (["apisix", "install", "lua"], 0, "extra_lua_path"),
    (["nginx", "install", "gatewright.yaml/lua"], 2, "can't be copied"),
    (["statu"], 2, "Did you mean status?"),
    (["status", "--lisen", "x"], 2, "--listen"),
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "greet.py").write_text(GREET)
    (tmp_path / "gatewright.yaml").write_text("plugins: [plugins]\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leaves(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    for each in command.list_commands(click.Context(command)):
        found = command.get_command(click.Context(command), each)
        assert found is not None
        yield from leaves(found, f"{name} {each}".strip())


def test_each_command_has_it_or_a_reason_why_not() -> None:
    named = {name: {option for each in command.params for option in each.opts} for name, command in leaves(main)}
    assert {name for name, options in named.items() if "--json" not in options} == WITHOUT.keys()
    asked = {" ".join(words) for words, _, _ in COMMANDS}
    assert [name for name in named.keys() - WITHOUT.keys() if not any(each.startswith(name) for each in asked)] == []


@pytest.mark.parametrize(("words", "code", "has"), COMMANDS, ids=[" ".join(words) for words, _, _ in COMMANDS])
def test_what_comes_is_one_json_value(project: Path, words: list[str], code: int, has: str) -> None:
    ran = CliRunner().invoke(main, [*words, "--json"])
    assert ran.exit_code == code, ran.output
    content = json.loads(ran.stdout)
    assert has in ran.stdout
    if code == 2:
        assert content["error"].keys() == {"what", "where", "cure"}
        assert content["error"]["what"]
        assert "gatewright:" not in ran.stderr
        plain = CliRunner().invoke(main, words)
        assert (plain.exit_code, plain.stdout) == (code, ""), "without it, words for people"
        assert content["error"]["what"] in plain.stderr


@pytest.mark.parametrize(
    ("message", "what", "where", "cure"),
    [
        ("/p/a.py:3: SyntaxError: nope", "SyntaxError: nope", "/p/a.py:3", ""),
        ("127.0.0.1:80: Address already in use; choose another one with --port", "Address already in use",
         "127.0.0.1:80", "choose another one with --port"),
        ("environment GATEWRIGHT_X: no such setting; did you mean Y?", "no such setting", "environment GATEWRIGHT_X",
         "did you mean Y?"),
        ("no plugin is called 'gret': did you mean greet? (`x` lists all)", "no plugin is called 'gret'", "",
         "did you mean greet? (`x` lists all)"),
        ("profiling needs py-spy: pip install 'x'", "profiling needs py-spy", "", "pip install 'x'"),
        ("--conf greet: not valid JSON: why", "not valid JSON: why", "--conf greet", ""),
        ("kong.yml:11: services[0].config.size: expected an integer", "services[0].config.size: expected an integer",
         "kong.yml:11", ""),
        ("workers is auto or a number", "workers is auto or a number", "", ""),
    ],
)  # fmt: skip
def test_a_message_is_taken_apart(message: str, what: str, where: str, cure: str) -> None:
    assert in_parts(message) == {"what": what, "where": where, "cure": cure}


@pytest.mark.parametrize("gateway", ["apisix", pytest.param("kong", marks=pytest.mark.long)])
def test_dev_says_in_its_first_line_where_it_listens(project: Path, gateway: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gatewright", "dev", "--json", "--port", "0", "--inspect-port", "0", "--admin",
         "--admin-port", "0", "--gateway", gateway],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        told: dict[str, Any] = json.loads(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", told["url"])
    assert told["inspector"].endswith("/_gatewright/")
    assert told["gateway"]["name"] == gateway
    assert [each["name"] for each in told["plugins"]] == ["greet"]
    assert bool(told["admin_key"]) == (gateway == "apisix")
    assert told["admin"] not in (None, told["url"])
    assert process.returncode == 0


def test_a_runner_whose_log_is_json_says_so_why_it_can_t_start(project: Path) -> None:
    command = [sys.executable, "-m", "gatewright", "run", "--log-format", "json", "--workers", "many"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 2
    line = json.loads(ran.stderr)
    assert line["event"] == "could not start"
    assert "workers is auto or a number" in line["what"]
