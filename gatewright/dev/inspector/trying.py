"""Tries a plugin's configuration on, in a process of its own: `python -m ... FORM PLACE NAME`.

The configuration comes from stdin; what comes of it goes to stdout as JSON: `{"ok": true}`, or under `error` why not.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any, Final

from gatewright.errors import ConfigError
from gatewright.runtime.discovery import discover
from gatewright.runtime.fitting import check_config
from gatewright.runtime.kong_modules import load_directory
from gatewright.runtime.shipped import load_shipped, shipped_names

__all__ = ["try_on"]

_SECONDS: Final = 20.0


async def try_on(source: str, name: str, config: str, *, is_kongs: bool) -> dict[str, Any]:
    """Try a configuration on.

    Args:
        source: where the plugin is.
        name: its name.
        config: the configuration's text.
        is_kongs: it is read as Kong's plugin servers read it, and Kong checks its configuration.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatewright.dev.inspector.trying", "kong" if is_kongs else "native", source, name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(config.encode()), _SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        return {"error": f"the plugin's own code took longer than {_SECONDS:g} s"}
    try:
        result: dict[str, Any] = json.loads(out)
    except ValueError:
        return {"error": err.decode(errors="replace").strip()[-2000:] or "the process ended without a word"}
    return result


def _tried(form: str, source: str, name: str, config: str) -> dict[str, Any]:
    if name in shipped_names() and not Path(source).exists():
        plugin = load_shipped(name)
    else:
        found = load_directory(Path(source)) if form == "kong" else discover([source])
        if name not in found.plugins:
            return {"error": str(found.errors[0]) if found.errors else f"{source} has no plugin {name!r} any more"}
        plugin = found.plugins[name]
    try:
        if form != "kong":  # Kong checks its fields itself
            check_config(plugin, config)
        plugin(config)
    except ConfigError as error:
        return {"error": str(error)}
    except Exception as error:  # the plugin's own code: what it raises is what its author wants to see
        return {"error": f"{type(error).__name__}: {error}"}
    return {"ok": True}


def main() -> None:
    """The command."""
    form, source, name = sys.argv[1:4]
    with contextlib.redirect_stdout(io.StringIO()):  # plugins may print
        result = _tried(form, source, name, sys.stdin.read())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
