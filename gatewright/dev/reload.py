"""Reloading when files change."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

from gatewright.errors import GatewrightError

__all__ = ["watch"]


class _Sources(DefaultFilter):
    """Python files, files that were named themselves, and whatever is in some places."""

    def __init__(self, named: Sequence[Path], whole: Sequence[Path]) -> None:
        super().__init__()
        self._named = {str(path.resolve()) for path in named}
        self._whole = tuple(f"{path.resolve()}/" for path in whole)

    def __call__(self, change: Change, path: str) -> bool:
        if not super().__call__(change, path):
            return False
        return path.endswith(".py") or path in self._named or path.startswith(self._whole)


async def watch(paths: Sequence[Path], reload: Callable[[], Awaitable[str]], *, whole: Sequence[Path] = ()) -> None:
    """Call `reload` whenever something has changed, and tell what came of it.

    Args:
        paths: files, and directories whose Python files matter.
        reload: gives what to tell.
        whole: files, and directories of which everything matters.
    """
    paths = [*paths, *whole]
    files = [path for path in paths if path.is_file()]
    # An editor may put a new file in a file's place: so its directory is watched.
    places = {path.resolve() if path.is_dir() else path.resolve().parent for path in paths if path.exists()}
    only = {str(path.resolve()) for path in files}
    directories = [str(path.resolve()) + "/" for path in paths if path.is_dir()]
    async for changes in awatch(
        *places, watch_filter=_Sources(files, [path for path in whole if path.is_dir()]), debounce=200, step=50
    ):
        changed = sorted({Path(path) for _, path in changes})
        ours = [path for path in changed if str(path) in only or any(str(path).startswith(d) for d in directories)]
        if not ours:
            continue
        print(f"changed: {', '.join(path.name for path in ours)}", flush=True)
        try:
            print(await reload(), flush=True)
        except GatewrightError as error:
            print(f"not reloaded, all stays as it was: {error}", file=sys.stderr, flush=True)
        except Exception:  # a fault of ours: say so, and go on watching
            traceback.print_exc()
            print("not reloaded, all stays as it was", file=sys.stderr, flush=True)
