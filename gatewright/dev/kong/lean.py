"""The lean path's two plugins, as in Kong: `gatewright` and `gatewright-response`.

Whatever fails, the request is refused, and nothing of the service's is shown (lua/gatewright/kong.lua).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gatewright.dev.kong.declarative import PluginEntry
from gatewright.dev.kong.exchange import HeaderList
from gatewright.dev.kong.lean_answers import carry_out, clear_headers, finish, write_back
from gatewright.dev.kong.lean_host import LeanHost, ResponseState, response_of
from gatewright.dev.kong.lean_schema import chain_of
from gatewright.dev.kong.noting import noted_call
from gatewright.dev.kong.pdk import Pdk
from gatewright.dev.kong.rpc import Exit
from gatewright.dev.lean.client import Chain, LeanClient, LeanError
from gatewright.dev.lean.noting import NotingHost, note_operations
from gatewright.dev.lean.operations import OwnAnswer
from gatewright.dev.trail import current_trail

__all__ = ["LeanPlugins"]

log = logging.getLogger("gatewright.dev")

Config = Mapping[str, Any]


class LeanPlugins:
    """What they do in each phase."""

    def __init__(self, client: Callable[[], LeanClient]) -> None:
        """Make them.

        Args:
            client: gives the way to the runner.
        """
        self._client = client

    async def run(self, entry: PluginEntry, config: Config, phase: str, pdk: Pdk) -> None:
        """Run a phase of one of them.

        Args:
            entry: the plugin, as it's configured.
            config: its configuration, with what Kong adds.
            phase: one of its phases.
            pdk: the request's.

        Raises:
            Exit: the request is answered.
            LuaError: Kong's own code would abort.
        """
        match phase:
            case "access":
                await self._request(entry, config, pdk)
                if config.get("early_response"):
                    await self._decide(entry, config, pdk)
            case "response":
                await self._response(entry, config, pdk)
            case "header_filter":
                self._header_filter(entry, pdk)
            case "log":
                await self._log(entry, config, pdk)

    def _chain(self, entry: PluginEntry, config: Config) -> Chain:
        phases = ["request", "log"] if entry.name == "gatewright" else ["response", "log"]
        if config.get("early_response"):
            phases.append("response")
        place = entry.route or entry.service or entry.consumer or "global"
        return self._client().chain(f"{entry.id}#{config['__seq__']}", place, chain_of(config), phases)

    async def _request(self, entry: PluginEntry, config: Config, pdk: Pdk) -> None:
        host, own = LeanHost(pdk), OwnAnswer()
        try:
            with noted_call(pdk.exchange, entry, "request"):
                got = await self._client().call(self._chain(entry, config), "request", NotingHost(host))
                note_operations(got)
                if got is None:
                    return
                carry_out(host, got, own)
        except LeanError as error:
            raise _refusal(entry, error) from None
        if got.stop:
            pdk("kong.response.exit", (own.status, own.body or None))

    async def _decide(self, entry: PluginEntry, config: Config, pdk: Pdk) -> None:
        """Decide what is to be done with an answer that has not come."""
        chain = self._chain(entry, config)
        try:
            if not await self._client().wants(chain, "response"):
                return
            if not chain.is_early:
                raise LeanError("its plugins look at the answer: gatewright-response is for them")
            with noted_call(pdk.exchange, entry, "response"):
                got = await self._client().call(chain, "response", NotingHost(LeanHost(pdk)))
                note_operations(got)
        except LeanError as error:
            raise _refusal(entry, error) from None
        pdk.exchange.lean.early += [got] if got is not None else []

    @staticmethod
    def _header_filter(entry: PluginEntry, pdk: Pdk) -> None:
        """Do what was decided."""
        exchange = pdk.exchange
        decided, exchange.lean.early = exchange.lean.early, []
        try:
            finish(exchange, decided)
        except LeanError as error:
            exchange.response_headers = HeaderList([])
            raise _refusal(entry, error) from None

    async def _response(self, entry: PluginEntry, config: Config, pdk: Pdk) -> None:
        given = response_of(pdk.exchange)
        response = replace(given, headers={name: list(values) for name, values in given.headers.items()})
        host = LeanHost(pdk, response)
        try:
            with noted_call(pdk.exchange, entry, "response", response):
                got = await self._client().call(self._chain(entry, config), "response", NotingHost(host))
                note_operations(got)
                if got is not None:
                    carry_out(host, got, OwnAnswer())
                    write_back(pdk, given, response)
        except LeanError as error:
            clear_headers(pdk, given.headers)
            raise _refusal(entry, error) from None

    async def _log(self, entry: PluginEntry, config: Config, pdk: Pdk) -> None:
        exchange = pdk.exchange
        answer = ResponseState(exchange.status, response_of(exchange).headers)
        try:
            await self._client().log(self._chain(entry, config), LeanHost(pdk, answer))
        except LeanError as error:
            log.error("%s: the log phase is lost: %s", entry.name, error)


def _refusal(entry: PluginEntry, error: LeanError) -> Exit:
    followed = current_trail() is not None  # then it is told in the request's own line
    log.log(logging.DEBUG if followed else logging.ERROR, "%s: request refused: %s", entry.name, error)
    headers = {"Content-Type": ["application/json; charset=utf-8"]}
    return Exit(503, b'{"message":"The service is unavailable"}', headers)
