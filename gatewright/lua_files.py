"""Where the Lua files of the lean path are: in the package, or, in a checkout, beside it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["lua_directory"]


def lua_directory() -> Path:
    """The directory that belongs into `lua_package_path`.

    Raises:
        FileNotFoundError: the files are neither in the package nor beside it.
    """
    here = Path(__file__).parent
    for directory in (here / "lua", here.parent / "lua"):
        if (directory / "gatewright" / "wire.lua").is_file():
            return directory
    raise FileNotFoundError(f"gatewright's Lua files are neither in {here / 'lua'} nor in {here.parent / 'lua'}")
