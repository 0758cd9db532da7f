"""Where something stands in a route file: its line, for whoever has to mend it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import yaml

__all__ = ["line_of"]

_LISTS = {"route": ("routes", "id"), "consumer": ("consumers", "username"), "global rule": ("global_rules", "id")}


def line_of(text: str, kind: str, name: str, keys: Sequence[str]) -> int | None:
    """The line of an item, or of a key in it.

    Args:
        text: the file's.
        kind: `route`, `consumer`, or `global rule`.
        name: its id, or how many stand before it and one; `""` for the first.
        keys: those that lead to the place, as far as they are known; each is looked for below the one before.
    """
    if kind not in _LISTS:
        return None
    section, naming = _LISTS[kind]
    root = yaml.compose(text, yaml.SafeLoader)
    items: list[yaml.Node] = next((value.value for key, value in _pairs(root) if key.value == section), [])
    for number, item in enumerate(items, 1):
        own = next((str(value.value) for key, value in _pairs(item) if key.value == naming), str(number))
        if name in (own, ""):
            return _line_below(item, keys)
    return None


def _line_below(node: yaml.Node, keys: Sequence[str]) -> int:
    line: int = node.start_mark.line + 1
    for wanted in keys:
        found = next(((key, value) for key, value in _all_pairs(node) if key.value == wanted), None)
        if found is not None:
            line, node = found[0].start_mark.line + 1, found[1]
    return line


def _pairs(node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    return node.value if isinstance(node, yaml.MappingNode) else []


def _all_pairs(node: yaml.Node) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """A mapping's pairs, and then those of what is in it."""
    pairs = _pairs(node)
    yield from pairs
    below = [value for _, value in pairs] if pairs else node.value if isinstance(node, yaml.SequenceNode) else []
    for each in below:
        yield from _all_pairs(each)
