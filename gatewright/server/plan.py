"""All that is needed to run workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gatewright.runtime.confs import token_of
from gatewright.runtime.discovery import Discovery
from gatewright.server.connection import connection_factory
from gatewright.server.listener import BACKLOG
from gatewright.server.service import Service
from gatewright.settings import Address, Settings

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        settings: the effective settings.
        discover: finds the plugins; called in each worker, so that a new worker has new code.
        new_session: makes the protocol state of a new connection.
        hash_token: digest of a configuration and attempt to its token.
        driver: makes, for a service, what makes the drivers of connections; APISIX's unless said otherwise.
        last_words: gives what to write on a connection whose worker died, from the first bytes (31 at most) of the
            request that it owed an answer to; `None`: the connection is just closed.
        goes_on: after its last words a connection can be used further.
        use_gevent: handlers run in greenlets of gevent's.
        backlog: connections that may wait to be accepted.
        socket_of: gives the address of a plugin's own socket, besides the one that all share; `None`: there are none.
    """

    settings: Settings
    discover: Callable[[], Discovery]
    new_session: Callable[[], Any]
    driver: Callable[[Service], Callable[[], asyncio.Protocol]] = connection_factory
    hash_token: Callable[[bytes, int], int] = token_of
    last_words: Callable[[bytes], bytes] | None = None
    goes_on: bool = False
    use_gevent: bool = False
    backlog: int = BACKLOG
    socket_of: Callable[[str], Address] | None = None
