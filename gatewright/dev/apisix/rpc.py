"""The gateway's RPCs to the runner over real sockets, with APISIX's connection pool, token cache, lock and retries.

What looks odd here is APISIX's own habit: it dials *before* it looks for a token, and then a second connection for
PrepareConf (or for looking into the shared cache, on which no frame is sent); it holds one lock over all PrepareConf
calls; it closes a connection after an error, or when bytes are left over; and it asks three times when a token is not
known.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from gatewright.dev.apisix import lua_replies
from gatewright.dev.apisix.exchange import LuaError
from gatewright.dev.apisix.route import PluginConf
from gatewright.errors import ProtocolError
from gatewright.gateways.apisix import replies
from gatewright.gateways.apisix.calls import encode_extra_info_result, encode_prepare_conf
from gatewright.gateways.apisix.frames import MAX_PAYLOAD, FrameType
from gatewright.settings import Address

__all__ = ["Dial", "RpcError", "RunnerClient", "Timeouts"]

T = TypeVar("T")
Dial = Callable[[], Awaitable[socket.socket]]
"""Gives a connected socket that leads to the runner."""
log = logging.getLogger("gatewright.dev")

_ERRORS = {0: "bad request", 1: "service unavailable", 2: "conf token not found"}
_TOKEN_NOT_FOUND = "conf token not found"
_LRU_SIZE = 8
_TRIES = 3


class RpcError(Exception):
    """A call failed; APISIX answers 503, or goes on with `allow_degradation`."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; the defaults are APISIX's."""

    connect: float = 1.0
    read: float = 60.0
    keepalive: float = 180.0
    lock: float = 5.0
    lock_expiry: float = 30.0


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.buffer = bytearray()
        self.closed = False
        self._wake = asyncio.Event()
        self.transport: asyncio.Transport
        self.idle = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._wake.set()
        if self.idle:
            self.close()

    def connection_lost(self, _: Exception | None) -> None:
        self.closed = True
        self._wake.set()

    def close(self) -> None:
        self.closed = True
        self.transport.close()

    def send(self, frame: bytes) -> None:
        if self.closed:
            raise RpcError("failed to send: closed")
        self.transport.write(frame)

    async def _exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if self.closed:
                raise RpcError("closed")
            self._wake.clear()
            await self._wake.wait()
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    async def receive(self, timeout: float) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                head = await self._exactly(4)
                return head + await self._exactly(int.from_bytes(head[1:], "big"))
        except TimeoutError:
            raise RpcError("timeout") from None


class SharedTokens:
    """What all workers of a gateway have in common: the tokens, and the lock around getting one."""

    def __init__(self) -> None:
        self.tokens: dict[str, int] = {}
        self.lock = asyncio.Lock()
        self.stuck_until = 0.0


