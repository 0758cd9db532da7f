"""What can be told of plugins by reading their code: handlers that can't be called, and `async def` that blocks."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from gatewright.doctor.awaits import check_awaits, check_kinds, check_own_awaits
from gatewright.doctor.findings import Finding, problem, warning
from gatewright.doctor.uses import check_answers, check_attributes, check_config_fields
from gatewright.plugin import HANDLERS, Plugin

__all__ = ["check_code", "check_handlers", "place_of", "what_fits"]

_AWAIT = "await asyncio.sleep(...)"
_HTTPX = "use httpx.AsyncClient and await"
_BLOCKS: Final = {
    "time.sleep": _AWAIT,
    "urllib.request.urlopen": "an async client (aiohttp, httpx.AsyncClient)",
    "socket.create_connection": "asyncio.open_connection",
    "socket.getaddrinfo": "loop.getaddrinfo",
    "socket.gethostbyname": "loop.getaddrinfo",
    "subprocess.run": "asyncio.create_subprocess_exec",
    "subprocess.call": "asyncio.create_subprocess_exec",
    "subprocess.check_call": "asyncio.create_subprocess_exec",
    "subprocess.check_output": "asyncio.create_subprocess_exec",
    "os.system": "asyncio.create_subprocess_exec",
    "os.popen": "asyncio.create_subprocess_exec",
    "psycopg2.connect": "psycopg.AsyncConnection, or asyncpg",
    "pymysql.connect": "aiomysql",
    "pymongo.MongoClient": "pymongo.AsyncMongoClient",
    "redis.Redis": "redis.asyncio.Redis",
    "redis.StrictRedis": "redis.asyncio.Redis",
    "redis.from_url": "redis.asyncio.from_url",
    "smtplib.SMTP": "asyncio.to_thread(...)",
    "input": "nothing: nobody sits before a runner",
    **{f"requests.{name}": "an async client (aiohttp, httpx.AsyncClient)"
       for name in ("get", "post", "put", "patch", "delete", "head", "options", "request", "Session")},
    **{f"httpx.{name}": _HTTPX
       for name in ("get", "post", "put", "patch", "delete", "head", "options", "request", "stream", "Client")},
}  # fmt: skip
"""Calls that hold the loop, with what to write instead."""
_ALLOWED = re.compile(r"#\s*gatewright:\s*may-block")
_LIFECYCLE: Final[Mapping[str, tuple[str, ...]]] = {"__init__": ("config",), "setup": (), "teardown": ()}
_PARAMETERS: Final = {"on_request": ("request",), "on_response": ("request", "response")}


def place_of(thing: Any) -> str:
    """Where a class is defined, as FILE:LINE; empty if nobody knows."""
    try:
        return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return ""


def what_fits(plugin: type[Plugin]) -> str:
    """Where it is said what a plugin's configuration may hold."""
    place, command = place_of(plugin.Config), f"gatewright schema {plugin.name}"
    return f"{place} says what does: {command}" if place else command


def check_handlers(plugin: type[Plugin], source: str) -> Iterator[Finding]:
    """Look whether a plugin's handlers can be called as they will be.

    Args:
        plugin: its class.
        source: where it's from, for messages.
    """
    wrapped: Any = getattr(plugin, "wrapped", None)
    if wrapped is not None:  # an older runner's
        if hasattr(plugin, "kong_schema") and "__init__" in vars(wrapped):
            yield from _check_parameters(wrapped.__init__, f"{plugin.name}.__init__", ("config",), source)
        for phase in plugin.kong_phases():
            yield from _check_parameters(getattr(wrapped, phase, None), f"{plugin.name}.{phase}", ("kong",), source)
        return
    yield from _check_class_attributes(plugin, source)
    for name, wanted in _LIFECYCLE.items():
        yield from _check_parameters(getattr(plugin, name), f"{plugin.name}.{name}", wanted, source)
    for name in HANDLERS:
        handler = getattr(plugin, name, None)
        if name == "on_log" and _takes(handler, 2):
            continue  # request and response
        yield from _check_parameters(handler, f"{plugin.name}.{name}", _PARAMETERS.get(name, ("kong",)), source)


def _check_class_attributes(plugin: type[Plugin], source: str) -> Iterator[Finding]:
    """Attributes that look like one of a plugin's own, and that nobody looks at: `on_eror = "skip"`."""
    try:
        tree = ast.parse(Path(inspect.getsourcefile(plugin) or source).read_text(encoding="utf-8"))
    except (OSError, TypeError, SyntaxError, UnicodeDecodeError):
        return
    used = {each.attr for each in ast.walk(tree) if isinstance(each, ast.Attribute)}
    lines = {
        target.id: part.lineno
        for item in ast.walk(tree)
        if isinstance(item, ast.ClassDef) and item.name == plugin.__name__
        for part in item.body
        if isinstance(part, ast.Assign | ast.AnnAssign)
        for target in (part.targets if isinstance(part, ast.Assign) else [part.target])
        if isinstance(target, ast.Name)
    }
    known = [name for name in Plugin.__annotations__ if name not in ("config", "log")]
    for name, line in lines.items():
        near = get_close_matches(name, known, 1, 0.8)
        if name not in known and name not in used and near:
            yield warning(
                f"{source}:{line}: {plugin.__name__}.{name} is an attribute that nobody looks at",
                f"did you mean {near[0]}?", plugin.name,
            )  # fmt: skip


def _takes(handler: Any, count: int) -> bool:
    try:
        inspect.signature(handler).bind(None, *range(count))
    except (TypeError, ValueError):
        return False
    return True


