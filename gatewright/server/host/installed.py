"""Whether what is installed is still what runs.

An upgrade puts another version in the place of the one that a process has loaded. What is forked from that process has
the code of before, but loads the plugins that come along, and all that plugins import, from the files that are there
now: parts of two versions, which may not fit together.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from gatewright import _version
from gatewright._version import __version__
from gatewright.errors import GatewrightError

__all__ = ["check_installed"]

_SAID: Final = re.compile(r'^__version__ = "(.*)"$', re.MULTILINE)


def check_installed() -> None:
    """See that the files of this version are there.

    Raises:
        GatewrightError: they are another version's, or gone; the message says what to do.
    """
    try:
        found = _SAID.search(Path(_version.__file__).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GatewrightError(
            f"the files of the gatewright {__version__} that runs are gone: install it again, and restart the runner"
        ) from None
    except OSError:  # it runs from an archive, which nobody changes underneath it
        return
    there = found[1] if found is not None else "another version"
    if there != __version__:
        raise GatewrightError(
            f"gatewright {there} was installed in the place of the {__version__} that runs: restart the runner, "
            "a reload would have parts of both"
        )
