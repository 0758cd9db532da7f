"""Blacking secrets out: by the name of a field, and by their look in text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["REDACTED", "redact", "redact_fields"]

REDACTED: Final = "[redacted]"

_NAME = (
    r"(?:pass(?:word|wd|phrase)|pwd|secret|credential|api[-_]?key|access[-_]?key|private[-_]?key|authorization|cookie)"
)
_SECRET_NAME = re.compile(rf"(?i){_NAME}|^(?:[\w-]*[-_])?token$")
_BEFORE_VALUE = r"[\"']?\s*[:=,]\s*"
_SECRETS_IN_TEXT = (
    (re.compile(r"(?i)(\bauthorization[\"']?\s*[:=,]\s*[\"']?)(?:\w+\s+)?[^\s\"',;]+"), rf"\1{REDACTED}"),
    (re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]{8,}"), rf"\1{REDACTED}"),
    (re.compile(r"(://[^/\s:@]*:)[^@/\s]+(?=@)"), rf"\1{REDACTED}"),
    (  # a name and a quoted value, in whatever they are written
        re.compile(rf"(?i)([\w-]*(?:{_NAME}|token)[\"']{_BEFORE_VALUE[5:]}b?)([\"'])(?!\[redacted)[^\"']*\2"),
        rf"\1\2{REDACTED}\2",
    ),
    (
        re.compile(rf"(?i)(\b[\w-]*(?:{_NAME}|token)[\"']?\s*[:=]\s*)(?:([\"'])[^\"']*\2|[^\s,;&}}\"'\[]+)"),
        rf"\1\2{REDACTED}\2",
    ),
)


def redact(text: str) -> str:
    """The text with what looks like a secret blacked out."""
    for pattern, replacement in _SECRETS_IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def redact_fields(value: Any, name: str = "") -> Any:
    """The same with secrets blacked out: values of fields that are named so, and text that looks so.

    Mappings, lists and pairs of name and value are looked into.
    """
    if name and _SECRET_NAME.search(name):
        return REDACTED
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bytes):
        return redact(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, Mapping):
        return {key: redact_fields(item, str(key)) for key, item in value.items()}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        return value[0], redact_fields(value[1], value[0])
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_fields(item) for item in value]
    return value
