"""APISIX's own configuration: does it start or find the runner, and does it use the plugins."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from gatewright.doctor.findings import Finding, good, note, problem, warning
from gatewright.doctor.lean import uses_lean
from gatewright.doctor.routes import EXT_PLUGINS
from gatewright.settings import Settings, parse_address

__all__ = [
    "check_apisix_config",
    "check_timeouts",
    "check_version",
    "installed_version",
    "places_of_plugins",
    "starts_runner",
]

_VERSION_FILES = (Path("/usr/local/apisix/apisix/core/version.lua"), Path("/usr/share/lua/5.1/apisix/core/version.lua"))
_RPC_SECONDS = 60.0


def check_apisix_config(file: Path, settings: Settings) -> Iterator[Finding]:
    """Look at a `config.yaml`.

    Args:
        file: the gateway's configuration.
        settings: the runner's.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        yield problem(f"{file}: {error.strerror}", "name the gateway's config.yaml")
        return
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        yield problem(f"{file} is not valid YAML: {error}", "mend it: APISIX would not start with it")
        return
    if not isinstance(content, Mapping):
        yield problem(f"{file} holds no settings", "name the gateway's config.yaml")
        return
    ext = content.get("ext-plugin")
    if ext is None and "ext_plugin" in content:
        yield problem(f"{file}: the section is called ext-plugin, not ext_plugin", "rename it; APISIX ignores it")
        return
    if not isinstance(ext, Mapping) or not ext.keys() & {"cmd", "path_for_test"}:
        if uses_lean(content):
            return
        yield problem(
            f"{file} has no ext-plugin section: APISIX neither starts a runner nor knows the socket of one",
            "ext-plugin: {cmd: [/opt/venv/bin/gatewright, run]}, or {path_for_test: /run/gatewright/runner.sock}",
        )
        return
    yield from _check_ext_plugin(file, ext, settings)
    yield from _check_plugin_list(file, content)


def starts_runner(file: Path) -> bool:
    """Whether a `config.yaml` lets APISIX start the runner."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return False  # `check_apisix_config` says so
    ext = content.get("ext-plugin") if isinstance(content, Mapping) else None
    return isinstance(ext, Mapping) and bool(ext.get("cmd"))


def places_of_plugins(file: Path) -> list[str]:
    """Where the runner that a `config.yaml` starts looks for plugins, as far as its command says."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return []  # `check_apisix_config` says so
    ext = content.get("ext-plugin") if isinstance(content, Mapping) else None
    cmd = ext.get("cmd") if isinstance(ext, Mapping) else None
    places: list[str] = []
    words = [str(word) for word in cmd] if isinstance(cmd, list) else []
    for word, following in pairwise([*words, ""]):
        if word in ("--plugins", "-p"):
            places.append(following)
        elif word.startswith("--plugins="):
            places.append(word.partition("=")[2])
        elif Path(word).parts[-2:] == ("apisix", "main.py"):  # as Apache's runner 0.1.0 is started
            places += [str(Path(word).parent / name) for name in ("plugins", "plugin")]
    return [place for place in places if Path(place).exists()]


def _check_ext_plugin(file: Path, ext: Mapping[str, Any], settings: Settings) -> Iterator[Finding]:
    cmd, path = ext.get("cmd"), ext.get("path_for_test")
    if cmd and path:
        yield warning(
            f"{file}: both ext-plugin.cmd and path_for_test: APISIX starts a runner that listens at {path}",
            "keep cmd to let APISIX start the runner, or path_for_test to run it yourself",
        )
    if cmd:
        yield from _check_cmd(file, cmd)
        return
    wanted = str(path).removeprefix("unix:")
    ours = parse_address(settings.listen).path
    if wanted == ours:
        yield good(f"{file}: APISIX dials {wanted}, where the runner listens")
    else:
        yield problem(
            f"{file}: APISIX dials {wanted}, the runner is set to listen at {settings.listen}",
            f"start the runner with --listen unix:{wanted}",
        )
    if str(path).startswith("unix:"):
        yield problem(f"{file}: path_for_test is a path, without unix:", f"path_for_test: {wanted}")
    elif not wanted.startswith("/"):
        yield warning(f"{file}: path_for_test {wanted} is relative to where APISIX runs", "write the whole path")


def _check_cmd(file: Path, cmd: Any) -> Iterator[Finding]:
    if not isinstance(cmd, list) or not cmd or not all(isinstance(part, str) for part in cmd):
        yield problem(
            f"{file}: ext-plugin.cmd is a list of words, not {cmd!r}", 'cmd: ["/opt/venv/bin/gatewright", "run"]'
        )
        return
    program = cmd[0]
    found = shutil.which(program)
    if found is None:
        yield problem(
            f"{file}: ext-plugin.cmd: there is no program {program!r} here",
            "write the whole path, as the machine or container sees it that APISIX runs in",
        )
    else:
        yield good(f"{file}: APISIX starts {found}")
    for part in cmd[1:]:
        if part.endswith(".py") and not Path(part).exists():
            yield problem(f"{file}: ext-plugin.cmd: there is no file {part}", "write the whole path")
    if "--listen" in cmd:
        yield warning(
            f"{file}: ext-plugin.cmd sets --listen, but APISIX dials the address that it passes itself",
            "leave --listen out",
        )


def _check_plugin_list(file: Path, content: Mapping[str, Any]) -> Iterator[Finding]:
    plugins = content.get("plugins")
    if plugins is None:
        return
    missing = [name for name in EXT_PLUGINS if name not in (plugins or [])]
    if missing:
        yield problem(
            f"{file}: the list `plugins` replaces APISIX's own and lacks {', '.join(missing)}",
            "add them: a route that names a plugin which is not listed is refused",
        )
    else:
        yield good(f"{file}: the ext-plugins are enabled")


def installed_version() -> str:
    """The version of the APISIX installed here; empty if there is none."""
    for file in _VERSION_FILES:
        try:
            found = re.search(r'VERSION\s*=\s*"([^"]+)"', file.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
        if found:
            return found[1]
    return ""


def check_version(version: str) -> Iterator[Finding]:
    """Look whether a gateway's version can do what plugins want."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if found is None:
        yield note(f"{version!r} is no version", "--gateway-version 3.9.1")
        return
    number = int(found[1]), int(found[2]), int(found[3] or 0)
    if number < (2, 7, 0):
        yield problem(f"APISIX {version} has no plugin runners", "update to 2.7 or later; 3.x is what is tested")
    elif number < (3, 0, 0):
        yield warning(
            f"APISIX {version} has no ext-plugin-post-resp: on_response is never called",
            "update to 3.0 or later",
        )
    else:
        yield good(f"APISIX {version} runs plugins in both phases")


def check_timeouts(settings: Settings) -> Iterator[Finding]:
    """Look whether the runner gives up before the gateway does."""
    slow = {name: own.timeout for name, own in settings.plugin_settings.items() if own.timeout}
    for name, seconds in {"timeout": settings.timeout, **{f"timeout of {n}": t for n, t in slow.items()}}.items():
        if seconds >= _RPC_SECONDS:
            yield warning(
                f"{name} is {seconds:g} s, but APISIX waits for {_RPC_SECONDS:g} s only, then answers 503",
                "set it below 60",
            )
    if settings.conf_expire < 3600 and "APISIX_CONF_EXPIRE_TIME" not in os.environ:
        yield warning(
            f"conf_expire is {settings.conf_expire:g} s, but APISIX keeps tokens for 3600 s and more",
            "leave it at 3600: otherwise every route is prepared anew now and then",
        )
