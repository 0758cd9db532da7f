"""What a `kong.yml` gets wrong is told with file, line and cure, and nothing passes unguarded for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.kong.configuring import plugins_of
from gatewright.dev.kong.declarative import load_declarative
from gatewright.dev.kong.plugins import KnownPlugin
from gatewright.errors import ConfigError
from gatewright.yaml_faults import place_in
from tests.dev.test_what_dev_tells import GREET, dev  # noqa: F401 - a fixture

GUARD = KnownPlugin(
    "guard", 5, "1", ("access",), ({"size": {"type": "integer", "required": True}},), "MsgPack:1", "/nowhere"
)
KONG_YML = """\
_format_version: "3.0"
services:
  - name: shop
    url: http://127.0.0.1:1
    routes:
      - name: shop
        paths: [/]
        plugins:
          - {plugin}
"""


def write(tmp_path: Path, plugin: str) -> Path:
    file = tmp_path / "kong.yml"
    file.write_text(KONG_YML.replace("{plugin}", plugin))
    return file


@pytest.mark.parametrize(
    ("plugin", "line", "words"),
    [
        ("name: guard\n            config: {size: large}", 10, "config.size: expected an integer"),
        ("name: guard\n            config:\n              siez: 3", 11, "config.siez: unknown field"),
        ("name: guard", 9, "config.size: required field missing"),
        ("nam: guard", 9, "plugins[0].nam: unknown field"),
        ("name: guard\n            service: nobody", 10, "service: there is no service 'nobody'"),
    ],
)
def test_a_fault_names_its_line_and_where_the_cure_is(tmp_path: Path, plugin: str, line: int, words: str) -> None:
    file = write(tmp_path, plugin)
    with pytest.raises(ConfigError) as raised:
        plugins_of(file, [GUARD], load_declarative(file))
    assert str(raised.value).startswith(f"{file}:{line}: services[0].routes[0].plugins[0].")
    assert words in str(raised.value)
    assert words.startswith("config.") is ("what fits: gatewright schema guard" in str(raised.value))


def test_a_place_that_is_not_there_is_where_it_would_be(tmp_path: Path) -> None:
    file = write(tmp_path, "name: guard")
    assert place_in(file, "services[0].routes[0].plugins[7]") == f"{file}:8"
    assert place_in(file, "_format_version") == f"{file}:1"
    assert place_in(file, "expected an object") == str(file)
    file.write_text("{")
    assert place_in(file, "services[0]") == str(file)


def test_a_plugin_that_is_not_there_is_told_with_the_one_that_is_meant(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path, "name: gaurd\n          - name: rate-limiting\n          - name: late-one")
    declared = load_declarative(file)
    with caplog.at_level(logging.WARNING):
        plugins = plugins_of(file, [GUARD], declared, ["plugin not loaded: /p/late_one.py:1: SyntaxError: ..."])
    assert plugins.missing.keys() == {"gaurd", "late-one"}, "Kong has the other one itself"
    assert f"{file}:9: no plugin server has the plugin gaurd" in caplog.text
    assert "did you mean guard?" in caplog.text
    assert "plugin not loaded: /p/late_one.py:1" in plugins.missing["late-one"]
    assert "the plugin rate-limiting is left out" in caplog.text


@pytest.mark.long
def test_nothing_passes_where_a_plugin_is_missing_and_the_page_says_why(
    dev: Callable[..., Any],  # noqa: F811
    plugin_dir: Callable[..., Path],
    tmp_path: Path,
) -> None:
    directory = plugin_dir(greet=GREET, broken="import nowhere\n")
    file = write(tmp_path, "name: greet\n            config: {name: ada}\n          - name: broken")
    with dev(directory, "--gateway", "kong", "--routes", file, "--upstream", "echo") as running:
        status, text, _ = running.get()
        assert status == 500
        assert f"{file}:11: no plugin server has the plugin broken" in text
        assert f"{directory / 'broken.py'}:1: ModuleNotFoundError: No module named 'nowhere'" in text
        assert f"plugin not loaded: {directory / 'broken.py'}:1" in running.output
        file.write_text(file.read_text().replace("          - name: broken\n", ""))
        (directory / "broken.py").unlink()
        assert '"ada"' in running.get_until(200)
