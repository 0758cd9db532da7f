"""What `gatewright dev` is told, whichever gateway it behaves as."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gatewright.dev.inspector.session import NO_INSPECTION, InspectOptions

__all__ = ["DevOptions"]


@dataclass(frozen=True, slots=True)
class DevOptions:
    """What is wanted.

    Attributes:
        paths: where the plugins are.
        upstream: URL that requests go to; by default a built-in echo, or where the routes say.
        host: address to listen on.
        port: port to listen on; 0 for any free one.
        inspect: whether requests are followed.
        log_level: of what plugins log.
        watched: further places whose changes make it reload.
        confs: configurations, as JSON text, by plugin, for the route that is made up where there are none.
        debug: all in this process, without deadlines.
        connect: the address of a runner that runs already, instead of one for `paths`.
        explain: the answer to a call that plugins failed tells why.
        admin: there is an Admin API.
        admin_key: what APISIX's wants to see as X-API-KEY.
        admin_port: where it listens besides; `None` for the gateway's usual one, or any that is free.
        announce: told what there is as one line of JSON, instead of people.
    """

    paths: Sequence[Path]
    upstream: str | None = None
    host: str = "127.0.0.1"
    port: int = 9080
    inspect: InspectOptions = NO_INSPECTION
    log_level: str = "info"
    watched: Sequence[Path] = ()
    confs: Mapping[str, str] = field(default_factory=dict)
    debug: bool = False
    connect: str = ""
    explain: bool = True
    admin: bool = False
    admin_key: str = ""
    admin_port: int | None = None
    announce: Callable[[str], None] | None = None
