"""What the documentation shows is run as it stands there."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from gatewright.dev.apisix.routes import build_routes
from gatewright.gateways.apisix.replies import Rewrite, Stop
from gatewright.observe.control import ask
from gatewright.settings import Settings, load_settings
from tests import launching
from tests.conftest import ROOT, StartRunner

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_first_plugin_of_the_readme_runs(start_runner: StartRunner, tmp_path: Path) -> None:
    (source,) = blocks(README, "python")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "greet.py").write_text(source)
    runner = start_runner("--plugins", "plugins")
    route = next(block for block in blocks(README, "yaml") if "routes:" in block)
    plugins = build_routes(yaml.safe_load(route)).routes[0].plugins
    with runner.peer() as peer:
        token = peer.prepare(*(plugins["ext-plugin-pre-req"].entries or []))
        assert peer.request(token) == Stop(401, [("content-type", "text/plain; charset=utf-8")], b"who are you?")
        assert peer.request(token, headers=[("x-user", "ada")]) == Rewrite(headers=[("x-greeting", "hi")])
        token = peer.prepare(*(plugins["ext-plugin-post-resp"].entries or []))
        assert ("x-served-by", "gatewright") in peer.response(token).headers


def commands() -> list[str]:
    pages = [
        README,
        *(
            (ROOT / "docs" / name).read_text(encoding="utf-8")
            for name in ("operations.md", "kong.md", "lean.md", "batteries/README.md")
        ),
    ]
    shown = [block for page in pages for block in blocks(page, "sh")]
    lines = [line.split("  #")[0].strip() for block in shown for line in block.splitlines()]
    return [line for line in lines if line.startswith(".venv/bin/gatewright")]


@functools.cache
def help_of(*command: str) -> str:
    run = launching.run([sys.executable, "-m", "gatewright", *command, "--help"])
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("line", commands())
def test_the_readmes_commands_and_flags_exist(line: str) -> None:
    command, *arguments = shlex.split(line)[1:]
    shown = help_of(command, *arguments[: command in ("apisix", "kong", "nginx")])
    for flag in (argument for argument in arguments if argument.startswith("--")):
        assert flag in shown, f"{command} has no {flag}"


@pytest.mark.long
def test_the_five_minutes_with_kong(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "kong.md").read_text(encoding="utf-8")
    command, request = blocks(page, "sh")[:2]
    out = tmp_path / "out"
    with out.open("w") as file:
        arguments = [*shlex.split(command)[1:], "--port", "0"]
        process = subprocess.Popen([sys.executable, "-m", "gatewright", *arguments], cwd=ROOT, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 30
        while "Listening on" not in out.read_text():
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        url = out.read_text().partition("Listening on ")[2].partition(",")[0]
        asked = shlex.split(request)[-1].replace("http://127.0.0.1:9080", url)
        with urllib.request.urlopen(asked) as answer:
            headers = dict(json.load(answer)["headers"])
            assert headers["x-greeting"] == "good morning, ada"
            assert int(answer.headers["x-length"]) > 0
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(asked.partition("?")[0])
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0, out.read_text()
    assert "answered with 401" in out.read_text()


@pytest.mark.parametrize(
    "target", ["dev", "test", "test-all", "install", "setup", "lint", "bench", "endure", "docs", "clean", "help"]
)
def test_make_targets_exist(target: str) -> None:
    run = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "deploy" / "README.md", *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_settings_example_is_valid(tmp_path: Path) -> None:
    (example,) = blocks((ROOT / "docs" / "settings.md").read_text(encoding="utf-8"), "yaml")
    file = tmp_path / "gatewright.yaml"
    file.write_text(example)
    settings = load_settings(flags={}, environ={}, file=file).settings
    assert settings.plugin_settings["audit"].on_error == "skip"


def test_the_metrics_are_all_documented(start_runner: StartRunner) -> None:
    runner = start_runner("-p", ROOT / "examples" / "plugins")
    runner.wait_for_log("listening")
    text = ask(f"{runner.socket}.control", "/metrics")[1].decode()
    names = {name for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE) if name != "gatewright_info"}
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert {name for name in names if f"`{name}`" not in page} == set()
    assert set(re.findall(r"`(gatewright_\w+)`", page)) <= names


def test_every_setting_of_the_documents_exists() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    flags = set(re.findall(r"--([a-z][a-z-]+)", page))
    known = {item.name for item in fields(Settings)} | {"seconds", "output", "apisix_config", "json", "config"}
    assert {flag for flag in flags if flag.replace("-", "_") not in known} == set()


def test_the_page_on_the_architecture_names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    named = {name for row in table for name in re.findall(r"`([a-z_/]+?)/?`", row)} | {"gatewright"}
    packages = [
        path.parent for top in ("gatewright", "apisix", "kong_pdk") for path in (ROOT / top).rglob("__init__.py")
    ]
    rooms = {str(path.relative_to(ROOT)).removeprefix("gatewright/") for path in packages}
    above = {"gateways", "server", "server/drivers"}  # which only hold rooms
    inside = ("apisix/", "kong_pdk/", "dev/apisix/", "dev/kong/", "plugins/")
    inner = {room for room in rooms if room.startswith(inside)}
    assert rooms - above - inner <= named, "a room is missing on the page"
    files = {"plugin", "http", "call", "datastructures", "config", "lua"}
    assert named - files - {"gatewright"} <= rooms, "the page names a room that isn't there"


@pytest.mark.long
def test_the_tests_on_the_page_about_testing_pass(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "greet.py").write_text(blocks(README, "python")[0])
    shown = blocks(page, "python")
    for number, source in enumerate(shown):
        (tmp_path / f"test_{number}.py").write_text(source)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert "3 passed" in run.stdout


@pytest.mark.long
def test_the_first_plugins_page_is_true(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "first-plugin.md").read_text(encoding="utf-8")
    shown = re.findall(r"```(sh|text)\n(.*?)```", page, re.DOTALL)
    (tmp_path / "bin").mkdir()
    for name in ("gatewright", "pytest"):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {name} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    log, directory, url = tmp_path / "log", tmp_path, ""
    process: subprocess.Popen[bytes] | None = None

    def said(command: str) -> str:
        if process is not None and command == "gatewright dev":
            return log.read_text()
        run = subprocess.run(
            ["sh", "-c", command], cwd=directory, capture_output=True, text=True, env=environ, check=False
        )
        return run.stdout + run.stderr

    try:
        command = output = ""
        for kind, text in shown:
            if kind == "sh":
                command = text.strip().replace("http://127.0.0.1:9080", url)
                if command == "gatewright dev":
                    with log.open("wb") as file:
                        process = subprocess.Popen(
                            ["gatewright", "dev", "--port", "0", "--no-inspect"],
                            cwd=directory, env=environ, stdout=file, stderr=file,
                        )  # fmt: skip
                    deadline = time.monotonic() + 60
                    while "curl -i " not in log.read_text():
                        assert time.monotonic() < deadline, log.read_text()
                        time.sleep(0.05)
                    url = log.read_text().partition("Listening on ")[2].partition(",")[0]
                output = said(command)
                directory = tmp_path / "hello" if (tmp_path / "hello").exists() else tmp_path
                continue
            deadline = time.monotonic() + 30
            for line in text.strip().replace("http://127.0.0.1:9080", url).splitlines():
                while line not in output:  # a reload takes a moment
                    assert time.monotonic() < deadline and "pytest" not in command, f"{command}\n{line}\n{output}"
                    time.sleep(0.2)
                    output = said(command)
    finally:
        if process is not None:
            process.terminate()
            process.wait(15)