def _check_parameters(handler: Any, name: str, wanted: tuple[str, ...], source: str) -> Iterator[Finding]:
    if handler is None:
        return
    if not inspect.isfunction(handler):
        yield problem(
            f"{source}: {name} is no method, so it is never called",
            f"def {name.partition('.')[2]}(self, ...)",
            name.partition(".")[0],
        )
        return
    if handler.__module__.startswith(("apisix.", "gatewright.", "kong_pdk.")):
        return
    try:
        inspect.signature(handler).bind(None, *wanted)
    except TypeError as error:
        line = handler.__code__.co_firstlineno
        kind = "async def" if inspect.iscoroutinefunction(handler) else "def"
        short = name.rpartition(".")[2]
        yield problem(
            f"{handler.__code__.co_filename}:{line}: {name} can't be called: {error}",
            f"{kind} {short}({', '.join(('self', *wanted))})",
            name.partition(".")[0],
        )
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        yield problem(
            f"{handler.__code__.co_filename}:{handler.__code__.co_firstlineno}: {name} is a generator: its body never "
            "runs", "no `yield` in a handler", name.partition(".")[0],
        )  # fmt: skip


def check_code(file: Path) -> Iterator[Finding]:
    """Look for calls that block or that nobody waits for, in the `async def`s of a file's classes.

    `# gatewright: may-block` allows a line to block.

    Args:
        file: a Python file that can be parsed.
    """
    text = file.read_text(encoding="utf-8", errors="replace")
    tree = ast.parse(text)
    lines = text.splitlines()
    names = _imported(tree)
    for item in ast.walk(tree):
        if isinstance(item, ast.ClassDef):
            is_plugin = _is_plugin(item)
            helpers = {each.name: each for each in (*tree.body, *item.body) if isinstance(each, ast.FunctionDef)}
            for method in item.body:
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from check_kinds(file, item.name, method)
                    yield from check_own_awaits(file, tree, item, method)
                    if is_plugin:
                        yield from check_attributes(file, item.name, method)
                        yield from check_answers(file, item.name, method)
                        yield from check_config_fields(file, item, method)
                if isinstance(method, ast.AsyncFunctionDef):
                    yield from check_awaits(file, item.name, method)
                    for call in sorted(_calls_of(method, helpers), key=lambda call: call.lineno):
                        meant = _meant(call.func, names)
                        cure = _BLOCKS.get(meant)
                        if cure is not None and not _ALLOWED.search(lines[call.lineno - 1]):
                            yield problem(
                                f"{file}:{call.lineno}: {item.name}.{method.name} blocks the loop: {meant}() in an "
                                "`async def`: all other requests wait", f"{cure}; or a `def` with `blocking = True`",
                            )  # fmt: skip
                yield from _maybe_handler(item, method, file)


def _maybe_handler(item: ast.ClassDef, method: ast.stmt, file: Path) -> Iterator[Finding]:
    if isinstance(method, ast.ClassDef) and method.name == "config" and _is_plugin(item):
        yield warning(
            f"{file}:{method.lineno}: {item.name}.config is no model of the configuration: nothing looks at it",
            "class Config",
        )
    if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) or not method.name.startswith("on_"):
        return
    if _is_plugin(item) and method.name not in HANDLERS:
        yield warning(
            f"{file}:{method.lineno}: {item.name}.{method.name} is no handler: no gateway calls it",
            f"handlers are {', '.join(HANDLERS)}; call other methods otherwise than on_...",
        )


def _is_plugin(item: ast.ClassDef) -> bool:
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in item.bases]
    return any(isinstance(base, ast.Name) and base.id == "Plugin" for base in bases)


@dataclass(frozen=True, slots=True)
class _Imported:
    """What names of a module stand for."""

    full: dict[str, str]


def _imported(tree: ast.Module) -> _Imported:
    full: dict[str, str] = {}
    for item in ast.walk(tree):
        if isinstance(item, ast.Import):
            for name in item.names:
                full[name.asname or name.name.partition(".")[0]] = (
                    name.name if name.asname else name.name.partition(".")[0]
                )
        elif isinstance(item, ast.ImportFrom) and item.module and not item.level:
            for name in item.names:
                full[name.asname or name.name] = f"{item.module}.{name.name}"
    return _Imported(full)


def _calls_of(method: ast.AsyncFunctionDef, helpers: Mapping[str, ast.FunctionDef]) -> Iterator[ast.Call]:
    """Its calls, and those of the `def`s of the same file or class that it calls, and they call."""
    waiting: list[ast.AsyncFunctionDef | ast.FunctionDef] = [method]
    seen: set[str] = set()
    while waiting:
        for call in _calls(waiting.pop()):
            yield call
            function = call.func
            own = isinstance(function, ast.Attribute) and ast.unparse(function.value) == "self"
            name = (
                function.id
                if isinstance(function, ast.Name)
                else function.attr
                if isinstance(function, ast.Attribute) and own
                else ""
            )
            if name in helpers and name not in seen:
                seen.add(name)
                waiting.append(helpers[name])


def _calls(method: ast.AsyncFunctionDef | ast.FunctionDef) -> Iterator[ast.Call]:
    """Calls that run when the method runs: not those of functions inside it, which may run in a thread."""
    waiting: list[ast.AST] = [*method.body]
    while waiting:
        item = waiting.pop()
        if isinstance(item, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(item, ast.Call):
            yield item
        waiting.extend(ast.iter_child_nodes(item))


def _meant(function: ast.expr, names: _Imported) -> str:
    parts: list[str] = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    if not isinstance(function, ast.Name):
        return ""
    first = names.full.get(function.id, function.id if function.id == "input" else "")
    return ".".join([first, *reversed(parts)]) if first else ""
