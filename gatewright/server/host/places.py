"""Seeing that gateways find the sockets: a file that somebody removes would be an outage that nobody notices.

Who cleans a directory for temporary files removes sockets, too, and connections that there are go on all the same. So a
file that is gone is made again, and so is its directory. A file that is another's is left alone: it may be a
successor's, whose gateway has yet to end this runner.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Final, Protocol

import structlog

from gatewright.errors import ListenError
from gatewright.server.host.listener import Listener
from gatewright.settings import Settings

__all__ = ["Listening", "Places"]

_LOOK_SECONDS: Final = 1.0
_LOOKS_BEFORE_TELLING: Final = 3


class Listening(Protocol):
    """Whoever has the sockets.

    Attributes:
        unreachable: somebody else's file is where gateways look for ours.
    """

    unreachable: bool

    @property
    def listeners(self) -> Sequence[Listener]:
        """What connections come from."""

    def renew(self, listener: Listener, settings: Settings) -> None:
        """Listen anew where a listener's file is gone; raises `ListenError`."""


class Places:
    """Looks whether sockets are where they were put."""

    def __init__(self, listening: Listening, settings: Settings) -> None:
        """Be ready to look.

        Args:
            listening: has the sockets.
            settings: say whose new ones are.
        """
        self._listening = listening
        self._settings = settings
        self._log = structlog.get_logger("gatewright.server")
        self._looked = monotonic()
        self._taken: dict[Listener, int] = {}
        self._told: dict[Listener, str] = {}
        self._succeeded: set[Listener] = set()

    def look(self) -> None:
        """Look, if it's time."""
        now = monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        for listener in self._listening.listeners:
            if listener.is_gone:
                self._renew(listener)
            elif listener.is_replaced and listener not in self._succeeded:
                if listener not in self._taken and listener.is_succeeded:
                    self._succeeded.add(listener)
                    continue
                self._taken[listener] = self._taken.get(listener, 0) + 1
                if self._taken[listener] == _LOOKS_BEFORE_TELLING:
                    self._tell(listener, "another file has taken its place: remove that, and it's made again")
            else:
                self._taken.pop(listener, None)
                self._told.pop(listener, None)
        self._listening.unreachable = any(looks >= _LOOKS_BEFORE_TELLING for looks in self._taken.values())

    def _renew(self, listener: Listener) -> None:
        self._taken.pop(listener, None)
        listener.make_directory()
        try:
            self._listening.renew(listener, self._settings)
        except ListenError as error:
            self._taken[listener] = _LOOKS_BEFORE_TELLING
            self._tell(listener, str(error))
            return
        self._told.pop(listener, None)
        self._log.warning("somebody removed the socket's file: it's made again", socket=str(listener.address))

    def _tell(self, listener: Listener, why: str) -> None:
        if self._told.get(listener) != why:
            self._told[listener] = why
            self._log.error("gateways can't connect any more", socket=str(listener.address), why=why)
