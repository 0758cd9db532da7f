"""The official JSON-Schema-Test-Suite, which the source distribution of `jsonschema` brings along; fetched by pip."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

__all__ = ["cases", "documents"]

_PACKAGE = "jsonschema==4.26.0"
_SUITE = "jsonschema-4.26.0/json"


def _place() -> Path:
    """Where the suite is kept between runs; `GATEWRIGHT_SCHEMA_SUITE` names a checkout of one's own."""
    own = os.environ.get("GATEWRIGHT_SCHEMA_SUITE")
    return Path(own) if own else Path(tempfile.gettempdir()) / f"gatewright-schema-suite-{os.getuid()}" / _SUITE


@cache
def _suite() -> Path | None:
    place = _place()
    if (place / "tests").is_dir():
        return place
    root = place.parents[1]
    root.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "jsonschema"]
        try:
            run = subprocess.run([*command, "-d", directory, _PACKAGE], check=False, timeout=90, capture_output=True)
        except subprocess.TimeoutExpired:
            return None
        archives = list(Path(directory).glob("*.tar.gz"))
        if run.returncode or not archives:
            return None
        with tarfile.open(archives[0]) as archive:
            wanted = [member for member in archive.getmembers() if member.name.startswith(_SUITE)]
            archive.extractall(root, wanted, filter="data")
    return place


def _need() -> Path:
    suite = _suite()
    if suite is None:
        pytest.skip(f"the suite comes with the source distribution of {_PACKAGE}, which pip can't fetch here")
    return suite


def cases(draft: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The required groups of a draft, `draft7` or `draft2020-12`, with the files that they are in."""
    for file in sorted((_need() / "tests" / draft).glob("*.json")):
        for group in json.loads(file.read_text(encoding="utf-8")):
            yield file.stem, group


@cache
def documents() -> dict[str, Any]:
    """The schemas that the suite's `$ref`s name, by the URI that they are to be had under."""
    root = _need() / "remotes"
    return {
        f"http://localhost:1234/{file.relative_to(root).as_posix()}": json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(root.rglob("*.json"))
    }
