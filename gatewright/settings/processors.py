"""How many processors this process may use: its affinity, and what its container's limit comes to."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

__all__ = ["usable_processors"]

_GROUPS: Final = "proc/self/cgroup"
_MOUNTS: Final = "sys/fs/cgroup"


def usable_processors(root: Path = Path("/")) -> int:
    """One at least. A container's limit of 1.5 processors is two: with one worker half a processor would idle.

    Args:
        root: what `/proc` and `/sys` are in.
    """
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(math.ceil(min(own, _limit(root))), 1)


def _limit(root: Path) -> float:
    """The lowest limit of the control groups that this process is in: that of a parent holds, too."""
    try:
        lines = (root / _GROUPS).read_text().splitlines()
    except OSError:  # another system
        return math.inf
    lowest = math.inf
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            lowest = min(lowest, *(_of_version_2(group) for group in _groups(root / _MOUNTS, path)))
        elif "cpu" in controllers.split(","):
            mount = root / _MOUNTS / "cpu"
            if not mount.exists():
                mount = root / _MOUNTS / controllers
            lowest = min(lowest, *(_of_version_1(group) for group in _groups(mount, path)))
    return lowest


def _groups(mount: Path, path: str) -> list[Path]:
    """A group and its parents. In a container the path is the host's, and only the mount's own group can be seen."""
    group = mount / path.lstrip("/")
    return [mount, *(each for each in (group, *group.parents) if mount in each.parents)]


def _of_version_2(group: Path) -> float:
    match _words(group / "cpu.max"):
        case [quota, period]:
            return _share(quota, period)
    return math.inf


def _of_version_1(group: Path) -> float:
    quota, period = _words(group / "cpu.cfs_quota_us"), _words(group / "cpu.cfs_period_us")
    return _share(quota[0], period[0]) if quota and period else math.inf


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _share(quota: str, period: str) -> float:
    """`max` and -1 are none."""
    try:
        limit = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return math.inf
    return limit if limit > 0 else math.inf
