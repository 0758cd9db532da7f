"""What reading the plugins' code finds wrong, told once each, and to whoever asks why a plugin failed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatewright.dev.kong.survey import findings_of

__all__ = ["Findings"]


@dataclass(slots=True)
class Findings:
    """What is wrong with the plugins' code: each told once."""

    found: list[dict[str, Any]] = field(default_factory=list)

    async def look(self, places: Sequence[Path]) -> None:
        """Look at the code as it is now, and tell what is new."""
        before, self.found = [each["text"] for each in self.found], await findings_of(places) if places else []
        for each in self.found:
            if each["text"] not in before:
                cure = f"\n  -> {each['cure']}" if each["cure"] else ""
                print(f"{each['level']}: {each['text']}{cure}", file=sys.stderr, flush=True)

    def hints(self, plugin: str) -> list[str]:
        """What was found about a plugin, and how it's mended."""
        own = [each for each in self.found if plugin and each["about"] == plugin]
        return [line for each in own for line in (each["text"], f"-> {each['cure']}")]
