"""pytest's plugin: fixtures for tests of plugins. It is there by itself where Gatewright is installed.

    gatewright_client     makes test clients, and closes them after the test
    gateway               a real runner and a development gateway, on free ports
    fake_upstream         an HTTP server that notes what it gets and answers as told
    gatewright_snapshot   compares what plugins changed with what they changed when the test was written

`--gatewright-record DIR` keeps the records of failing tests there, for `gatewright inspect FILE`; however they made
their clients.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gatewright.testing.client import Answer, TestClient
    from gatewright.testing.processes import FakeUpstream, Gateway

__all__ = ["fake_upstream", "gateway", "gatewright_client", "gatewright_snapshot"]

_FAILED = pytest.StashKey[bool]()
_MOST_FILES = 20


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("gatewright")
    group.addoption(
        "--gatewright-record", metavar="DIR", type=Path, default=None,
        help="keep the records of failing tests' requests in DIR, for `gatewright inspect FILE`",
    )  # fmt: skip
    group.addoption("--gatewright-update", action="store_true", help="write the snapshots of what plugins change anew")
    group.addoption(
        "--runner", metavar="ADDRESS", default="",
        help="the runner that `pytest --pyargs gatewright.testing.conformance` asks: unix:/path",
    )  # fmt: skip
    group.addoption(
        "--plugin-server", metavar="ADDRESS", default="", help="or the plugin server of Kong's that it asks: unix:/path"
    )
    group.addoption(
        "--plugin-server-protocol", choices=("msgpack", "protobuf"), default="msgpack", help="what it speaks"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Note whether a test failed."""
    report: Any = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


class _Records:
    """Where a test's requests are recorded: a file for each client or gateway that it makes."""

    def __init__(self, directory: Path, test: str) -> None:
        self._directory = directory
        self._stem = re.sub(r"[^\w.-]+", "-", test.replace("::", "-")).strip("-")
        self._made = 0
        self.files: list[Path] = []

    def new(self, what: str = "") -> Path:
        if len(self.files) == _MOST_FILES:  # a property's examples, say: what failed is among the last
            self.files.pop(0).unlink(missing_ok=True)
        self._made += 1
        number = self._made
        name = f"{self._stem}-{what}{number}" if what or number > 1 else self._stem
        self.files.append(self._directory / f"{name}.jsonl")
        return self.files[-1]


@pytest.fixture(autouse=True)
def _gatewright_records(request: pytest.FixtureRequest) -> Iterator[_Records | None]:
    """Record the requests of all test clients that a test makes, if that is wanted; dropped if it passes."""
    directory: Path | None = request.config.getoption("--gatewright-record")
    if directory is None:
        yield None
        return
    from gatewright.testing.client import AsyncTestClient

    directory = directory.absolute()  # wherever the test goes
    directory.mkdir(parents=True, exist_ok=True)
    records = _Records(directory, request.node.nodeid)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AsyncTestClient, "record_file", records.new)
        yield records
    if not request.node.stash.get(_FAILED, False):
        for file in records.files:
            file.unlink(missing_ok=True)


@pytest.fixture
def gatewright_client() -> Iterator[Callable[..., TestClient]]:
    """Make test clients: `gatewright_client(Greet, config={...})`; see `gatewright.testing.TestClient`."""
    from gatewright.testing.client import TestClient

    clients: list[TestClient] = []

    def make(plugin: Any, config: Any = None, **how: Any) -> TestClient:
        __tracebackhide__ = True
        clients.append(TestClient(plugin, config, **how))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def gateway(_gatewright_records: _Records | None) -> Iterator[Callable[..., Gateway]]:
    """Start `gatewright dev` for some places: `gateway("plugins", upstream=fake_upstream.url)`; it has `url` and `get`.

    A real runner, and a development gateway before it, each in a process of its own, on free ports.
    """
    from gatewright.testing.processes import Gateway

    started: list[Gateway] = []

    def start(*arguments: Any, upstream: str = "", **how: Any) -> Gateway:
        record = _gatewright_records.new("gateway") if _gatewright_records is not None else None
        started.append(Gateway.start(*arguments, upstream=upstream, record=record, **how))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def fake_upstream() -> Iterator[FakeUpstream]:
    """An HTTP server on a free port: `url`, `requests`, `answer(...)`."""
    from gatewright.testing.processes import FakeUpstream

    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture
def gatewright_snapshot(request: pytest.FixtureRequest) -> Callable[[Answer], None]:
    """Compare what plugins changed with a file beside the test, which `--gatewright-update` writes."""
    directory = request.path.parent / "__changes__"
    update: bool = request.config.getoption("--gatewright-update")
    seen = 0

    def compare(answer: Answer) -> None:
        __tracebackhide__ = True
        nonlocal seen
        seen += 1
        name = re.sub(r"[^\w.-]+", "-", f"{request.path.stem}-{request.node.name}")
        file = directory / f"{name}{f'-{seen}' if seen > 1 else ''}.json"
        now = [
            {"plugin": run.plugin, "phase": run.phase, "changes": run.changes.as_dict(),
             "answered": run.answer.status if run.answer is not None else None}
            for run in answer.runs
        ]  # fmt: skip
        text = json.dumps(now, indent=2, ensure_ascii=False) + "\n"
        if update:
            directory.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
            return
        if not file.exists():
            pytest.fail(
                f"{file} is not there yet: run pytest with --gatewright-update once, and look at what it writes"
            )
        before = file.read_text(encoding="utf-8")
        if json.loads(before) != now:
            differs = difflib.unified_diff(before.splitlines(), text.splitlines(), str(file), "now", lineterm="", n=6)
            told = "\n".join(differs)
            pytest.fail(f"plugins change something else than {file} says (--gatewright-update takes it):\n{told}")

    return compare
