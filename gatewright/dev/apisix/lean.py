"""The lean path's three plugins, as in APISIX: `gatewright`, `gatewright-after` and `gatewright-response`.

Whatever fails, the request is refused, and nothing of the upstream's is shown (lua/gatewright/apisix.lua).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.exits import printed
from gatewright.dev.apisix.lean_answers import carry_out, finish
from gatewright.dev.apisix.lean_host import BrokenBodyError, LeanHost, ResponseState, ended_facts, headers_of
from gatewright.dev.apisix.lean_noting import note_came
from gatewright.dev.apisix.noting import note_failure, noted_phase
from gatewright.dev.apisix.proxying import forwarded_headers
from gatewright.dev.apisix.route import PluginConf
from gatewright.dev.apisix.routes import LEAN_PLUGINS
from gatewright.dev.lean.client import Chain, LeanClient, LeanError
from gatewright.dev.lean.noting import NotingHost, note_operations
from gatewright.dev.lean.operations import OwnAnswer
from gatewright.dev.messages import Answer
from gatewright.dev.target import Upstream
from gatewright.dev.trail import current_trail
from gatewright.dev.upstream import Sender, UpstreamError

__all__ = ["LeanPlugins"]

log = logging.getLogger("gatewright.dev")

_PHASES: Final = {
    "gatewright": ("request", "log"),
    "gatewright-after": ("request", "log"),
    "gatewright-response": ("response", "log"),
}
Consumers = Mapping[str, Mapping[str, Any]]


class LeanPlugins:
    """What they do."""

    def __init__(self, client: LeanClient, upstream_timeout: float, send: Sender) -> None:
        """Make them.

        Args:
            client: the way to the runner.
            upstream_timeout: seconds for which an upstream may be silent.
            send: sends requests to the upstream.
        """
        self._client = client
        self._upstream_timeout = upstream_timeout
        self._send = send

    def _chain(self, name: str, plugin: PluginConf) -> Chain:
        place = "#".join(plugin.key.split("#")[:2])
        return self._client.chain(plugin.key, place, plugin.entries or (), _PHASES[name])

    async def request_phase(
        self, exchange: Exchange, name: str, plugin: PluginConf, consumers: Consumers
    ) -> Answer | None:
        """Ask the runner about a request; gives an answer if there is one already."""
        with noted_phase(exchange, plugin, "request"):
            note_came(exchange)
            host, own = LeanHost(exchange), OwnAnswer()
            try:
                got = await self._client.call(self._chain(name, plugin), "request", NotingHost(host))
                note_operations(got)
                if got is None:
                    return None
                await carry_out(host, got, consumers, own)
            except LeanError as error:
                return _refused(exchange, name, error)
            except BrokenBodyError:
                return Answer(400, exchange.response_headers, page=True)
        if not got.stop or own.status is None:
            return None
        if own.body:
            exchange.tell_to_go_on()
        answer = Answer(
            own.status, exchange.response_headers, own.body or None, framing="stop",
            page=own.status >= 300 and not own.body,
        )  # fmt: skip
        printed(exchange, answer)
        return answer

    async def response_phase(
        self, exchange: Exchange, plugin: PluginConf, upstream: Upstream, consumers: Consumers
    ) -> Answer | None:
        """Decide now what is to be done with the upstream's answer, or ask for it and let plugins see it."""
        name = "gatewright-response"
        chain = self._chain(name, plugin)
        try:
            if not await self._client.wants(chain, "response"):
                return None
            if chain.is_early:
                with noted_phase(exchange, plugin, "response"):
                    got = await self._client.call(chain, "response", NotingHost(LeanHost(exchange)))
                    note_operations(got)
                exchange.lean.early += [got] if got is not None else []
                return None
        except LeanError as error:
            return _refused(exchange, name, error)
        return await self._with_answer(exchange, chain, plugin, upstream, consumers)

    async def _with_answer(
        self, exchange: Exchange, chain: Chain, plugin: PluginConf, upstream: Upstream, consumers: Consumers
    ) -> Answer | None:
        name = "gatewright-response"
        if exchange.request.framing == "h2" and not exchange.behaviour.reads_unsized_bodies:
            error = LeanError("a body under HTTP/2 without a content-length can't be read")
            return _refused(exchange, name, error, 411)
        await exchange.read_body()
        exchange.body_read = True
        if exchange.request.body_is_broken:
            return Answer(400, page=True)
        try:
            got = await self._send(
                upstream.host, upstream.port, tls=upstream.scheme == "https", method=exchange.method,
                target=exchange.proxy_target(), headers=forwarded_headers(exchange), body=exchange.body,
                timeout=self._upstream_timeout, lua=True,
            )  # fmt: skip
        except UpstreamError as error:
            log.error("%s: answer refused: %s", name, error)
            return Answer(502, exchange.response_headers, page=True)
        exchange.upstream_facts["upstream_status"] = str(got.status)
        exchange.balancer = upstream.host, upstream.port
        response = ResponseState(got.status, headers_of(got.headers), got)
        host = LeanHost(exchange, response)
        try:
            with noted_phase(exchange, plugin, "response"):
                note_came(exchange, response)
                try:
                    answer = await self._client.call(chain, "response", NotingHost(host))
                    note_operations(answer)
                    if answer is not None:
                        await carry_out(host, answer, consumers, OwnAnswer())
                except LeanError as error:
                    return _refused(exchange, name, error)
            if await response.read() is None:
                return _refused(exchange, name, LeanError("the upstream's answer broke off"), 502)
        finally:
            if got.close is not None:
                await got.close()
        return _sent(exchange, response)

    @staticmethod
    def finish(exchange: Exchange, answer: Answer) -> Answer:
        """Do what was decided before the upstream was asked."""
        if not exchange.lean.early:
            return answer
        try:
            return finish(answer, exchange.lean.early)
        except LeanError as error:
            log.error("gatewright-response: answer refused: %s", error)
            return Answer(0)

    async def log(self, exchange: Exchange, plugins: Mapping[str, PluginConf], answer: Answer) -> None:
        """Tell the runner how the request ended."""
        named = {name: plugin for name, plugin in plugins.items() if name in LEAN_PLUGINS}
        if not named:
            return
        exchange.lean.ended = ended_facts(exchange.began, answer, exchange)
        host = LeanHost(exchange, ResponseState(answer.status, headers_of(answer.headers)))
        for name, plugin in named.items():
            try:
                await self._client.log(self._chain(name, plugin), host)
            except LeanError as error:
                log.error("%s: the log phase is lost: %s", name, error)


def _refused(exchange: Exchange, name: str, error: LeanError, status: int = 503) -> Answer:
    followed = current_trail() is not None  # then it is told in the request's own line
    log.log(logging.DEBUG if followed else logging.ERROR, "%s: request refused: %s", name, error)
    note_failure(error)
    return Answer(status, exchange.response_headers, page=True)


def _sent(exchange: Exchange, response: ResponseState) -> Answer:
    """The answer as Lua prints it."""
    status, headers, body = response.status, response.headers, response.body or b""
    is_head = exchange.method == "HEAD"
    if (response.changed and not is_head) or status == 204:
        headers.pop("content-length", None)
    if not is_head and status not in (204, 304) and (response.changed or "content-length" in headers):
        headers["content-length"] = [str(len(body))]
    entries = [(name, value) for name, values in headers.items() for value in values]
    exchange.add_response_headers(entries, frozenset())
    return Answer(status, exchange.response_headers, body)
