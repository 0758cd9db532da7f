"""In which files plugins are, found by a process of its own: `python -m ... PLACE...`."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gatewright.runtime.kong_modules import load_directory

__all__ = ["findings_of", "sources_of"]


async def sources_of(places: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """By plugin: `source`, its file."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatewright.dev.kong.survey", *map(str, places)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # whoever serves them says what is wrong with them
    )
    output, _ = await process.communicate()
    try:
        found: dict[str, dict[str, Any]] = json.loads(output)
    except ValueError:
        return {}
    return found


async def findings_of(places: Sequence[Path]) -> list[dict[str, Any]]:
    """What is wrong with the plugins' code, as `gatewright check --json` says: `level`, `text`, `cure`, `about`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatewright", "check", "--json", *map(str, places)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # whoever serves them says what can't be loaded
    )
    output, _ = await process.communicate()
    try:
        content = json.loads(output)
    except ValueError:
        return []
    return [found for found in content["findings"] if found["level"] in ("problem", "warning")]


def _look(places: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {
        name: {"source": found.source} for place in places for name, found in load_directory(Path(place)).found.items()
    }


def main() -> None:
    """The command."""
    with contextlib.redirect_stdout(io.StringIO()):  # plugins may print
        found = _look(sys.argv[1:])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
