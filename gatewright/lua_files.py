"""Where the Lua files of the lean path are: in the package, or, in a checkout, beside it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["copy_lua_files", "lua_directory", "lua_files"]


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


def lua_files() -> list[Path]:
    """All of them, as paths below `lua_directory`."""
    directory = lua_directory()
    return sorted(file.relative_to(directory) for file in directory.rglob("*.lua"))


def copy_lua_files(target: Path) -> list[Path]:
    """Copy all files into a directory that the gateway's workers can read; gives what was copied.

    Each is written beside the old one and put in its place, so a gateway that starts meanwhile reads none in part.

    Raises:
        OSError: that's not possible.
    """
    files = lua_files()
    for name in files:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write((lua_directory() / name).read_bytes())
            Path(beside).chmod(0o644)
            Path(beside).replace(place)
        except OSError:
            Path(beside).unlink(missing_ok=True)
            raise
    return files
