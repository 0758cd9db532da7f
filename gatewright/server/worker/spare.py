"""A descriptor kept back for handing a connection over, which takes one, when a plugin has used all others up."""

from __future__ import annotations

import os
import socket
from typing import Final

__all__ = ["SpareDescriptor"]

_Socket: Final = socket.socket  # plugins put other classes in its place


class SpareDescriptor:
    """One descriptor that is taken for something else, and replaced by the next one that is no longer needed."""

    def __init__(self) -> None:
        """Take it."""
        self._fd: int | None = None
        try:
            self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # there is none: the first that is given up will be it

    def duplicate(self, sock: socket.socket) -> socket.socket:
        """A socket's duplicate, for which the spare one is given up if no other is left.

        Raises:
            OSError: that is gone, too.
        """
        try:
            return _Socket(fileno=os.dup(sock.fileno()))
        except OSError:
            if self._fd is None:
                raise
            self.give_up()
            return _Socket(fileno=os.dup(sock.fileno()))

    def give_up(self) -> None:
        """Close it."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def close(self, sock: socket.socket, *, instead: int) -> None:
        """Close a socket; where the spare descriptor was given up, its own becomes that, without ever being free.

        Args:
            sock: what is no longer needed.
            instead: a descriptor of something that stays open anyway.
        """
        if self._fd is None:
            fd = sock.detach()
            try:
                os.dup2(instead, fd, inheritable=False)
            except OSError:  # a plugin has lowered the limit
                os.close(fd)
            else:
                self._fd = fd
        else:
            sock.close()
