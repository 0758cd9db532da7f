"""The three ext-plugin plugins: a request or a response is shown to the runner, and done is what it says.

Where APISIX has a fault, the fault is shown as a warning that names it, with the cure.
"""

from __future__ import annotations

import logging

from gatewright.dev.apisix import lua_replies
from gatewright.dev.apisix.exchange import Exchange, LuaError
from gatewright.dev.apisix.exits import CLOSES, closing, exited, in_own_words, printed
from gatewright.dev.apisix.graphql_requests import reads_body
from gatewright.dev.apisix.lengths import cut_or_awaited
from gatewright.dev.apisix.noting import asking, note_call, note_failure, note_reply, noted_phase
from gatewright.dev.apisix.proxying import subrequest
from gatewright.dev.apisix.route import PluginConf
from gatewright.dev.apisix.rpc import RpcError, RunnerClient
from gatewright.dev.apisix.variables import variable
from gatewright.dev.messages import Answer
from gatewright.dev.target import Upstream
from gatewright.dev.upstream import Sender, UpstreamAnswer, UpstreamError, send_request
from gatewright.errors import ProtocolError
from gatewright.gateways.apisix import replies
from gatewright.gateways.apisix.calls import METHODS, encode_http_req_call, encode_http_resp_call
from gatewright.gateways.apisix.frames import FrameType
from gatewright.gateways.apisix.replies import InfoType, RespReply, Rewrite, Stop

__all__ = ["ExtPlugin"]

log = logging.getLogger("gatewright.dev")


def _tell(error: RpcError) -> None:
    """Log a failed call; of one that the runner refused it has told itself, and why."""
    log.log(logging.DEBUG if str(error).endswith("service unavailable") else logging.ERROR, "%s", error)


class _BrokenBodyError(Exception):
    """The client's body is read, and is none: nginx ends the request with its page."""


