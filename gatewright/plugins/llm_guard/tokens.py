"""Counting tokens: by length, or with OpenAI's vocabularies, which `bpe-openai` carries in its package."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any

from gatewright.plugins._shared.extras import extra

__all__ = ["counting"]

_BYTES_OF_A_TOKEN = 4


def _by_length(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_OF_A_TOKEN)


def counting(tokenizer: str) -> Callable[[str], int]:
    """What counts a text's tokens.

    Raises:
        ConfigError: the package that knows the vocabulary is not installed.
    """
    if tokenizer == "length":
        return _by_length
    with extra("llm-tokens", plugin="llm-guard"):
        count: Callable[[str], int] = _bindings().tokenizer_for_encoding(tokenizer).count
    return count


@cache
def _bindings() -> Any:
    """The compiled module of the package, alone: the package's own imports read all vocabularies again, for 6 s."""
    package = find_spec("bpe_openai")
    places = package.submodule_search_locations if package is not None else None
    found = PathFinder.find_spec("_bindings", list(places)) if places is not None else None
    if found is None or found.loader is None:
        raise ModuleNotFoundError("No module named 'bpe_openai'", name="bpe_openai")
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module
