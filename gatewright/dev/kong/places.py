"""At which line of a `kong.yml` a fault is. Faults name their place: `services[0].routes[1].plugins[0].config.size`."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

__all__ = ["place_in", "placed"]


def placed(file: Path, fault: object) -> str:
    """A fault with the file and, where it names its place, the line."""
    return f"{place_in(file, str(fault).partition(': ')[0])}: {fault}"


def place_in(file: Path, place: str) -> str:
    """FILE:LINE of a place; what isn't there is where it would be. Just the file, if it has no such place."""
    try:
        node = yaml.compose(file.read_text(), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return str(file)
    line = 0
    for step in re.findall(r"[^.\[\]]+", place):
        if isinstance(node, yaml.SequenceNode) and step.isdigit() and int(step) < len(node.value):
            node = node.value[int(step)]
            line = node.start_mark.line + 1
            continue
        entries = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((key, value) for key, value in entries if getattr(key, "value", None) == step), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return f"{file}:{line}" if line else str(file)
