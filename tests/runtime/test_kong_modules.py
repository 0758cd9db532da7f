"""Which files of a directory are plugins for Kong, and which are there for others to import."""

from __future__ import annotations

from pathlib import Path

from gatewright.runtime.kong_modules import load_directory

SIBLING = """
from gatewright import Plugin
import help_of_sibling

class Sibling(Plugin):
    async def on_request(self, request):
        return None
"""


def test_a_file_without_a_plugin_is_there_for_others(tmp_path: Path) -> None:
    (tmp_path / "sibling.py").write_text(SIBLING)
    (tmp_path / "help_of_sibling.py").write_text("def text():\n    return 'helped'\n")
    found = load_directory(tmp_path)
    assert (list(found.found), found.errors) == (["sibling"], [])


def test_one_that_means_to_be_a_plugin_and_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text("priority = 5\n\nclass Plugins:\n    pass\n")
    assert "neither a class Plugin nor" in str(load_directory(tmp_path).errors[0])


def test_a_single_file_has_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text("x = 1\n")
    assert "neither a class Plugin nor" in str(load_directory(tmp_path / "alone.py").errors[0])
