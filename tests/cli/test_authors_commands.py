"""The commands for who writes plugins: new, check, call, schema, plugins; and what doctor says of routes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import structlog
import yaml
from click.testing import CliRunner

from gatewright.cli import main
from gatewright.dev.apisix.routes import build_routes
from tests.conftest import ROOT

WriteFiles = Callable[..., Path]

GREET = """
import msgspec
from gatewright import Plugin, Response
class Greet(Plugin):
    class Config(msgspec.Struct):
        name: str
        greeting: str = "hello"
    async def on_request(self, request):
        if "x-no" in request.headers:
            return Response(403)
        if "x-boom" in request.headers:
            raise RuntimeError("boom")
        request.headers["x-greeting"] = f"{self.config.greeting} {self.config.name}"
        request.query.discard("secret")
"""


def gatewright(*arguments: object, code: int | None = 0, cwd: Path | None = None) -> str:
    monkeypatch = pytest.MonkeyPatch()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        if cwd is not None:
            monkeypatch.chdir(cwd)
        result = CliRunner().invoke(main, list(map(str, arguments)))
    finally:
        monkeypatch.undo()
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(False)
        for name in ("runtime", "dev"):
            logging.getLogger(f"gatewright.{name}").setLevel(logging.NOTSET)
        structlog.reset_defaults()
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert code is None or result.exit_code == code, result.output
    return result.output


class TestNew:
    @pytest.mark.parametrize("flags", [(), pytest.param(("--kong",), marks=pytest.mark.long)])
    def test_what_it_makes_checks_and_passes(self, tmp_path: Path, flags: tuple[str, ...]) -> None:
        output = gatewright("new", "rate-watch", *flags, "-C", tmp_path)
        assert f"gatewright dev{' --gateway kong' if flags else ''}   runs it" in output
        checked = gatewright("check", "plugins", "--strict", cwd=tmp_path)
        assert "rate-watch" in checked
        assert "problem" not in checked
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "-p", "no:asyncio", "."],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout

    def test_the_settings_are_used(self, tmp_path: Path) -> None:
        gatewright("new", "rate-watch", "-C", tmp_path)
        assert "rate-watch" in gatewright("check", cwd=tmp_path)
        assert "x-greeting = hello ada" in gatewright("call", "rate-watch", "-H", "x-user: ada", cwd=tmp_path)

    def test_nothing_is_written_over(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text("mine")
        assert "kept" in gatewright("new", "one", "-C", tmp_path)
        assert (tmp_path / "README.md").read_text() == "mine"
        assert "is there already; nothing was written" in gatewright("new", "one", "-C", tmp_path, code=2)

    @pytest.mark.parametrize("name", ["7up", "a/b", "class", "ä", "../x", ""])
    def test_names_that_are_none_are_refused(self, tmp_path: Path, name: str) -> None:
        gatewright("new", "--directory", tmp_path, "--", name, code=2)
        assert not list(tmp_path.iterdir())


class TestCheck:
    def test_examples_of_both_forms_are_found(self) -> None:
        output = gatewright("check", ROOT / "examples" / "plugins", ROOT / "examples" / "kong")
        assert "greet" in output
        assert "py-hello" in output

    def test_paths_may_be_left_out(self, tmp_path: Path) -> None:
        assert "name the directories" in gatewright("check", code=2, cwd=tmp_path)
        gatewright("check", "--installed", code=1, cwd=tmp_path)  # there are none

    def test_what_plugins_print_is_not_in_what_machines_read(self, tmp_path: Path) -> None:
        noisy = "import os, sys\nprint('printed')\nos.write(1, b'written')\n"
        path = tmp_path / "greet.py"
        path.write_text(noisy + GREET)
        for command in (["check", "--json", path], ["schema", path], ["schema", "greet", "-p", path.parent]):
            run = subprocess.run(
                [sys.executable, "-m", "gatewright", *map(str, command)], capture_output=True, text=True, check=True
            )
            assert json.loads(run.stdout), command
            assert "printed" in run.stderr and "written" in run.stderr

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("    def on_respnse(self, request): pass", "on_respnse would never be called: did you mean on_response?"),
            ("    def on_request(self): pass", "on_request can't be called: too many positional arguments"),
            ("    def on_response(self, request): pass", "-> def on_response(self, request, response)"),
            ("    async def on_response(self, a, b, c): pass", "missing a required argument: 'c'"),
            ("    def on_log(self): pass", "-> def on_log(self, kong)"),
            ("    def on_request(self, request): yield", "is a generator: its body never runs"),
            ("    on_request = 5", "no handler"),
            ("    async def on_request(self, request):\n        time.sleep(1)", ":6: Plug.on_request blocks the loop"),
            ("    async def on_request(self, request):\n        nap(1)", "time.sleep() in an `async def`"),
            ("    async def setup(self):\n        requests.get('x')", "Plug.setup blocks the loop: requests.get()"),
            ("    async def on_request(self, request):\n        a = request.body()", "waits for request.body(), so it"),
            ("    async def on_request(self, request):\n        request.json()['a']", "-> await request.json()"),
            ("    async def on_response(self, q, r):\n        if r.body(): return", "nobody waits for r.body()"),
            ("    async def help(self, q: Request):\n        x = f'{q.var(\"uri\")}'", "-> await q.var('uri')"),
            ("    Config = int\n    def on_request(self, request): pass", "a JSON object, not integer"),
            ("    Config = 5\n    def on_request(self, request): pass", "its Config can't be used"),
            ("    def on_request(self, request): pass\n    on_error = 'Skip'", 'on_error is "fail" or "skip"'),
            (
                "    def on_request(self, request): return 401, 'no'",
                "returns (401, 'no'), which is no answer",
            ),
            ("    async def on_response(self, q, r):\n        return f'{q}'", ":6: Plug.on_response returns f"),
            ("    def on_request(self, request) -> bool: ...", "-> -> Response | None"),
            ("    def on_request(self, request): request.header['x'] = 'y'", "-> did you mean request.headers?"),
            ("    def on_response(self, q, r): r.status_code", "a SyncResponse has no 'status_code'"),
            ("    async def on_request(self, q): q.body = b''", "-> q.set_body(...)"),
            ("    def on_request(self, q): q.headers = {}", "-> q.headers[NAME] = VALUE"),
            (
                "    async def on_request(self, q):\n        if not self.ask(): ...\n    async def ask(self): ...",
                ":6: Plug.on_request: nobody waits for self.ask(), so it never runs",
            ),
            ("    def on_request(self, q): self.ask()\n    async def ask(self): pass", "or make it a `def`"),
            (
                "    async def on_request(self, q): self.rest()\n    def rest(self): nap(1)",
                ":6: Plug.on_request blocks",
            ),
            (
                "    class Config(msgspec.Struct): word: str = ''\n    def on_request(self, q): self.config.wrod",
                "-> did you mean self.config.word?",
            ),
            (
                "    class Config(msgspec.Struct): word: str = ''\n    def on_request(self, q): self.config['word']",
                ":6: Plug.on_request: self.config is a Plug.Config, and no mapping",
            ),
            ("    def __init__(self): pass\n    def on_request(self, q): pass", "-> def __init__(self, config)"),
            ("    async def setup(self, config): pass\n    def on_request(self, q): pass", "-> async def setup(self)"),
            (
                "    def onRequest(self, q): pass",
                ":4: plug: no handler; define on_request or on_response (onR",
            ),
        ],
    )
    def test_a_mistake_is_told_with_its_place(self, plugin_dir: WriteFiles, body: str, words: str) -> None:
        head = "import msgspec, time\nfrom time import sleep as nap\nfrom gatewright import Plugin, Request\n"
        if "requests" in body:
            head = f"try:\n    import requests\nexcept ImportError: pass\n{head}"
        directory = plugin_dir(plug=f"{head}class Plug(Plugin):\n{body}")
        output = gatewright("check", directory, code=1)
        assert words in output
        assert str(directory / "plug.py") in output

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("def __init__(self, config): ...\n    def acess(self, kong): ...", "acess is none, did you mean access?"),
            ("def __init__(self): ...\n    def access(self, kong): ...", "-> def __init__(self, config)"),
        ],
    )
    def test_a_mistake_in_kong_pdks_form(self, plugin_dir: WriteFiles, body: str, words: str) -> None:
        output = gatewright("check", plugin_dir(rate=f"Schema = ()\nclass Plugin:\n    {body}\n"), code=1)
        assert words in output
        assert "rate.py:" in output

    @pytest.mark.parametrize(
        "body",
        [
            "        await asyncio.to_thread(lambda: time.sleep(1))",
            "        time.sleep(0)  # gatewright: may-block",
            "        def later(): time.sleep(1)",
            "        await asyncio.sleep(1)",
            "        self.time.sleep(1)",
            "        return await (self.ask() if request.path else self.ask())",
            "        await asyncio.gather(self.ask())",
            "        async for each in self.several(): pass",
            "        request, ask = self.other, self.ask\n        request.header = ask()",
            "        request.path = request.path + self.config.given()['a']\n        request.ctx['a'] = 1",
            "        await asyncio.to_thread(self.nap)",
            "        def one(): return 5",
            "        return (await self.ask()) or None",
            "        a = request.body()\n        await a",
            "        await asyncio.gather(request.body(), request.var('uri'))",
            "        a, b = request.body(), request.var('uri')\n        await asyncio.gather(a, b)",
            "        a = asyncio.create_task(request.body())\n        return await a",
            "        asked = [request.var(name) for name in 'ab']\n        await asyncio.gather(*asked)",
            "        return await request.json()",
            "        pass\n    def on_log(self, request, response):",
        ],
    )
    def test_what_does_not_block_is_let_be(self, plugin_dir: WriteFiles, body: str) -> None:
        head = (
            "import asyncio, time\nfrom gatewright import Plugin\nclass Plug(Plugin):\n    async def ask(self): pass\n"
            "    async def several(self): yield 1\n    def nap(self): time.sleep(1)\n"
        )
        method = f"    async def on_request(self, request):\n{body}\n        return None\n"
        gatewright("check", plugin_dir(plug=head + method))

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("    def on_request(self, request: Request): pass", "-> request: SyncRequest; or `async def`"),
            ("    async def on_request(self, request: 'SyncRequest'): pass", "is given a Request, not a SyncRequest"),
            ("    def on_response(self, q, r: Response): pass", "given a SyncResponse, not a Response"),
            ("    class config: a: int\n    def on_request(self, request): pass", "Plug.config is no model"),
            ("    on_eror = 'skip'\n    def on_request(self, request): pass", "-> did you mean on_error?"),
        ],
    )
    def test_what_is_meant_otherwise_is_warned_of(self, plugin_dir: WriteFiles, body: str, words: str) -> None:
        head = "from __future__ import annotations\nfrom gatewright import *\nclass Plug(Plugin):\n"
        directory = plugin_dir(plug=f"{head}{body}")
        assert words in gatewright("check", directory)
        gatewright("check", "--strict", directory, code=1)

    def test_two_of_a_name_and_broken_files(self, plugin_dir: WriteFiles) -> None:
        output = gatewright("check", plugin_dir(a=GREET, b=GREET, c="import nowhere"), code=1)
        assert "two plugins are called 'greet'" in output
        assert "c.py:1: ModuleNotFoundError" in output

    def test_kongs_form_is_looked_at(self, plugin_dir: WriteFiles) -> None:
        directory = plugin_dir(
            k="Schema = ({'a': {'type': 'strng'}},)\nclass Plugin:\n    def access(self, kong): pass\n"
        )
        assert "type: expected one of" in gatewright("check", directory, code=1)
        directory = plugin_dir(l="class Plugin:\n    def __init__(self, config): pass\n    def access(self): pass\n")
        assert "l.access can't be called" in gatewright("check", directory, code=1)

    def test_machines_read_json(self, plugin_dir: WriteFiles) -> None:
        directory = plugin_dir(
            greet=GREET, t="from gatewright import Plugin\nclass T(Plugin):\n    def on_request(self): 1\n"
        )
        told = json.loads(gatewright("check", "--json", directory, code=1))
        assert [plugin["name"] for plugin in told["plugins"]] == ["greet", "t"]
        assert told["errors"] == []
        assert told["findings"][0]["level"] == "problem"


KONGS = """
class Plugin:
    def __init__(self, config): pass
    def access(self, kong):
        if kong.request.get_method()[0] == "PUT":
            return kong.service.request.set_header("x-a", "1")
        kong.response.exit(403, "no")
