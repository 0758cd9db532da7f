"""A gateway that reloads starts a server anew before the old one ends: the new one takes the socket over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gatewright.server.host import listener, places
from gatewright.settings import Address, Settings
from tests.kong.conftest import wait_until

RELOAD = Path(__file__).parents[1] / "gateway_reload.py"
PLUGIN = """
class Plugin(object):
    def __init__(self, config): pass
    def access(self, kong):
        kong.response.set_header("x-path", kong.request.get_path())
"""


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
    return done.stdout.splitlines()


def test_somebody_listens_all_through_a_reload_and_steps_find_their_event(tmp_path: Path) -> None:
    on = "kong.response.set_header ret"
    assert reloads(tmp_path) == [
        f"of the first, to the second: {on}",
        f"of the second, to the first: {on}",
        f"the first is killed, over its connection: {on}",
        f"the first is killed, to the second: {on}",
        "unknown: kong.response.exit",
        "0 l",
    ]
    wait_until(lambda: not (tmp_path / "k.sock").exists())  # the last one removes it


@pytest.mark.parametrize("is_ours", [True, False])
def test_who_is_replaced_by_a_successor_has_no_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    monkeypatch.setattr(listener, "may_follow", lambda _: True)
    address = Address(path=str(tmp_path / "k.sock"))
    first, second = (listener.Listener.bind(address, follows=True) for _ in range(2))
    monkeypatch.setattr(listener, "may_follow", lambda _: is_ours)
    monkeypatch.setattr(places, "_LOOK_SECONDS", -1.0)
    dispatcher: Any = SimpleNamespace(listeners=[first], unreachable=None)
    looks = places.Places(dispatcher, Settings())
    for _ in range(4):
        looks.look()
    assert dispatcher.unreachable is not is_ours
    first.close()
    second.close()
