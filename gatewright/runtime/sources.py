"""What plugins may do, by their source: of their classes' modules, and of those that these import from.

What is installed is left out, and a source that can't be read may do anything.
"""

from __future__ import annotations

import inspect
import re
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

__all__ = ["makes_tasks", "speaks_of"]

_OWN: Final = ("gatewright", "apisix", "kong_pdk", "builtins")
_TASKS: Final = re.compile(
    r"create_task|ensure_future|gather|TaskGroup|task_group|wait_for|as_completed|shield|start_soon|nursery"
    r"|asyncio\.(wait|run)\b|import (wait|run)\b|add_done_callback|call_soon|call_later|call_at"
)


def makes_tasks(plugin: type[Any]) -> bool:
    """Whether a plugin may run tasks of its own."""
    return speaks_of(_TASKS, (plugin,))


def speaks_of(words: re.Pattern[str], plugins: Iterable[type[Any]]) -> bool:
    """Whether the source of one of these plugins has such words."""
    seen: set[str] = set()
    return any(
        _has(words, sys.modules.get(each.__module__), seen, _home_of(plugin))
        for plugin in plugins
        for each in plugin.__mro__
    )


def _home_of(plugin: type[Any]) -> str:
    """The package that a plugin comes in: its modules are looked into, be they installed."""
    parts = plugin.__module__.split(".")
    return ".".join(parts[:3]) if parts[:2] == ["gatewright", "plugins"] else parts[0]


def _has(words: re.Pattern[str], module: ModuleType | None, seen: set[str], home: str) -> bool:
    if module is None or module.__name__ in seen:
        return False
    seen.add(module.__name__)
    file = getattr(module, "__file__", None)
    if file is None or not (_is_within(module.__name__, home) or _may_be_a_plugins(module.__name__, file)):
        return False
    try:
        if words.search(inspect.getsource(module)):
            return True
    except (OSError, TypeError):
        return True  # who knows?
    names = {value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
             for value in list(vars(module).values())}  # fmt: skip
    return any(_has(words, sys.modules.get(name), seen, home) for name in names if isinstance(name, str))


def _is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _may_be_a_plugins(name: str, file: str) -> bool:
    return name.partition(".")[0] not in _OWN and not _is_installed(file)


def _is_installed(file: str) -> bool:
    path = Path(file)
    return any(path.is_relative_to(sysconfig.get_path(name)) for name in ("stdlib", "platlib", "purelib"))
