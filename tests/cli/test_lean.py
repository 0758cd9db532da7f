"""The lean path's files are installed, and `doctor` sees whether a gateway has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gatewright.lua_files import lua_files
from tests.cli.test_doctor import Diagnosis, doctor, run

ROUTES = {"routes": [{"id": 1, "uri": "/*", "plugins": {"gatewright": {"conf": [{"name": "good"}]}}}]}
PLUGIN = "from gatewright import Plugin\nclass Good(Plugin):\n    def on_request(self, request): pass\n"


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A directory with the Lua files, a config.yaml as `install` prints it, and routes."""
    printed = run("apisix", "install", tmp_path / "lua", "--address", f"unix:{tmp_path}/r.sock")
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "config.yaml").write_text(printed.stdout)
    (tmp_path / "apisix.yaml").write_text(yaml.safe_dump(ROUTES))
    (tmp_path / "good.py").write_text(PLUGIN)
    return tmp_path


def diagnosis(node: Path) -> Diagnosis:
    return doctor(
        "--listen", f"unix:{node}/r.sock", "-p", node / "good.py", "--apisix-config", node / "config.yaml",
        "--routes", node / "apisix.yaml",
    )  # fmt: skip


def test_a_node_with_all_that_it_needs(node: Path) -> None:
    found = diagnosis(node)
    assert "lua has this version's files" in found.of("good")
    assert "plugin_attr.gatewright.address is where the runner listens" in found.of("good")
    assert "gatewright, gatewright-after, gatewright-response enabled" in found.of("good")
    assert "plugin good is there" in found.of("good")
    assert "config.yaml" not in found.of("problem")


def test_a_route_whose_plugin_is_not_listed_is_told_to_be_unguarded(node: Path) -> None:
    content = yaml.safe_load((node / "config.yaml").read_text())
    content["plugins"] = ["gatewright-after"]
    (node / "config.yaml").write_text(yaml.safe_dump(content))
    assert "serves such routes unguarded" in diagnosis(node).of("problem")


def test_files_of_another_version_or_none(node: Path) -> None:
    (node / "lua" / "gatewright" / "wire.lua").write_text("return {}")
    assert "files of another version: gatewright/wire.lua" in diagnosis(node).of("problem")
    (node / "lua" / "gatewright" / "wire.lua").unlink()
    assert "leads to no Lua files" in diagnosis(node).of("problem")


def test_another_address(node: Path) -> None:
    text = (node / "config.yaml").read_text()
    (node / "config.yaml").write_text(text.replace("r.sock", "other.sock"))
    assert "other.sock; the runner is set to listen" in diagnosis(node).of("problem")


def test_the_files_of_kong(tmp_path: Path) -> None:
    printed = run("kong", "install", tmp_path / "lua")
    (tmp_path / "kong.conf").write_text(printed.stdout)
    assert "lua has this version's files" in doctor("--kong-conf", tmp_path / "kong.conf").of("good")
    (tmp_path / "kong.conf").write_text("plugins = bundled,gatewright\n")
    assert "leads to no Lua files" in doctor("--kong-conf", tmp_path / "kong.conf").of("problem")


def test_install_says_what_it_can_not_do(tmp_path: Path) -> None:
    (tmp_path / "lua").write_text("")
    failed = run("nginx", "install", tmp_path / "lua")
    assert failed.returncode == 2


def test_everything_is_copied_and_can_be_read_by_all(tmp_path: Path) -> None:
    assert run("nginx", "install", tmp_path / "lua").returncode == 0
    copied = sorted(path.relative_to(tmp_path / "lua") for path in (tmp_path / "lua").rglob("*.*"))
    assert copied == lua_files()
    assert all((tmp_path / "lua" / name).stat().st_mode & 0o777 == 0o644 for name in copied)