"""


class TestCall:
    def test_it_shows_what_a_plugin_changes(self, plugin_dir: WriteFiles) -> None:
        file = plugin_dir(greet=GREET) / "greet.py"
        output = gatewright("call", file, "/x?secret=1", "-c", '{"name": "ada"}', "-d", "hi")
        assert "headers: x-greeting = hello ada" in output
        assert "query: - secret" in output
        assert "POST /x\n" in output

    def test_and_what_went_wrong_with_file_and_line(self, plugin_dir: WriteFiles) -> None:
        file = plugin_dir(greet=GREET) / "greet.py"
        how: tuple[Any, ...] = ("call", file, "-c", '{"name": "ada"}')
        told = gatewright(*how, "-H", "x-boom: 1", code=1)
        assert f"failed: RuntimeError: boom\n    {file}:12, in on_request\n        raise" in told
        assert "answered with 403" in gatewright(*how, "-H", "x-no: 1")
        told = gatewright("call", file, code=1)
        assert "refused: plugin configuration is invalid" in told
        assert f"-> -c '{{...}}'; {file}:" in told
        assert "a header is NAME: VALUE" in gatewright(*how, "-H", "x", code=2)

    def test_machines_read_json(self, plugin_dir: WriteFiles) -> None:
        file = plugin_dir(greet=GREET) / "greet.py"
        told = json.loads(
            gatewright("call", file, "-c", '{"name": "a"}', "--json", "--answer", "up", "--answer-status", 201)
        )
        assert (told["status"], told["body"]) == (201, "up")
        assert told["runs"][0]["changes"] == {"headers": {"x-greeting": ["hello a"]}, "query": {"secret": None}}
        assert told["upstream"][0]["method"] == "GET"

    def test_what_one_of_kongs_asks_and_tells(self, plugin_dir: WriteFiles) -> None:
        file = plugin_dir(kongs=KONGS) / "kongs.py"
        told = gatewright("call", file)
        assert "  kong.request.get_method() -> 'GET'\n  kong.response.exit(403, 'no')\nto the client\n  403" in told
        assert "failed" not in told
        told = gatewright("call", file, "-X", "PUT")
        assert "kong.service.request.set_header('x-a', '1')" in told
        assert "changed nothing" not in told
        (run,) = json.loads(gatewright("call", file, "--json"))["runs"]
        assert (run["error"], run["pdk"][-1]) == (None, "kong.response.exit(403, 'no')")

    def test_a_plugin_that_is_not_there(self, plugin_dir: WriteFiles) -> None:
        assert "no plugin is called 'gret'" in gatewright("call", "gret", "-p", plugin_dir(greet=GREET), code=2)


class TestSchema:
    def test_in_every_form(self, plugin_dir: WriteFiles) -> None:
        directory = plugin_dir(greet=GREET)
        described = json.loads(gatewright("schema", "greet", "-p", directory))
        jsonschema.validate({"name": "ada"}, described)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({}, described)
        kong = json.loads(gatewright("schema", directory / "greet.py", "--as", "kong"))
        assert kong["name"] == "greet"
        route = gatewright("schema", "greet", "-p", directory, "--as", "route")
        assert route.endswith("#END\n")
        entry = build_routes(yaml.safe_load(route)).routes[0].plugins["ext-plugin-pre-req"].entries
        assert entry == [("greet", '{"name": "change-me"}')]


class TestPlugins:
    def test_lists_what_is_where(self, plugin_dir: WriteFiles) -> None:
        directory = plugin_dir(greet=GREET)
        output = gatewright("plugins", "-p", directory)
        assert f"greet   on_request  -        {directory / 'greet.py'}" in output
        told = json.loads(gatewright("plugins", "-p", directory, "--json"))
        assert told["plugins"][0]["name"] == "greet"

    def test_one_with_its_fields(self, plugin_dir: WriteFiles) -> None:
        output = gatewright("plugins", "greet", "-p", plugin_dir(greet=GREET))
        assert output == 'greet\n\n  name  (string; required)\n\n  greeting  (string; default "hello")\n'


class TestDoctorOnRoutes:
    @pytest.mark.parametrize(
        ("phase", "value", "words"),
        [
            ("ext-plugin-pre-req", '{"name": "ada"}', "plugin greet is there, and its value fits"),
            ("ext-plugin-pre-req", "{}", "its value doesn't fit: Object missing required field `name`"),
            ("ext-plugin-pre-req", '{"name": "ada", "greetin": 1}', "did you mean 'greeting'?"),
            ("ext-plugin-pre-req", '{"nam": "ada"}', "did you mean 'name'?; Object missing required field `name`"),
            ("ext-plugin-pre-req", '{"nam": "ada"}', "greet.py:5 says what does: gatewright schema greet"),
            ("ext-plugin-pre-req", "{", "not valid JSON"),
            ("ext-plugin-post-resp", "{}", "greet has no on_response: requests on this route are refused"),
            ("ext-plugin-post-resp", "{}", "-> name it under ext-plugin-pre-req or ext-plugin-post-req or gatewright"),
        ],
    )
    def test_values_and_phases_are_checked(
        self, plugin_dir: WriteFiles, tmp_path: Path, phase: str, value: str, words: str
    ) -> None:
        file = tmp_path / "apisix.yaml"
        route = {"id": 7, "uri": "/*", "plugins": {phase: {"conf": [{"name": "greet", "value": value}]}}}
        file.write_text(yaml.safe_dump({"routes": [route]}) + "#END\n")
        output = gatewright("doctor", "-p", plugin_dir(greet=GREET), "--routes", file, code=1)
        line = next(number for number, line in enumerate(file.read_text().splitlines(), 1) if "name: greet" in line)
        assert f"{file}:{line}: route 7: {phase}" in output
        assert words in output
        assert "#END" not in output

    def test_a_plugin_named_where_apisix_looks_for_its_own_is_told(
        self, plugin_dir: WriteFiles, tmp_path: Path
    ) -> None:
        file = tmp_path / "apisix.yaml"
        file.write_text("routes:\n  - uri: /*\n    plugins:\n      greet: {name: ada}\n#END\n")
        output = gatewright("doctor", "-p", plugin_dir(greet=GREET), "--routes", file, code=1)
        assert f"{file}:4: greet stands where APISIX looks for plugins of its own" in output
        assert "ext-plugin-pre-req: {conf: [{name: greet" in output

    def test_what_is_no_yaml_is_told_with_its_line(self, tmp_path: Path) -> None:
        file = tmp_path / "apisix.yaml"
        file.write_text("routes:\n  - uri: /*\n   plugins: {}\n#END\n")
        assert f"{file}:3:4: not valid YAML: expected <block end>" in gatewright("doctor", "--routes", file, code=1)

    def test_a_file_without_its_end_is_told(self, tmp_path: Path) -> None:
        file = tmp_path / "apisix.yaml"
        file.write_text("routes: []\n")
        assert "its last line is not #END" in gatewright("doctor", "--routes", file, code=1)


class TestHelp:
    def test_no_line_of_the_list_is_cut(self) -> None:
        for command in ((), ("kong",)):
            assert "..." not in gatewright(*command, "--help").partition("Commands:")[2]

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_shells_can_complete(self, shell: str) -> None:
        assert "_GATEWRIGHT_COMPLETE" in gatewright("completion", shell)

    def test_names_of_plugins_are_completed_whatever_plugins_say(self, plugin_dir: WriteFiles) -> None:
        directory = plugin_dir(greet="import os\nos.write(2, b'noise')\n" + GREET, broken="import nowhere")
        run = subprocess.run(
            [sys.executable, "-c", "from gatewright.cli import main; main(prog_name='gatewright')"],
            capture_output=True, text=True, check=False,
            env={**os.environ, "_GATEWRIGHT_COMPLETE": "bash_complete", "COMP_CWORD": "4",
                 "COMP_WORDS": f"gatewright schema -p {directory} "},
        )  # fmt: skip
        assert {"plain,greet", "plain,cors"} <= set(run.stdout.split())
        assert "noise" not in run.stderr

    def test_a_misspelt_command_is_met_with_the_one_that_is_meant(self) -> None:
        assert "No such command 'stats'. Did you mean status?" in gatewright("stats", code=2)

    def test_colour_is_for_terminals(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from gatewright.cli import _output

        monkeypatch.setattr(_output.sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        assert _output._is_terminal()
        monkeypatch.setenv("NO_COLOR", "1")
        assert not _output._is_terminal()
