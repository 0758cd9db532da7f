"""Whether a plugin's code is made for threads: it has locks, or keeps things by thread.

`def` handlers on the loop take turns whenever they ask the gateway, all in one thread. A lock that one holds meanwhile
would stop them all, since its owner can't go on while the next one waits for it (or, being an RLock, would keep nobody
out); and what is kept by thread would be another request's. Each in a thread of its own, they do what is meant.

What is looked at is the plugin's own code, and what that holds: its module, and those beside it that it has imported.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from inspect import iscoroutinefunction
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from gatewright.plugin import KONG_PHASES
from gatewright.runtime.thread_bound import holds_what_is_thread_bound

__all__ = ["LOCAL", "what_wants_threads"]

LOCAL: Final = "threading.local"
"""What keeps things by thread."""
_KINDS: Final[dict[Any, str]] = {
    threading.local: LOCAL,
    threading.Lock: "threading.Lock",
    threading.RLock: "threading.RLock",
    threading.Condition: "threading.Condition",
    threading.Semaphore: "threading.Semaphore",
    threading.BoundedSemaphore: "threading.BoundedSemaphore",
}
"""What makes them, with its name."""
_TYPES: Final[dict[type[Any], str]] = {
    threading.local: LOCAL,
    type(threading.Lock()): "threading.Lock",
    type(threading.RLock()): "threading.RLock",
    threading.Condition: "threading.Condition",
    threading.Semaphore: "threading.Semaphore",
}
_NAMES: Final = {name.partition(".")[2]: name for name in _KINDS.values()}
_NOT_THEIRS: Final = frozenset(("gatewright", "apisix", "kong_pdk", *sys.stdlib_module_names))
_SHARED_PLACES: Final = ("site-packages", "dist-packages")
_DEEPEST: Final = 3
_MOST: Final = 2000
"""Objects that are looked at."""


def what_wants_threads(plugin: type[Any]) -> frozenset[str]:
    """What a plugin class's code uses that is for threads, such as `threading.Lock`; none if all is `async def`."""
    wrapped = getattr(plugin, "wrapped", None)
    classes = [*plugin.__mro__, *(wrapped.__mro__ if isinstance(wrapped, type) else ())]
    theirs = [cls for cls in classes if cls.__module__.partition(".")[0] not in _NOT_THEIRS]
    if not any(map(_has_def_handler, classes)):
        return frozenset()
    modules = list(_own_modules({cls.__module__ for cls in theirs}))
    own = frozenset(module.__name__ for module in modules)
    found: set[str] = set()
    for module in modules:
        found |= _of_module(module, own)
    if found and any(_opened_for_one_thread(module, own) for module in modules):
        return frozenset()
    return frozenset(found)


def _has_def_handler(cls: type[Any]) -> bool:
    handlers = (vars(cls).get(name) for name in ("on_request", "on_response", "on_log", *KONG_PHASES))
    return any(isinstance(handler, FunctionType) and not iscoroutinefunction(handler) for handler in handlers)


def _own_modules(names: Iterable[str]) -> Iterator[ModuleType]:
    """These modules, and those beside them that they know of."""
    waiting = [module for name in names if (module := sys.modules.get(name)) is not None and _file(module)]
    places = {place for module in waiting if (place := _place(module))}
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module.__name__ in seen:
            continue
        seen.add(module.__name__)
        yield module
        for value in list(vars(module).values()):
            other = value if isinstance(value, ModuleType) else sys.modules.get(str(getattr(value, "__module__", "")))
            if other is not None and any(place in Path(_file(other)).parents for place in places):
                waiting.append(other)


def _file(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or "")


def _place(module: ModuleType) -> Path | None:
    """The directory whose files belong together with a module; none where that is everybody's."""
    place = Path(_file(module)).parent
    if place.name in _SHARED_PLACES or str(place) in (sys.prefix, sys.base_prefix):
        return None
    return place


def _of_module(module: ModuleType, own: frozenset[str]) -> set[str]:
    names = dict(_named_here(module))
    found: set[str] = set()
    if names:
        for code in _code_of(vars(module).values(), module.__name__):
            found |= {names[name] for name in code.co_names if name in names}
    for held in _held(vars(module).values(), own):
        found |= {name for kind, name in _TYPES.items() if isinstance(held, kind)}
    return found


def _opened_for_one_thread(module: ModuleType, own: frozenset[str]) -> bool:
    """Whether it has opened a database when it was imported that can be used in this thread only: it has to stay."""
    sqlite3 = sys.modules.get("sqlite3")
    if sqlite3 is None:
        return False
    opened = [held for held in _held(vars(module).values(), own) if isinstance(held, sqlite3.Connection)]
    said: list[bool] = []
    if opened:
        elsewhere = threading.Thread(target=lambda: said.append(holds_what_is_thread_bound(opened)))
        elsewhere.start()
        elsewhere.join()
    return any(said)


def _named_here(module: ModuleType) -> Iterator[tuple[str, str]]:
    """By which names its code makes them."""
    for name, value in vars(module).items():
        if value is threading:
            yield from _NAMES.items()
        elif isinstance(value, type) or callable(value):
            for kind, spelled in _KINDS.items():
                if value is kind:
                    yield name, spelled


def _code_of(values: Iterable[Any], module: str) -> Iterator[CodeType]:
    """The code of functions and classes that are defined in a module."""
    waiting = [value for value in values if getattr(value, "__module__", None) == module]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, type):
            waiting += vars(value).values()
        elif isinstance(value, FunctionType):
            waiting += [value.__code__, getattr(value, "__wrapped__", None)]
        elif isinstance(value, property):
            waiting += [value.fget, value.fset]
        elif isinstance(value, staticmethod | classmethod):
            waiting.append(value.__func__)
        elif isinstance(value, CodeType):
            yield value
            waiting += value.co_consts


def _held(values: Iterable[Any], own: frozenset[str]) -> Iterator[Any]:
    """What a module holds: in its classes, in containers, and in objects, for a few levels."""
    level = [value for value in values if not isinstance(value, ModuleType)]
    seen: set[int] = set()
    for _ in range(_DEEPEST + 1):
        fresh = []
        for value in level:
            if id(value) in seen or len(seen) >= _MOST:
                continue
            seen.add(id(value))
            yield value
            fresh.append(value)
        level = [inner for value in fresh for inner in _parts(value, own)]


def _parts(value: Any, own: frozenset[str]) -> Iterable[Any]:
    if isinstance(value, type):
        return list(vars(value).values()) if value.__module__ in own else ()
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if isinstance(value, FunctionType | ModuleType):
        return ()
    attributes = getattr(value, "__dict__", None)
    if not isinstance(attributes, dict):
        return ()
    if type(value).__module__ in own:
        return list(attributes.values())
    # What a library's objects do with their locks needs no gateway; sessions that it keeps by thread are the plugin's.
    return [part for name, part in attributes.items() if name == "registry" or isinstance(part, threading.local)]
