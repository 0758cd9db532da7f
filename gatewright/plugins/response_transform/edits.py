"""Edits of a JSON document: places in it by JSON pointer (RFC 6901) or JSONPath (RFC 9535), and what is done there.

A *place* is a container and the key in it, so that an edit is an assignment or a deletion. An edit is compiled once,
when its configuration is read, and applied to any number of documents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, Literal

import msgspec

from gatewright import ConfigError, PluginError

__all__ = ["Edit", "compile_edit"]

# Here and not where it's needed: it takes half a second, and this module is imported in a thread.
jsonpath: Any = import_module("jsonpath") if find_spec("jsonpath") is not None else None

Root = list[Any]
"""A document in a list of its own, so that the whole of it is in a container, too."""
Place = tuple[Any, "str | int"]
Finder = Callable[[Root], Sequence[Place]]

_ESCAPES: Final = re.compile(r"~(?![01])")
_INDEX: Final = re.compile(r"0|[1-9][0-9]*")
_LONGEST_LIST: Final = 1_000_000


def compile_edit(
    op: Literal["set", "remove", "rename", "mask"], path: str, *, value: Any, to: str, text: str, keep: int
) -> Edit:
    """Make an edit.

    Args:
        op: what is done.
        path: where: a pointer (`/user/name`; an empty one is the whole document) or a JSONPath (`$.users[*].name`).
        value: for `set`: the new value.
        to: for `rename`: the new name.
        text: for `mask`: what stands for what is hidden.
        keep: for `mask`: how many characters at the end are shown.

    Raises:
        ConfigError: the path isn't one, or the operation can't be done there.
    """
    if op in ("remove", "rename") and path in ("", "$"):
        raise ConfigError(f"`{op}` needs a place within the document, not the whole of it")
    if op == "rename" and not to:
        raise ConfigError("`rename` needs the new name: `to`")
    find = _by_jsonpath(path) if path.startswith("$") else _by_pointer(path, makes=op == "set")
    if op == "set":
        return Edit(find, lambda place: _set(place, value))
    if op == "remove":
        return Edit(find, _remove)
    if op == "rename":
        return Edit(find, lambda place: _rename(place, to))
    return Edit(find, lambda place: _mask(place, text, keep))


class Edit:
    """One edit of documents."""

    def __init__(self, find: Finder, change: Callable[[Place], None]) -> None:
        self._find = find
        self._change = change

    def apply(self, root: Root) -> bool:
        """Change a document in place; tells whether there was something to change.

        Raises:
            PluginError: the document is too deep for the path, or has something else where the path leads.
        """
        # Back to front: what is removed from a list moves what comes behind it.
        places = self._find(root)
        for place in reversed(places):
            self._change(place)
        return bool(places)


def _set(place: Place, value: Any) -> None:
    container, key = place
    # A copy: a later edit of the same document, or of another one, may change what is set here.
    copy = msgspec.json.decode(msgspec.json.encode(value)) if isinstance(value, dict | list) else value
    if isinstance(container, list) and key == len(container):
        container.append(copy)
    else:
        container[key] = copy


def _remove(place: Place) -> None:
    del place[0][place[1]]


def _rename(place: Place, to: str) -> None:
    container, key = place
    if isinstance(container, dict):
        items = [(to if name == key else name, item) for name, item in container.items() if name != to or name == key]
        container.clear()
        container.update(items)


def _mask(place: Place, text: str, keep: int) -> None:
    container, key = place
    value = container[key]
    if value is None:
        return
    shown = "" if isinstance(value, dict | list | bool) else str(value)
    # What is half shown isn't hidden.
    container[key] = text + shown[-keep:] if keep and len(shown) >= 2 * keep else text


def _by_pointer(path: str, *, makes: bool) -> Finder:
    if path and not path.startswith("/"):
        raise ConfigError(f"{path!r} is no path: a JSON pointer begins with '/', a JSONPath with '$'")
    if _ESCAPES.search(path):
        raise ConfigError(f"{path!r} is no JSON pointer: '~' is written '~0'")
    parts = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]

    def find(root: Root) -> Sequence[Place]:
        container: Any = root
        key: str | int | None = 0
        for number, part in enumerate(parts):
            inner = _at(container, key)
            if inner is _ABSENT:
                if not makes or number == 0:
                    return ()
                inner = {}
                _set((container, key), inner)  # type: ignore[arg-type]  # `_key` gave it, or this would be a list's end
                inner = _at(container, key)
            container, key = inner, _key(inner, part, makes)
            if key is None:
                if makes:
                    where = "/" + "/".join(parts[: number + 1])
                    raise PluginError(f"nothing can be set at {path!r}: there is no such place as {where!r}")
                return ()
        return [(container, key)] if makes or _at(container, key) is not _ABSENT else ()  # type: ignore[list-item]

    return find


_ABSENT: Final = object()


def _at(container: Any, key: str | int | None) -> Any:
    if isinstance(container, dict):
        return container.get(key, _ABSENT)
    if isinstance(container, list) and isinstance(key, int) and key < len(container):
        return container[key]
    return _ABSENT


def _key(container: Any, part: str, makes: bool) -> str | int | None:
    """What a part of a pointer is in a container; `None` where it can't be in there."""
    if isinstance(container, dict):
        return part
    if not isinstance(container, list):
        return None
    if part == "-":
        return len(container) if makes else None
    if not _INDEX.fullmatch(part) or len(part) > len(str(_LONGEST_LIST)):
        return None
    index = int(part)
    return index if index < len(container) + makes else None


def _by_jsonpath(path: str) -> Finder:
    if jsonpath is None:
        raise ConfigError(f"{path!r} needs python-jsonpath: pip install 'gatewright[jsonpath]'; a JSON pointer doesn't")
    error_kind = jsonpath.JSONPathError
    try:
        query = jsonpath.compile(path)
    except error_kind as error:
        raise ConfigError(f"{path!r} is no JSONPath: {str(error).splitlines()[0]}") from None

    def places(root: Root) -> Iterator[Place]:
        for match in query.finditer(root[0]):
            container: Any = root
            key: str | int = 0
            for part in match.parts:
                container, key = container[key], part
            yield container, key

    def find(root: Root) -> Sequence[Place]:
        try:
            return list(places(root))
        except error_kind as error:
            raise PluginError(f"{path!r} can't be looked up: {str(error).splitlines()[0]}") from None

    return find
