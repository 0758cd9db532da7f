"""Finding plugins: in directories, files, modules and installed distributions.

A file that can't be loaded doesn't keep the others from being loaded: it becomes a `DiscoveryError` that names the
file, the line and the cause, and routes that use its plugin are refused.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from gatewright.errors import DiscoveryError, tangible, text_of
from gatewright.plugin import Plugin

__all__ = [
    "ADAPTER_HOOK",
    "ENTRY_POINT_GROUP",
    "Discovery",
    "Found",
    "as_plugins",
    "discover",
    "import_failure",
    "let_neighbours_import",
    "load_file",
    "loading",
    "plugins_of_module",
]

ENTRY_POINT_GROUP = "gatewright.plugins"
"""Distributions announce plugins under this entry point group: a `Plugin` class, or a module holding some."""

ADAPTER_HOOK = "__gatewright_plugin__"
"""A class that is not a `Plugin` but has a classmethod of this name is asked for the `Plugin` classes it stands for."""


@dataclass(frozen=True, slots=True)
class Found:
    """A plugin and where it came from."""

    plugin: type[Plugin]
    source: str
    version: str = ""


@dataclass(slots=True)
class Discovery:
    """The plugins found, by name, and what could not be loaded."""

    found: dict[str, Found] = field(default_factory=dict)
    errors: list[DiscoveryError] = field(default_factory=list)

    @property
    def plugins(self) -> dict[str, type[Plugin]]:
        """The plugin classes by name."""
        return {name: found.plugin for name, found in self.found.items()}

    def add(self, plugin: type[Plugin], source: str) -> None:
        """Take a plugin in; a second one of the same name is an error and the first stays."""
        present = self.found.get(plugin.name)
        if present is None:
            self.found[plugin.name] = Found(plugin, source, version_of(plugin))
        elif present.plugin is not plugin:
            self.errors.append(
                DiscoveryError(
                    f"two plugins are called {plugin.name!r}: {present.source} (used) and {source} (ignored); "
                    "rename one (class attribute `name`)"
                )
            )


def discover(sources: Iterable[str | Path], *, installed: bool = False) -> Discovery:
    """Find all plugins in the given places.

    Args:
        sources: directories (every `*.py` file and package in them that doesn't start with `_` or `.`), files,
            or dotted module names.
        installed: also look at the entry points of installed distributions.
    """
    discovery = Discovery()
    with _no_bytecode():
        for source in sources:
            try:
                _discover_source(source, discovery)
            except DiscoveryError as error:
                discovery.errors.append(error)
        if installed:
            _discover_installed(discovery)
    return discovery


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Leave no `__pycache__` of plugins: stale ones are known by second and size only, and files may change faster."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


class _SourceLoader(SourceFileLoader):
    """Compiles a file anew, whatever `__pycache__` holds."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def version_of(plugin: type[Plugin]) -> str:
    """A plugin's version: its attribute `version`, or its module's `__version__`; empty where neither is there."""
    module = sys.modules.get(plugin.__module__)
    return str(getattr(plugin, "version", "") or getattr(module, "__version__", ""))


def plugins_of_module(module: ModuleType) -> list[type[Plugin]]:
    """The plugins that a module defines itself, in order of definition; imported ones don't count."""
    plugins: list[type[Plugin]] = []
    for value in vars(module).values():
        if not isinstance(value, type) or value.__module__ != module.__name__:
            continue
        plugins.extend(plugin for plugin in as_plugins(value) if plugin not in plugins)
    return plugins


def as_plugins(value: type[Any]) -> Sequence[type[Plugin]]:
    """The plugin classes that a class is, or stands for."""
    if issubclass(value, Plugin):
        return () if value.abstract else (value,)
    adapter = getattr(value, ADAPTER_HOOK, None)
    return () if adapter is None else adapter()


def _discover_source(source: str | Path, discovery: Discovery) -> None:
    path = Path(source)
    if path.is_dir():
        for file in sorted(_plugin_files(path)):
            try:
                _discover_file(file, discovery, path)
            except DiscoveryError as error:
                discovery.errors.append(error)
    elif path.is_file():
        _discover_file(path, discovery, path.parent)
    elif isinstance(source, str) and all(part.isidentifier() for part in source.split(".")):
        try:
            module = importlib.import_module(source)
        except ModuleNotFoundError as error:
            if error.name is not None and (source == error.name or source.startswith(error.name + ".")):
                raise DiscoveryError(f"{source}: no such directory, file or module") from None
            raise import_failure(source, error) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise import_failure(source, error) from error
        with loading(source):
            _take_module(module, getattr(module, "__file__", None) or source, discovery)
    else:
        raise DiscoveryError(f"{source}: no such directory or file")


def _plugin_files(directory: Path) -> Iterable[Path]:
    for entry in directory.iterdir():
        if entry.name.startswith(("_", ".")):
            continue
        if entry.is_file() and entry.suffix == ".py":
            yield entry
        elif entry.is_dir() and (entry / "__init__.py").is_file():
            yield entry / "__init__.py"


def _discover_file(file: Path, discovery: Discovery, directory: Path) -> None:
    let_neighbours_import(directory)
    with loading(str(file)):
        _take_module(load_file(file.resolve()), str(file), discovery)


def let_neighbours_import(directory: Path) -> None:
    """Let the files of a directory import each other, without hiding an installed module of the same name."""
    if (place := str(directory.resolve())) not in sys.path:
        sys.path.append(place)


@contextmanager
def loading(source: str) -> Iterator[None]:
    """Turn whatever importing raises into a `DiscoveryError`, but for the interrupt of whoever sits before it.

    What test frameworks skip a module with is no `Exception`; nor is what `sys.exit` raises.
    """
    try:
        yield
    except (DiscoveryError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise import_failure(source, error) from error


def load_file(file: Path) -> ModuleType:
    """Import a file, or the package that an `__init__.py` makes."""
    dotted = _dotted_name(file)
    if dotted is not None:
        return importlib.import_module(dotted)
    name = _name_for(file)
    if name in sys.modules:
        return sys.modules[name]
    locations = [str(file.parent)] if file.name == "__init__.py" else None
    loader = _SourceLoader(name, str(file))
    spec = importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=locations)
    if spec is None or spec.loader is None:
        raise ImportError(f"not a Python file: {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and msgspec look annotations up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _name_for(file: Path) -> str:
    """Under which a file is imported.

    By its own name, where who imports that gets this very file: then it's the same module for its neighbours, and a
    process that a plugin spawns finds what it is sent. The same name may occur in two directories, though, or be a
    library's; then the path is part of it.
    """
    stem = file.parent.name if file.name == "__init__.py" else file.stem
    if "." not in stem and _is_found_as(stem, file):
        return stem
    return f"gatewright_plugin_{hashlib.blake2b(str(file).encode(), digest_size=4).hexdigest()}_{stem}"


def _is_found_as(name: str, file: Path) -> bool:
    present = sys.modules.get(name)
    if present is not None:
        origin = getattr(present, "__file__", None)
    else:
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec is not None else None
    return origin is not None and Path(origin).resolve() == file


def _dotted_name(file: Path) -> str | None:
    """The importable name of a file inside a package, so that it's the same module for whoever imports it."""
    parts = [] if file.name == "__init__.py" else [file.stem]
    directory = file.parent
    while (directory / "__init__.py").is_file():
        parts.append(directory.name)
        directory = directory.parent
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        return None
    name = ".".join(reversed(parts))
    top = sys.modules.get(parts[-1])
    if top is None:
        spec = importlib.util.find_spec(parts[-1])
        origin = spec.origin if spec is not None else None
    else:
        origin = getattr(top, "__file__", None)
    if origin is None or Path(origin).resolve().parent != directory / parts[-1]:
        return None
    return name


def _take_module(module: ModuleType, source: str, discovery: Discovery) -> None:
    for plugin in plugins_of_module(module):
        discovery.add(plugin, source)


def _discover_installed(discovery: Discovery) -> None:
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        source = f"entry point {entry_point.name} = {entry_point.value}"
        try:
            with loading(source):
                _take_loaded(entry_point.load(), source, discovery)
        except DiscoveryError as error:
            discovery.errors.append(error)


def _take_loaded(loaded: Any, source: str, discovery: Discovery) -> None:
    if isinstance(loaded, ModuleType):
        _take_module(loaded, source, discovery)
        return
    plugins = as_plugins(loaded) if isinstance(loaded, type) else ()
    if not plugins:
        raise DiscoveryError(f"{source}: neither a Plugin class nor a module")
    for plugin in plugins:
        discovery.add(plugin, source)


def import_failure(source: str, error: BaseException) -> DiscoveryError:
    """What went wrong, with the author's own file and line."""
    error = tangible(error)
    place = source
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
    else:
        # The innermost line of the author's own files, not of the import machinery or a library.
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_authors(frame.filename, source)]
        if frames:
            place = f"{frames[-1].filename}:{frames[-1].lineno}"
    message = error.msg if isinstance(error, SyntaxError) else text_of(error)
    return DiscoveryError(f"{place}: {type(error).__name__}: {message}")


def _is_authors(filename: str, source: str) -> bool:
    path = Path(source)
    if not path.exists():
        return "importlib" not in filename and not filename.startswith("<") and filename != __file__
    return Path(filename).is_absolute() and Path(filename).is_relative_to(path.resolve().parent)
