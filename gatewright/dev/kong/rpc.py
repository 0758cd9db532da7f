"""Kong's side of the plugin server protocols, as far as both have it in common: instances and events (plugin.lua)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from gatewright.dev.kong.values import LuaError
from gatewright.dev.trail import current_phase

__all__ = [
    "STARTS_BEFORE_GIVING_UP", "Exit", "Instance", "PdkFunction", "PluginRpc", "RpcError", "again", "note_ticket",
    "running",
]  # fmt: skip

log = logging.getLogger("gatewright.dev")

PdkFunction = Callable[[str, Sequence[Any]], Any]
"""Runs a PDK function by name; raises `Exit` where it ends the request, `LuaError` where Lua would."""

STARTS_BEFORE_GIVING_UP: Final = 5
_PAUSE_SECONDS = 0.05


class RpcError(Exception):
    """A call failed."""


class Exit(Exception):  # noqa: N818 - Kong's word
    """A plugin ends the request with an answer of its own: `kong.response.exit` and `error`."""

    def __init__(self, status: int, body: bytes | None, headers: Mapping[str, Any]) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


@dataclass(slots=True)
class Instance:
    """A plugin's configuration at a plugin server.

    Attributes:
        plugin: the plugin's name.
        config: the configuration, Kong's own keys included.
        id: what the plugin server calls it, once it's started.
    """

    plugin: str
    config: dict[str, Any]
    id: int | None = None
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)


class PluginRpc(Protocol):
    """One plugin's plugin server."""

    async def start_instance(self, plugin: str, config: Mapping[str, Any]) -> int:
        """Start an instance; gives its id.

        Raises:
            RpcError: the plugin server says why not, or is gone.
        """

    async def close_instance(self, instance: int) -> None:
        """Close one."""

    async def handle_event(self, instance: Instance, phase: str, pdk: PdkFunction) -> None:
        """Run a phase.

        Raises:
            Exit: the plugin, or Kong for it, answers the request.
            LuaError: Kong's Lua code would abort.
        """

    def close(self) -> None:
        """Close all connections."""


def note_ticket(number: int) -> None:
    """By what the plugin server knows the event: see `dev.trail`."""
    phase = current_phase()
    if phase is not None:
        phase.expect(phase.plugins[0][0], number)


async def running(rpc: PluginRpc, instance: Instance) -> int:
    """An instance's id; it is started first if need be."""
    async with instance.starting:
        if instance.id is None:
            try:
                instance.id = await rpc.start_instance(instance.plugin, instance.config)
            except RpcError as error:
                raise LuaError(f"starting instance: {error}") from None
        return instance.id


async def again(instance: Instance, error: RpcError, attempt: int) -> None:
    """Kong starts the instance anew and tries again, for as long as it takes."""
    log.warning("%s: %s; the instance is started anew", instance.plugin, error)
    instance.id = None
    if attempt >= STARTS_BEFORE_GIVING_UP:
        log.error("fault: Kong would go on trying without end; the development gateway gives up")
        raise LuaError(f"{instance.plugin}: given up after {attempt} tries: {error}")
    await asyncio.sleep(_PAUSE_SECONDS * attempt)
