"""Plugins whose code is made for threads are seen to be, and only those."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gatewright.runtime.discovery import discover
from gatewright.runtime.kong_modules import load_directory
from gatewright.runtime.made_for_threads import what_wants_threads

NATIVE = """
from gatewright import Plugin
{}
class P(Plugin):
    name = "p"
    def on_request(self, request):
        {}
"""
SOURCES = {
    "a lock of the module": ("import threading\nlock = threading.Lock()", "lock", "threading.Lock"),
    "under another name": ("from threading import RLock as Own", "self.lock = Own()", "threading.RLock"),
    "made when it's needed": ("import threading as t", "self.seen = t.local()", "threading.local"),
    "in a container": ("import threading\nall = {'a': [threading.Condition()]}", "all", "threading.Condition"),
    "in a class of its own": (
        "import threading\nclass Own:\n    here = threading.Semaphore()", "Own", "threading.Semaphore",
    ),
    "in an object of its own": (
        "import threading\nclass Own:\n    def __init__(self): self.lock = threading.Lock()\nown = Own()",
        "own", "threading.Lock",
    ),
    "what a library keeps by thread": (
        "import threading, types\nRegistry = types.SimpleNamespace\n"
        "sessions = Registry(registry=Registry(registry=threading.local()))", "sessions", "threading.local",
    ),
    "in a file beside it": ("import HELPER", "HELPER.count()", "threading.Lock"),
    "from a file beside it": ("from HELPER import count", "count()", "threading.Lock"),
    "a database that was opened for this thread": (
        "import sqlite3, threading\nlock = threading.Lock()\ndb = sqlite3.connect(':memory:')", "db", "",
    ),
    "a database that was opened for all": (
        "import sqlite3, threading\nlock = threading.Lock()\ndb = sqlite3.connect(':memory:', check_same_thread=False)",
        "db", "threading.Lock",
    ),
    "nothing": ("import threading, logging\nlog = logging.getLogger()", "threading.get_ident()", ""),
    "an event that stops a thread": ("import threading\nends = threading.Event()", "ends.set()", ""),
    "what a library does for itself": ("import queue, logging\nq = queue.Queue()\nh = logging.Handler()", "q", ""),
}  # fmt: skip
HELPER = "from threading import Lock\nclass Counter:\n    def __init__(self): self.lock = Lock()\n" \
         "counter = Counter()\ndef count(): return counter\n"  # fmt: skip


@pytest.mark.parametrize("what", SOURCES)
def test_what_code_uses_is_seen(what: str, tmp_path: Path) -> None:
    top, line, uses = SOURCES[what]
    helper = f"helper_{tmp_path.name}"
    (tmp_path / f"{helper}.py").write_text(HELPER)
    (tmp_path / "p.py").write_text(NATIVE.format(top, line).replace("HELPER", helper))
    found = what_wants_threads(discover([tmp_path]).plugins["p"])
    assert found == ({uses} if uses else set())
    sys.path.remove(str(tmp_path))


def test_handlers_that_await_take_no_threads(tmp_path: Path) -> None:
    source = NATIVE.format("import threading\nlock = threading.Lock()", "lock").replace("def on", "async def on")
    (tmp_path / "p.py").write_text(source)
    assert not what_wants_threads(discover([tmp_path]).plugins["p"])


def test_of_older_runners_plugins_it_is_their_own_code_that_counts(tmp_path: Path) -> None:
    (tmp_path / "kp.py").write_text(
        "import threading\nlocal = threading.local()\n"
        "class Plugin:\n    def __init__(self, config): pass\n    def access(self, kong): local.kong = kong\n"
    )
    assert what_wants_threads(load_directory(tmp_path).plugins["kp"]) == {"threading.local"}
    (tmp_path / "old.py").write_text(
        "import threading\nfrom apisix.runner.plugin.core import PluginBase\nlock = threading.Lock()\n"
        "class Old(PluginBase):\n    def name(self): return 'old'\n    def filter(self, conf, request, response): 1\n"
    )
    assert what_wants_threads(discover([tmp_path / "old.py"]).plugins["old"]) == {"threading.Lock"}
