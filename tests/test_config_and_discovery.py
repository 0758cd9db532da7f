"""Typed configurations, the finding of plugins, settings and the commands."""

from __future__ import annotations

import json
import os
import py_compile
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import msgspec
import pydantic
import pytest

from gatewright import ConfigError, Plugin, Response
from gatewright.config import config_schema, parse_config
from gatewright.errors import ListenError
from gatewright.runtime.confs import ConfStore, conf_digest, token_of
from gatewright.runtime.discovery import discover
from gatewright.settings import Settings, load_settings, parse_address
from tests import launching
from tests.conftest import ROOT

WriteFiles = Callable[..., Path]


class AStruct(msgspec.Struct):
    limit: int
    name: str = "x"


@dataclass
class ADataclass:
    limit: int
    name: str = "x"


class ATypedDict(TypedDict):
    limit: int


class AModel(pydantic.BaseModel):
    limit: int
    name: str = "x"


MODELS = [AStruct, ADataclass, ATypedDict, AModel]


@pytest.mark.parametrize("model", MODELS)
def test_every_kind_of_model_is_parsed_and_has_a_schema(model: type) -> None:
    parsed = parse_config(model, '{"limit": 3}')
    assert (parsed["limit"] if isinstance(parsed, dict) else parsed.limit) == 3
    assert "limit" in json.dumps(config_schema(model))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("text", ['{"limit": "many"}', "{}", ""])
def test_what_does_not_fit_names_the_field(model: type, text: str) -> None:
    with pytest.raises(ConfigError, match="limit"):
        parse_config(model, text)


