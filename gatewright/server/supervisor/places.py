"""Seeing that gateways find the sockets: a file that somebody removes would be an outage that nobody notices.

Who cleans a directory for temporary files removes sockets, too, and connections that there are go on all the same. So a
file that is gone is made again. One that is another's is left alone: it may be a successor's, whose gateway has yet to
end this runner.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

import structlog

from gatewright.errors import ListenError
from gatewright.server.host.listener import Listener
from gatewright.server.supervisor.dispatcher import Dispatcher
from gatewright.settings import Settings

__all__ = ["Places"]

_LOOK_SECONDS: Final = 1.0
_LOOKS_BEFORE_TELLING: Final = 3


class Places:
    """Looks whether sockets are where they were put."""

    def __init__(self, dispatcher: Dispatcher, settings: Settings) -> None:
        """Be ready to look.

        Args:
            dispatcher: has the sockets.
            settings: say whose new ones are.
        """
        self._dispatcher = dispatcher
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
        for listener in self._dispatcher.listeners:
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
        self._dispatcher.unreachable = any(looks >= _LOOKS_BEFORE_TELLING for looks in self._taken.values())

    def _renew(self, listener: Listener) -> None:
        self._taken.pop(listener, None)
        try:
            self._dispatcher.renew(listener, self._settings)
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
