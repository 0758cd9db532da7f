"""Telling systemd how we are: sd_notify(3), a datagram to the socket named in the environment."""

from __future__ import annotations

import os
import socket
import time

import structlog

__all__ = ["Notifier"]


class Notifier:
    """Talks to systemd, if it started us with `Type=notify`; otherwise does nothing."""

    def __init__(self) -> None:
        self._path = os.environ.pop("NOTIFY_SOCKET", "")
        usec = os.environ.pop("WATCHDOG_USEC", "")
        for_us = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds = int(usec) / 1e6 if usec.isdecimal() and for_us else 0.0
        """systemd wants to hear from us within this time; 0 for never."""

    def ready(self, status: str) -> None:
        """We serve."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """We are about to end."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """For `WatchdogSec=`."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._path:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            structlog.get_logger("gatewright.server").warning("systemd can't be told how we are", error=str(error))