@pytest.mark.parametrize("model", [*MODELS, None])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"limit": 3, "limit": 300}', "'limit' is there twice"),
        ('{"limit": 3, "\\u006cimit": 300}', "'limit' is there twice"),
        ('{"limit": NaN}', "NaN"),
        ('{"limit": ' + "[" * 100_000, "."),
    ],
)
def test_what_can_be_read_in_two_ways_or_not_at_all_is_refused(model: type | None, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_config(model, text)


def test_without_a_model_it_is_a_dict() -> None:
    assert parse_config(None, '{"a": [1]}') == {"a": [1]}
    assert parse_config(None, "") == {}
    with pytest.raises(ConfigError, match="not valid JSON"):
        parse_config(None, "{")


def test_a_plugin_can_be_made_in_a_unit_test() -> None:
    class Limit(Plugin):
        Config = AStruct

    assert Limit({"limit": 1}).config == AStruct(1)
    assert Limit(AStruct(2)).config.limit == 2
    assert Limit.name == "limit"


def test_names_are_kebab_case_by_default() -> None:
    class HTTPLogger2(Plugin): ...

    assert HTTPLogger2.name == "http-logger2"


def test_a_json_response() -> None:
    response = Response.json({"a": "é"}, 201)
    assert (response.status, response.content) == (201, '{"a": "é"}'.encode())
    assert response.headers["content-type"] == "application/json"


# --- discovery

PLUGIN = "from gatewright import Plugin\nclass {0}(Plugin):\n    def on_request(self, r): pass\n"


def test_directories_files_and_neighbours(plugin_dir: WriteFiles) -> None:
    directory = plugin_dir(
        one="from neighbour import NAME\n" + PLUGIN.format("One"), neighbour="NAME = 1\n", _two=PLUGIN.format("Two")
    )
    found = discover([directory])
    assert set(found.plugins) == {"one"}
    assert not found.errors
    assert set(discover([directory / "_two.py"]).plugins) == {"two"}


def test_a_broken_file_is_an_error_with_file_and_line_and_the_others_load(plugin_dir: WriteFiles) -> None:
    directory = plugin_dir(
        good=PLUGIN.format("Good"),
        raises="x = 1\n\nraise KeyError('boom')\n",
        broken="def f(:\n",
        lacks="import nope\n",
    )
    found = discover([directory])
    assert set(found.plugins) == {"good"}
    messages = sorted(str(error) for error in found.errors)
    assert any("raises.py:3: KeyError: 'boom'" in message for message in messages)
    assert any("broken.py:1: SyntaxError" in message for message in messages)
    assert any("lacks.py:1: ModuleNotFoundError: No module named 'nope'" in message for message in messages)


def test_two_plugins_of_one_name_are_an_error_that_names_both(plugin_dir: WriteFiles) -> None:
    directory = plugin_dir(a=PLUGIN.format("Same"), b=PLUGIN.format("Same"))
    found = discover([directory])
    (error,) = found.errors
    assert "a.py (used)" in str(error)
    assert "b.py (ignored)" in str(error)


def test_modules_are_found_by_name_and_imported_plugins_do_not_count(
    plugin_dir: WriteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = plugin_dir(mod_a=PLUGIN.format("InA"), mod_b="from mod_a import InA\n" + PLUGIN.format("InB"))
    monkeypatch.syspath_prepend(directory)
    assert set(discover(["mod_b"]).plugins) == {"in-b"}
    (error,) = discover(["no.such.module"]).errors
    assert "no such directory, file or module" in str(error)


def test_installed_packages_announce_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "announced.py").write_text(PLUGIN.format("Announced"))
    info = tmp_path / "announced-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: announced\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[gatewright.plugins]\nannounced = announced:Announced\nbad = announced:nope\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = discover([], installed=True)
    assert "announced" in found.plugins
    assert any("entry point bad" in str(error) for error in found.errors)


# --- settings


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("threads: 1\nmax_calls: 2\ntimeout: 3\nsocket_mode: 0600\n")
    effective = load_settings(
        flags={"threads": 10, "listen": None},
        environ={"GATEWRIGHT_THREADS": "5", "GATEWRIGHT_MAX_CALLS": "6"},
        file=file,
    )
    found = effective.settings
    assert (found.threads, found.max_calls, found.timeout, found.drain) == (10, 6, 3.0, 0.8)
    assert found.socket_mode == "0600"
    origins = effective.origins
    assert (origins["threads"], origins["max_calls"]) == ("--threads", "environment GATEWRIGHT_MAX_CALLS")
    assert (origins["timeout"], origins["drain"]) == (str(file), "default")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threads: many", "threads"), ("nonsense: 1", "unknown setting 'nonsense'"), ("listen: nowhere", "listen is"),
        ("log_level: loud", "log_level is one of"), ("socket_mode: rw", "octal"), ("threads: 0", "at least 1"),
        ("timeout: .nan", "at least 0.01, not nan"), ("drain: .inf", "can be at most 1e"),
        ("plugin_settings: {p: {timeout: -1}}", "the timeout of 'p' is a number of seconds"),
        ("plugin_settings: {p: {timeout: .nan}}", "the timeout of 'p' is a number of seconds"),
        ("plugin_settings: {p: {max_concurrent: 0}}", "max_concurrent of 'p' is a whole number from 1 up"),
        ("plugin_settings: {a: {on_error: maybe}}", "on_error"), ("{", "not valid YAML"),
        ("[1]", "expected settings by name"),
        ("max_frame: 99999999", "three bytes"),
    ],
)  # fmt: skip
def test_bad_settings_say_which_and_why(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_settings(flags={}, environ={}, file=file)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("pluginz: [a]", 3, "unknown setting 'pluginz'; did you mean plugins?"),
        ("threads: many", 3, "threads: Expected `int`"),
        ("workers: many", 3, "workers is auto or a number"),
        ("plugin_settings:\n  greet:\n    on_eror: skip", 5, "greet: there is no 'on_eror'; did you mean on_error?"),
        ("plugin_settings:\n  greet:\n    on_error: skpi", 5, "greet: Invalid enum value 'skpi'"),
        ("plugin_settings: 5", 3, "expected plugins' names"),
    ],
)
def test_bad_settings_say_at_which_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f"drain: 0.5\n\n{text}\n")
    with pytest.raises(ConfigError) as raised:
        load_settings(flags={}, environ={}, file=file)
    assert str(raised.value).startswith(f"{file}:{line}: ")
    assert words in str(raised.value)


def test_bad_settings_of_the_environment_and_of_flags_name_them() -> None:
    with pytest.raises(ConfigError, match=r"^environment GATEWRIGHT_WORKERS: workers is"):
        load_settings(flags={}, environ={"GATEWRIGHT_WORKERS": "many"})
    with pytest.raises(ConfigError, match=r"^--workers: workers is"):
        load_settings(flags={"workers": "many"}, environ={})