class RunnerClient:
    """One gateway worker's way to its runner."""

    def __init__(self, address: Address | Dial, timeouts: Timeouts, memory: SharedTokens | None = None) -> None:
        self._address = address
        self._timeouts = timeouts
        self._pool: list[_Connection] = []
        self._memory = memory or SharedTokens()
        self._lru: OrderedDict[str, int] = OrderedDict()
        self._count = 0

    def next_id(self) -> int:
        """The next call's id: a counter that starts at 0 and wraps."""
        number, self._count = self._count, (self._count + 1) % (1 << 22)
        return number

    def know_token(self, key: str, token: int) -> None:
        """Put a token into the shared cache."""
        self._memory.tokens[key] = token

    def forget_tokens(self) -> None:
        """Flush all tokens."""
        self._memory.tokens.clear()
        self._lru.clear()

    def close(self) -> None:
        """Close the pooled connections."""
        for connection in self._pool:
            connection.close()
        self._pool.clear()

    async def call(
        self,
        plugin: PluginConf,
        kind: FrameType,
        encode: Callable[[int], bytes],
        answer: Callable[[replies.InfoRequest], Awaitable[bytes | None]],
        decode: Callable[[bytes], T],
    ) -> T:
        """One RPC with its retries.

        Args:
            plugin: the ext-plugin's configuration.
            kind: HTTP_REQ_CALL or HTTP_RESP_CALL.
            encode: makes the frame for a token.
            answer: answers an ExtraInfo question; raises `RpcError` where APISIX can't.
            decode: reads the reply's frame.

        Raises:
            RpcError: the call failed for good.
            LuaError: APISIX's own code would abort.
        """
        for attempt in range(_TRIES):
            try:
                return await self._try(plugin, kind, encode, answer, decode)
            except RpcError as error:
                if _TOKEN_NOT_FOUND not in str(error) or attempt == _TRIES - 1:
                    raise
                log.info("refresh cache and try again")
                self.forget_tokens()
        raise AssertionError("unreachable")

    async def _try(
        self,
        plugin: PluginConf,
        kind: FrameType,
        encode: Callable[[int], bytes],
        answer: Callable[[replies.InfoRequest], Awaitable[bytes | None]],
        decode: Callable[[bytes], T],
    ) -> T:
        connection = await self._connect()
        try:
            frame = encode(await self._token(plugin))
            connection.send(frame)
            while True:
                reply = await self._reply(connection, kind.name)
                if reply[0] != FrameType.EXTRA_INFO:
                    break
                question = self.read(reply, lua_replies.read_info_request)
                if question.kind == replies.InfoType.VAR and question.name is None:
                    raise LuaError("ExtraInfo asks for a variable without a name")
                value = await answer(question)
                if value is not None and len(value) > MAX_PAYLOAD - 28:
                    log.warning("fault: an ExtraInfo answer of %d bytes does not fit into a frame", len(value))
                    raise RpcError(f"failed to reply RPC_EXTRA_INFO: the max length of data is {MAX_PAYLOAD}")
                connection.send(encode_extra_info_result(value))
            if reply[0] != kind:
                raise RpcError(f"failed to receive RPC_{kind.name}: unexpected type {reply[0]}")
            result = self.read(reply, decode)
        except BaseException:
            connection.close()
            raise
        self._release(connection)
        return result

    async def _token(self, plugin: PluginConf) -> int:
        token = self._lru.get(plugin.key)
        if token is not None:
            self._lru.move_to_end(plugin.key)
            return token
        connection = await self._connect()
        try:
            token = self._memory.tokens.get(plugin.key)
            if token is None:
                token = await self._prepare(connection, plugin)
        except BaseException:
            connection.close()
            raise
        self._release(connection)
        self._lru[plugin.key] = token
        if len(self._lru) > _LRU_SIZE:
            self._lru.popitem(last=False)
        return token

    async def _prepare(self, connection: _Connection, plugin: PluginConf) -> int:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeouts.lock):
                await self._memory.lock.acquire()
                if loop.time() < self._memory.stuck_until:
                    self._memory.lock.release()
                    await asyncio.sleep(self._timeouts.lock * 2)
        except TimeoutError:
            log.warning("fault: another route's PrepareConf holds the lock; this request gets 503")
            raise RpcError("failed to acquire the lock: timeout") from None
        try:
            token = self._memory.tokens.get(plugin.key)
            if token is not None:
                return token
            connection.send(encode_prepare_conf(plugin.key, plugin.entries))
            began = loop.time()
            reply = await self._reply(connection, "PREPARE_CONF")
            if loop.time() - began > self._timeouts.lock:
                log.warning(
                    "fault: PrepareConf took so long that other routes got 503; a runner must answer it at once"
                )
            if reply[0] != FrameType.PREPARE_CONF:
                raise RpcError(f"failed to receive RPC_PREPARE_CONF: unexpected type {reply[0]}")
            token = self._memory.tokens[plugin.key] = self.read(reply, lua_replies.read_token)
            return token
        except LuaError:
            # Lua aborts without giving the lock back: it is free again only when it expires.
            self._memory.stuck_until = loop.time() + self._timeouts.lock_expiry
            log.warning(
                "fault: a malformed answer to PrepareConf leaves the lock held: every route that needs a token "
                "gets 503 for %g s", self._timeouts.lock_expiry,
            )  # fmt: skip
            raise
        finally:
            self._memory.lock.release()

    async def _reply(self, connection: _Connection, what: str) -> bytes:
        try:
            frame = await connection.receive(self._timeouts.read)
        except RpcError as error:
            raise RpcError(f"failed to receive RPC_{what}: {error}") from None
        if frame[0] == FrameType.ERROR:
            code = self.read(frame, lua_replies.read_error)
            raise RpcError(f"failed to receive RPC_{what}: {_ERRORS.get(code, f'unknown err {code}')}")
        return frame

    @staticmethod
    def read(frame: bytes, decode: Callable[[bytes], T]) -> T:
        """Read a frame.

        Raises:
            LuaError: APISIX's own code would abort.
        """
        if len(frame) == 4:
            log.warning("fault: a frame without a payload makes APISIX abort: the client gets a 500 page")
            raise LuaError("zero-length payload")
        try:
            return decode(frame)
        except ProtocolError as error:
            log.warning("fault: a malformed payload makes APISIX abort: the client gets a 500 page (%s)", error)
            raise LuaError(str(error)) from None

    async def _connect(self) -> _Connection:
        while self._pool:
            connection = self._pool.pop()
            if not connection.closed:
                connection.idle = False
                return connection
        loop = asyncio.get_running_loop()
        address = self._address
        try:
            async with asyncio.timeout(self._timeouts.connect):
                if not isinstance(address, Address):
                    _, protocol = await loop.create_connection(_Connection, sock=await address())
                elif address.path:
                    _, protocol = await loop.create_unix_connection(_Connection, address.path)
                else:
                    _, protocol = await loop.create_connection(_Connection, address.host, address.port)
        except (OSError, TimeoutError) as error:
            raise RpcError(f"failed to connect to the unix socket {address}: {error}") from None
        return protocol

    def _release(self, connection: _Connection) -> None:
        if connection.buffer:
            log.warning("fault: the runner sent more than it was asked for; the connection is closed")
            connection.close()
        elif not connection.closed and len(self._pool) < 32:
            connection.idle = True
            self._pool.append(connection)
            asyncio.get_running_loop().call_later(self._timeouts.keepalive, self._expire, connection)
        else:
            connection.close()

    def _expire(self, connection: _Connection) -> None:
        if connection.idle and connection in self._pool:
            self._pool.remove(connection)
            connection.close()
