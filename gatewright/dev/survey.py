"""Which plugins there are, found by a process of its own: so this one can look again when files have changed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatewright.errors import GatewrightError

__all__ = ["Survey", "survey"]


@dataclass(frozen=True, slots=True)
class Survey:
    """What `gatewright check --json` says.

    Attributes:
        plugins: `name`, `phases`, `source`, and under `needs` why its configuration won't do, or `None`.
        errors: what could not be loaded.
        findings: what else is wrong: `level`, `text`, `cure`, and `about`: the plugin.
        kongs: plugins in kong-pdk's form, which APISIX has no use for.
    """

    plugins: list[dict[str, Any]]
    errors: list[str]
    findings: list[dict[str, Any]] = field(default_factory=list)
    kongs: list[str] = field(default_factory=list)

    def hints(self, plugin: str) -> list[str]:
        """What was found about a plugin: what is wrong, and after an arrow how it's mended."""
        return [
            line
            for found in self.findings
            if found["about"] == plugin
            for line in (found["text"], *([f"-> {found['cure']}"] if found["cure"] else []))
        ]


async def survey(paths: Sequence[Path], confs: Mapping[str, str] | None = None, routes: Path | None = None) -> Survey:
    """Look what plugins there are in some places and among the installed packages.

    Args:
        paths: where to look.
        confs: configurations to try, by plugin.
        routes: a route file to look at, too.

    Raises:
        GatewrightError: it could not be found out.
    """
    more = [part for name, text in (confs or {}).items() for part in ("--conf", f"{name}={text}")]
    if routes is not None:
        more += ["--routes", str(routes)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatewright", "check", "--json", "--installed", *more, *map(str, paths)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    try:
        content = json.loads(output)
    except ValueError:
        said = (errors or output).decode(errors="replace").strip() or f"exit code {process.returncode}"
        raise GatewrightError(f"plugins can't be looked at: {said}") from None
    ours = [plugin for plugin in content["plugins"] if plugin["form"] == "native"]  # not modules in kong-pdk's form
    wrong = [found for found in content["findings"] if found["level"] in ("problem", "warning")]
    kongs = [plugin["name"] for plugin in content["plugins"] if plugin["form"] != "native"]
    return Survey(ours, content["errors"], wrong, kongs)
