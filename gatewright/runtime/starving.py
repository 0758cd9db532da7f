"""Whether a thread was late because it waited for a processor, which is no fault of what it ran.

On a machine with more to do than processors, or in a container that has used its share up, a handler of a microsecond
may take half a second. Linux tells how long a thread has stood in line (`/proc/thread-self/schedstat`: nanoseconds it
ran, nanoseconds it waited to run, turns).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["Starving"]

_TOLD: Final = Path("/proc/thread-self/schedstat")


class Starving:
    """How long one thread has waited for a processor of late; to be called in that thread."""

    def __init__(self) -> None:
        self._seen = 0.0

    def look(self) -> None:
        """Begin to count anew."""
        self._seen = _waited()

    def since_look(self) -> float:
        """Seconds since then; 0 where nobody tells."""
        return max(_waited() - self._seen, 0.0)


def _waited() -> float:
    try:
        return int(_TOLD.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):  # another system, or no descriptor is free
        return 0.0
