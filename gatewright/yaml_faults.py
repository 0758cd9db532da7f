"""What is wrong with a file that should be YAML, in one line: where, and what.

Faults in what a file holds name their place, `services[0].routes[1].plugins[0].config.size`; lines are found by it.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

__all__ = ["place_in", "placed", "yaml_fault"]


def yaml_fault(file: Path | str, error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """The fault.

    Args:
        file: the file's name; empty where there is none.
        error: what reading it raised.
    """
    mark = getattr(error, "problem_mark", None)
    at = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
    place = f"{file}{at}" if str(file) else f"line {mark.line + 1}" if mark is not None else ""
    said = [getattr(error, "problem", None), getattr(error, "context", None)]
    why = ", ".join(str(each) for each in said if each) or " ".join(str(error).split())
    return f"{place}: not valid YAML: {why}" if place else f"not valid YAML: {why}"


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
