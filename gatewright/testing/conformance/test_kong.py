"""What Kong expects of a plugin server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

from gatewright.dev.kong.dialling import new_rpc
from gatewright.dev.kong.rpc import Exit, Instance, PluginRpc, RpcError
from gatewright.dev.kong.values import LuaError
from gatewright.gateways.kong.dump import PROTOCOLS

_SECONDS = 10.0


def _rpc(plugin_server: tuple[str, str]) -> PluginRpc:
    path, protocol = plugin_server
    return new_rpc(PROTOCOLS[protocol], path)


def _pdk(method: str, args: Sequence[Any]) -> None:
    """Kong's side of an event: it ends where the plugin answers."""
    if method in ("kong.response.exit", "kong.response.error"):
        raise Exit(args[0], None, {})


async def _passes(rpc: PluginRpc, instance: Instance) -> bool:
    """Whether a request would go on to the service."""
    try:
        await asyncio.wait_for(rpc.handle_event(instance, "access", _pdk), _SECONDS)
    except (RpcError, LuaError, Exit):
        return False
    return True


def test_a_plugin_that_is_not_there_refuses_the_request(plugin_server: tuple[str, str]) -> None:
    async def ask() -> None:
        rpc = _rpc(plugin_server)
        try:
            assert not await _passes(rpc, Instance(f"no-such-plugin-{secrets.token_hex(4)}", {}))
        finally:
            rpc.close()

    asyncio.run(ask())


def test_it_answers_again_and_others_meanwhile(plugin_server: tuple[str, str]) -> None:
    async def ask() -> None:
        rpcs = [_rpc(plugin_server) for _ in range(4)]
        try:
            for _ in range(3):
                asked = [_passes(rpc, Instance("no-such-plugin", {})) for rpc in rpcs]
                assert not any(await asyncio.gather(*asked))
        finally:
            for rpc in rpcs:
                rpc.close()

    asyncio.run(ask())


def test_an_instance_that_is_not_there_lets_nothing_pass(plugin_server: tuple[str, str]) -> None:
    async def ask() -> None:
        rpc = _rpc(plugin_server)
        try:
            assert not await _passes(rpc, Instance("no-such-plugin", {}, id=2_000_000_001))
        finally:
            rpc.close()

    asyncio.run(ask())
