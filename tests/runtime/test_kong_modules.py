"""Which files of a directory are plugins for Kong, and which are there for others to import."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatewright.runtime.kong_modules import load_directory
from tests.kong.conftest import Start, start
from tests.kong.peer import Exited

__all__ = ["start"]

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


HINTS = """
import kong_pdk.pdk.kong as kong
from typing import Optional
from kong_pdk.pdk.kong.request import request
from kong_pdk.pdk.kong import table

def looked_up(asked: kong.kong.request, again: Optional[kong.kong.log], told: request | None, found: table): pass
kong.kong.log.warn("nothing is set, the defaults are taken", 7)

class Fake(kong.kong):
    pass
Fake()

class Plugin:
    def __init__(self, config): pass
    def access(self, worker: kong.kong):
        worker.log.info("seen %s" % kong.service.response.response.get_raw_body())
    def rewrite(self, worker):
        kong.kong.response.exit(403)
"""


def test_hints_are_annotations_and_may_log_at_import(start: Start) -> None:
    server = start("msgpack", hints=HINTS)
    with server.kong() as kong:
        instance = kong.start("hints", {})
        kong.event(instance, "access", {})
        assert kong.calls == [("kong.log.info", ["seen None"])]
        with pytest.raises(Exited, match="500"):
            kong.event(instance, "rewrite", {})
    assert "nothing is set, the defaults are taken 7" in server.log
    assert "is for type hints: use the `kong` object that your handler gets for kong.response.exit" in server.log
