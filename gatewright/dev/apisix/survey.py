"""Which plugins there are, found by a process of its own: so this one can look again when files have changed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatewright.errors import GatewrightError

__all__ = ["Survey", "survey"]


@dataclass(frozen=True, slots=True)
class Survey:
    """What `gatewright check --json` says.

    Attributes:
        plugins: `name`, `phases`, `source`, and under `needs` why an empty configuration won't do, or `None`.
        errors: what could not be loaded.
    """

    plugins: list[dict[str, Any]]
    errors: list[str]


async def survey(paths: Sequence[Path]) -> Survey:
    """Look what plugins there are in some places and among the installed packages.

    Raises:
        GatewrightError: it could not be found out.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatewright", "check", "--json", "--installed", *map(str, paths)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    try:
        content = json.loads(output)
    except ValueError:
        raise GatewrightError(f"plugins can't be looked at: {errors.decode(errors='replace').strip()}") from None
    ours = [plugin for plugin in content["plugins"] if plugin["form"] == "native"]  # not modules in kong-pdk's form
    return Survey(ours, content["errors"])