def test_addresses() -> None:
    assert str(parse_address("unix:/tmp/a.sock")) == "unix:/tmp/a.sock"
    assert parse_address("/tmp/a.sock").path == "/tmp/a.sock"
    assert str(parse_address("tcp://127.0.0.1:80")) == "tcp://127.0.0.1:80"
    assert parse_address("tcp://[::1]:80").host == "::1"
    assert Settings().listen == "unix:/tmp/gatewright.sock"
    assert issubclass(ListenError, Exception)


# --- conf tokens


class AChain:
    last_used = 0


def store(**more: object) -> ConfStore:
    return ConfStore(lambda key, conf: AChain(), **more)  # type: ignore[arg-type, return-value]


def test_tokens_are_the_same_in_every_process_and_differ_by_key_and_configuration() -> None:
    tokens = [store().prepare(key, conf)[0] for key in "ab" for conf in ([("p", "{}")], [("p", "{ }")], [("p{", "}")])]
    assert len(set(tokens)) == 6
    assert store().prepare("a", [("p", "{}")])[0] == tokens[0] == token_of(conf_digest("a", [("p", "{}")]))


def test_colliding_tokens_are_told_apart() -> None:
    confs = store(hash_token=lambda digest, attempt: attempt)
    first, second = confs.prepare("a", [])[0], confs.prepare("b", [])[0]
    assert (first, second) == (0, 1)
    assert confs.prepare("a", [])[0] == 0
    assert confs.prepare("b", [])[0] == 1


def test_a_used_configuration_lives_and_an_unused_one_is_dropped_after_twice_the_time() -> None:
    evicted: list[AChain] = []
    confs = store(expire=8.0, on_evict=evicted.append)
    used, unused = confs.prepare("used", [])[0], confs.prepare("unused", [])[0]
    assert confs.tick_seconds == 1.0
    for _ in range(16):
        confs.tick()
        confs.get(used)
        assert confs.by_token.keys() == {used, unused}
    confs.tick()
    confs.tick()
    assert confs.by_token.keys() == {used}
    assert len(evicted) == 1


# --- commands


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return launching.run([sys.executable, "-m", "gatewright", *arguments], cwd=cwd)


def test_check_lists_plugins_and_fails_on_errors(plugin_dir: WriteFiles) -> None:
    directory = plugin_dir(good=PLUGIN.format("Good"))
    run = command("check", str(directory))
    lines = [line.split() for line in run.stdout.splitlines()]
    assert (run.returncode, lines[0][:2], lines[1][:2]) == (0, ["plugin", "phases"], ["good", "on_request"])
    (directory / "bad.py").write_text("import nope")
    run = command("check", "--json", str(directory))
    assert run.returncode == 1
    assert "bad.py:1" in json.loads(run.stdout)["errors"][0]


def test_config_shows_values_and_origins() -> None:
    shown = json.loads(command("config", "--json", "--threads", "3").stdout)
    assert shown["threads"] == {"value": 3, "from": "--threads"}
    assert shown["drain"]["from"] == "default"
    assert "threads" in command("config").stdout


def test_bad_flags_end_with_one_clear_line() -> None:
    run = command("run", "--listen", "nowhere")
    assert run.returncode == 2
    assert (
        run.stderr
        == "gatewright: --listen: listen is unix:/path or tcp://host:port, with a port up to 65535, not 'nowhere'\n"
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "-h"], ["dev", "--help"], ["--version"], ["completion", "bash"]]
)
def test_help_version_and_completion(arguments: list[str]) -> None:
    run = command(*arguments)
    assert run.returncode == 0
    assert run.stdout


def test_the_examples_load() -> None:
    assert command("check", str(ROOT / "examples" / "plugins")).returncode == 0
    assert command("check", str(ROOT / "apisix" / "plugins")).returncode == 0


def test_a_file_is_read_anew_however_fast_it_changed(tmp_path: Path) -> None:
    """Bytecode caches are told fresh from stale by seconds and size: two edits in a second would be one."""
    file = tmp_path / "quick.py"
    command = (
        "import sys; from gatewright.runtime.discovery import discover;"
        f"print(discover([{str(file)!r}]).plugins['quick'].word)"
    )
    py_compile.compile(str(write_quick(file, "one")))
    stamp = file.stat()
    write_quick(file, "two")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert run.stdout == "two\n"


def write_quick(file: Path, word: str) -> Path:
    file.write_text(f"from gatewright import Plugin\nclass Quick(Plugin):\n    word = '{word}'\n")
    return file