class ExtPlugin:
    """What the ext-plugin plugins do."""

    def __init__(self, client: RunnerClient, upstream_timeout: float, send: Sender = send_request) -> None:
        """Make them.

        Args:
            client: the way to the runner.
            upstream_timeout: seconds for which an upstream may be silent.
            send: sends requests to the upstream.
        """
        self._client = client
        self._send = send
        self._upstream_timeout = upstream_timeout

    # --- requests

    async def request_phase(self, exchange: Exchange, plugin: PluginConf) -> Answer | None:
        """Ask the runner about a request; gives an answer if there is one already."""
        with noted_phase(exchange, plugin, "request"):
            return await self._request_phase(exchange, plugin)

    async def _request_phase(self, exchange: Exchange, plugin: PluginConf) -> Answer | None:
        def encode(token: int) -> bytes:
            method = exchange.call_method()
            if method not in METHODS:
                raise LuaError(f"method {method} is not in the protocol")
            number = self._client.next_id()
            path, args, headers = exchange.call_path(), exchange.call_args(), exchange.call_headers()
            came = {"method": exchange.method, "path": path, "query": args, "headers": headers}
            note_call(number, token, {**came, "client_ip": exchange.client_ip})
            try:
                return encode_http_req_call(
                    id=number,
                    conf_token=token,
                    src_ip=variable(exchange, "binary_remote_addr") or b"",
                    method=method,
                    path=path,
                    args=args,
                    headers=headers,
                )
            except ProtocolError as error:
                raise RpcError(str(error)) from None

        def decode(frame: bytes) -> Stop | Rewrite | None:
            exchange.add_response_headers(lua_replies.read_stop_headers(frame), frozenset())
            return lua_replies.read_action(frame)

        try:
            action = await self._client.call(
                plugin, FrameType.HTTP_REQ_CALL, encode,
                asking(lambda question: self._answer(exchange, question, None)), decode,
            )  # fmt: skip
        except RpcError as error:
            return self._failed(exchange, plugin, error)
        except _BrokenBodyError:
            return Answer(exchange.body_fault, exchange.response_headers, page=True)
        note_reply(action)
        if action is None:
            return None
        if isinstance(action, Stop):
            return exited(exchange, action.status or 200, action.body or None)
        if action.body or any(name.lower() == "content-length" for name, _ in action.headers):
            await exchange.read_body()
        if action.body and exchange.body_fault:
            return Answer(exchange.body_fault, exchange.response_headers, page=True)
        exchange.apply_rewrite(action)
        return cut_or_awaited(exchange)

    def _failed(self, exchange: Exchange, plugin: PluginConf, error: RpcError) -> Answer | None:
        _tell(error)
        note_failure(error)
        if plugin.allow_degradation:
            log.warning("Plugin Runner is wrong, allow degradation")
            return None
        return Answer(503, exchange.response_headers, page=True)

    async def _answer(
        self, exchange: Exchange, question: replies.InfoRequest, upstream: list[UpstreamAnswer] | None
    ) -> bytes | None:
        if question.kind == InfoType.VAR:
            name = question.name or ""
            if name.startswith("post_arg_") or reads_body(exchange, name):
                await exchange.read_body()
            return variable(exchange, name)
        if question.kind == InfoType.REQ_BODY:
            await exchange.read_body()
            if exchange.is_unreadable:
                log.error("failed to read request body: HTTP/2 without content-length")
                return None
            exchange.body_read = True
            if exchange.body_fault:
                raise _BrokenBodyError
            return exchange.body or None
        if question.kind == InfoType.RESP_BODY:
            if not upstream:
                log.error("failed to read response body: not there, or read before")
                return None
            got = upstream.pop()
            if not await self._read_body(got):
                log.error("read response failed")
                got.parts = []  # what came of it is lost
                return None
            return b"".join(got.parts)
        raise RpcError(f"failed to handle RPC_EXTRA_INFO: unsupported info type: {question.kind}")

    # --- responses

    async def response_phase(self, exchange: Exchange, plugin: PluginConf, upstream: Upstream) -> Answer | None:
        """Post-resp: make the upstream request, show its answer to the runner, and answer as it says."""
        if exchange.is_unreadable:
            log.error("failed to request: HTTP/2 without content-length")
            return Answer(502, page=True)
        await exchange.read_body()
        exchange.body_read = True
        if exchange.body_fault:
            return Answer(exchange.body_fault, page=True)
        try:
            got = await subrequest(exchange, upstream, self._upstream_timeout, self._send)
        except UpstreamError as error:
            log.error("failed to request: %s", error)
            status = 503 if error.unknown else 502  # a node without an address is none
            return in_own_words(Answer(status, exchange.response_headers, page=True), plugin)
        try:
            return await self._show(exchange, plugin, upstream, got)
        finally:
            if got.close is not None:
                await got.close()

    async def _read_body(self, got: UpstreamAnswer) -> bool:
        """Read the upstream's body, in parts; whether that went well. A second time, nothing comes."""
        rest, got.rest = got.rest, None
        if rest is None:
            return True
        await rest.read()
        got.parts = rest.parts
        return not rest.failed

    async def _show(
        self, exchange: Exchange, plugin: PluginConf, upstream: Upstream, got: UpstreamAnswer
    ) -> Answer | None:
        exchange.balancer = upstream.host, upstream.port
        with noted_phase(exchange, plugin, "response"):
            return await self._show_response(exchange, plugin, got)

    async def _show_response(self, exchange: Exchange, plugin: PluginConf, got: UpstreamAnswer) -> Answer | None:
        headers = got.headers
        answer = Answer(got.status, headers)
        unread = [got]

        def encode(token: int) -> bytes:
            shown = [(n, (exchange.upstream_host or "") if n == "host" else v) for n, v in headers]
            number = self._client.next_id()
            note_call(number, token, {"status": got.status, "headers": shown})
            return encode_http_resp_call(id=number, conf_token=token, status=got.status, headers=shown)

        def decode(frame: bytes) -> RespReply:
            first = next(lua_replies.read_resp_headers(frame), None)
            if first is None:
                exchange.apply_resp_reply(RespReply(), answer)
            else:
                exchange.add_response_headers(lua_replies.read_resp_headers(frame), frozenset())
            return lua_replies.read_resp_reply(frame)

        try:
            reply = await self._client.call(
                plugin, FrameType.HTTP_RESP_CALL, encode,
                asking(lambda question: self._answer(exchange, question, unread)), decode,
            )  # fmt: skip
        except RpcError as error:
            _tell(error)
            note_failure(error)
            log.warning("fault: after a failed response phase all of the upstream's headers are lost")
            if plugin.allow_degradation:
                status = got.status
                log.warning("Plugin Runner is wrong, allow degradation")
            else:
                status = 503
            return await self._print(exchange, plugin, got, status)
        note_reply(reply)
        if reply.body:
            said = Answer(reply.status or got.status, exchange.response_headers, reply.body, framing="stop")
            printed(exchange, said)
            return closing(exchange, said) if reply.status in CLOSES else in_own_words(said, plugin)
        return await self._print(exchange, plugin, got, reply.status or got.status)

    async def _print(self, exchange: Exchange, plugin: PluginConf, got: UpstreamAnswer, status: int) -> Answer | None:
        """Send the upstream's body on."""
        failed = not await self._read_body(got)
        if got.parts:  # once something is sent, be it nothing but the headers, an error just ends it
            return Answer(status, exchange.response_headers, b"".join(got.parts))
        if failed:
            log.warning("fault: the upstream broke its answer off: 502, with the headers that are set already")
            return in_own_words(Answer(502, exchange.response_headers, page=True), plugin)
        log.warning(
            "fault: the upstream's answer has no body and the reply brought none: APISIX now sends the request "
            "upstream a second time; a runner prevents that with any non-empty body"
        )
        return None
