"""A gateway that reloads starts a server anew before the old one ends: the new one takes the socket over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kong.conftest import wait_until

RELOAD = Path(__file__).parents[1] / "gateway_reload.py"
PLUGIN = "class Plugin(object):\n    def __init__(self, config): pass\n    def access(self, kong): pass\n"


def reloads(tmp_path: Path) -> list[str]:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "nop.py").write_text(PLUGIN)
    path = tmp_path / "k.sock"
    server = [sys.executable, "-m", "kong_pdk.cli", "-v", "-d", tmp_path / "plugins", "-p", tmp_path]
    done = subprocess.run(
        [sys.executable, RELOAD, path, *server, "--socket-name", "k.sock"],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.long
def test_somebody_listens_all_through_a_reload(tmp_path: Path) -> None:
    assert reloads(tmp_path) == ["0", "l"]
    wait_until(lambda: not (tmp_path / "k.sock").exists())  # the last one removes it
