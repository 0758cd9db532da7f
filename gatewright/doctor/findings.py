"""What a check finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

__all__ = ["Finding", "good", "note", "plugin_meant", "problem", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        level: `problem` keeps requests from being served, `warning` may do so, `note` couldn't be checked.
        text: what is so.
        cure: what to do.
        about: the plugin that it is about, if it is one.
    """

    level: Literal["good", "note", "warning", "problem"]
    text: str
    cure: str = ""
    about: str = ""


def good(text: str) -> Finding:
    """All is well."""
    return Finding("good", text)


def note(text: str, cure: str = "") -> Finding:
    """This could not be checked."""
    return Finding("note", text, cure)


def warning(text: str, cure: str, about: str = "") -> Finding:
    """This may lead to trouble."""
    return Finding("warning", text, cure, about)


def problem(text: str, cure: str, about: str = "") -> Finding:
    """This is why requests fail."""
    return Finding("problem", text, cure, about)


def plugin_meant(name: str, known: Iterable[str]) -> str:
    """The cure where no plugin has a name."""
    close = get_close_matches(name, sorted(known), 1)
    if close:
        return f"did you mean {close[0]}?"
    return "correct the name, or name its directory: `gatewright dev DIR`, `gatewright run --plugins DIR`"
