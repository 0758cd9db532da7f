"""What differs between versions of APISIX, and how to tell.

    version   headers handed over   a new path                  HTTP/2 body without content-length
    -------   -------------------   -------------------------   ----------------------------------
    .. 3.9    all                   drops the query             not read
    3.10 ..   100 at most           drops the query             not read
    3.16 ..   100 at most           keeps the query as it is    not read
    3.17 ..   100 at most           keeps the query as it is    read

(ext-plugin/init.lua and core/request.lua at these tags. Arguments are never cut.) Unless it is set, the version is told
by a variable that nginx.conf defines from 3.17 on: asked for once a connection, and only where something depends on it.
So 3.16 is taken for 3.15 unless it is set.
"""

from __future__ import annotations

import re
from typing import Final

from gatewright.errors import ConfigError
from gatewright.gateways.apisix.calls import CutHttpReqCall, HttpReqCall, WholeHttpReqCall
from gatewright.http import Question, Recipe

__all__ = ["Version"]

_PROBE: Final = Question("var", "rate_limiting_info")


class Version:
    """What is known of one gateway's version."""

    __slots__ = ("_number", "_probed")

    def __init__(self, text: str = "auto") -> None:
        """Begin with what is set.

        Args:
            text: `3.9`, `3.16.0` and the like, or `auto`.

        Raises:
            ConfigError: it's neither.
        """
        found = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)?", text)
        if found is None and text != "auto":
            raise ConfigError(f"apisix_version is a version such as 3.9, or auto, not {text!r}")
        self._number = (int(found[1]), int(found[2])) if found is not None else None
        self._probed: bool | None = None

    @property
    def request_class(self) -> type[HttpReqCall]:
        """What reads its requests."""
        if self._number is None:
            return HttpReqCall
        return CutHttpReqCall if self._number >= (3, 10) else WholeHttpReqCall

    def keeps_query(self) -> Recipe[bool]:
        """Whether a new path alone keeps the query."""
        return self._is_from((3, 16))

    def reads_unsized_bodies(self) -> Recipe[bool]:
        """Whether the body of an HTTP/2 request without content-length is read."""
        return self._is_from((3, 17))

    def _is_from(self, number: tuple[int, int]) -> Recipe[bool]:
        if self._number is not None:
            return self._number >= number
        if self._probed is None:
            self._probed = (yield _PROBE) is not None
        return self._probed
