"""What is wrong with a file that should be YAML, in one line: where, and what."""

from __future__ import annotations

from pathlib import Path

import yaml

__all__ = ["yaml_fault"]


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
