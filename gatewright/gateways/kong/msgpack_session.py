"""The session over "MsgPack:1".

Requests are `[0, id, method, [argument]]`, answers `[1, id, error, result]` (mp_rpc.lua, `Rpc:call`), with no length
before them. Kong takes a connection from its pool for each call, and gives it back before it carries out what the
answer asks for. So what belongs to one event may come over several connections, and what follows a connection's request
may be another event's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgpack
import msgspec

from gatewright.errors import PluginError, ProtocolError
from gatewright.gateways.kong._which_steps import MsgPackSteps
from gatewright.gateways.kong.arguments import as_json, exit_headers, is_whole_in_lua
from gatewright.gateways.kong.events import (
    PHASES,
    Answer,
    CloseInstance,
    HandleEvent,
    KongEvent,
    Query,
    StartInstance,
)

__all__ = ["MsgPackSession"]

_REQUEST: Final = 0
_ANSWER: Final = 1
_QUERIES: Final = {
    "plugin.GetStatus": "status",
    "plugin.GetPluginNames": "plugin_names",
    "plugin.GetPluginInfo": "plugin_info",
}
_EXIT: Final = "kong.response.exit"
_SPELLED: Final = {
    "kong.request.get_raw_body": "kong.request..get_raw_body",
    "kong.service.response.get_raw_body": "kong.service.response..get_raw_body",
}
"""Methods whose nil Kong can't pack under their usual name, so that its Lua code raises an error.

It finds them by the words in the name (rpc/util.lua, `index_table`), but treats their values by the name as it stands
(mp_rpc.lua, `must_fix`): spelled so, a body comes as text and a missing one as nothing.
"""
_OTHERWISE: Final = frozenset((_EXIT, *_SPELLED))
_MAX_BUFFER: Final = 64 << 20


class MsgPackSession(MsgPackSteps):
    """One connection's state; see `gatewright.gateways.kong.events.KongSession` for the methods' contract."""

    moves = True
    ahead = False  # every answer is Kong's next request
    patient = True

    def __init__(self, *, max_payload: int = _MAX_BUFFER) -> None:
        """Start.

        Args:
            max_payload: longest request in bytes that is accepted.
        """
        super().__init__(HandleEvent, Answer, PHASES, _OTHERWISE)
        self._unpacker = msgpack.Unpacker(
            raw=False, strict_map_key=False, unicode_errors="surrogateescape", max_buffer_size=max_payload
        )
        self._fed = self._whole = 0  # bytes that went into the unpacker, and those of whole messages

    def receive_more(self, data: bytes) -> Sequence[KongEvent]:
        """Take bytes in."""
        try:
            if not self.buffered:
                try:  # the usual case: one whole message
                    return (self._event_of(msgspec.msgpack.decode(data)),)
                except (msgspec.DecodeError, UnicodeDecodeError):  # not whole, or with text that is not UTF-8
                    pass
            self._fed += len(data)
            self._unpacker.feed(data)
            events = []
            for message in self._unpacker:
                self._whole = int(self._unpacker.tell())  # it also counts what it has read of a message that goes on
                events.append(self._event_of(message))
            self.buffered = self._fed - self._whole
            return events
        except ProtocolError:
            raise
        except Exception as error:
            raise ProtocolError(f"not MessagePack as Kong sends it: {type(error).__name__}: {error}") from None

    def _event_of(self, message: Any) -> KongEvent:
        if not isinstance(message, list) or len(message) != 4 or message[0] != _REQUEST:
            raise ProtocolError(f"not a request [0, id, method, arguments]: {str(message)[:80]}")
        _, ticket, method, args = message
        argument: Any = args[0] if isinstance(args, list) and args else None
        ticket = _check(ticket, "its id")
        try:
            match method:
                case "plugin.HandleEvent":
                    return HandleEvent(ticket, _check(argument["InstanceId"], "InstanceId"), str(argument["EventName"]))
                case "plugin.Step":
                    return Answer(ticket, _check(argument["EventId"], "EventId"), argument.get("Data"))
                case "plugin.StepError":
                    return Answer(ticket, _check(argument["EventId"], "EventId"), None, str(argument.get("Data")))
                case "plugin.StartInstance":
                    config = argument["Config"]
                    raw = config if isinstance(config, bytes) else config.encode("utf-8", "surrogateescape")
                    return StartInstance(ticket, str(argument["Name"]), raw)
                case "plugin.CloseInstance":
                    return CloseInstance(ticket, _check(argument, "instance"))
                case _ if isinstance(method, str) and method.startswith("plugin.Step"):
                    return Answer(ticket, _check(argument["EventId"], "EventId"), argument.get("Data"))
                case "plugin.InstanceStatus":
                    return Query(ticket, "instance_status", _check(argument, "instance"))
                case _ if isinstance(method, str) and method in _QUERIES:
                    return Query(ticket, _QUERIES[method], argument)
                case _:
                    return Query(ticket, "unknown", method)
        except (KeyError, TypeError, AttributeError) as error:
            raise ProtocolError(f"{method} with arguments that don't suit it: {error}") from None

    def started(self, ticket: int, name: str, instance: int, config: Any, at: float) -> bytes:
        """The answer to StartInstance."""
        return _pack(ticket, None, {"Name": name, "Id": instance, "Config": config, "StartTime": at})

    def closed(self, ticket: int, name: str, instance: int, config: Any, at: float) -> bytes:
        """The answer to CloseInstance."""
        return _pack(ticket, None, {"Name": name, "Id": instance, "Config": config})

    def answered(self, ticket: int, what: str, content: Any) -> bytes:
        """The answer to a question."""
        return _pack(ticket, None, content)

    def call_otherwise(self, ticket: int, event: int, method: str, args: Sequence[Any]) -> bytes:
        """A PDK call."""
        if method == _EXIT and len(args) > 1:
            status, body, *more = args
            headers = more[0] if more else None
            if isinstance(body, dict | list | tuple) and not is_whole_in_lua(body):
                body, headers = as_json(body, headers)
            headers = exit_headers(status, body, headers)
            if headers is not None:  # Lua's `unpack` may stop at a nil, and lose the headers after it
                args = (status, "" if body is None else body, headers, *more[1:])
        try:
            method = _SPELLED.get(method, method)
            return _pack(ticket, None, {"Data": {"Method": method, "Args": list(args)}, "EventId": event})
        except (TypeError, ValueError, OverflowError) as error:
            raise PluginError(f"{method}: the arguments can't be sent: {error}") from None

    @classmethod
    def step(cls, answer: Answer) -> bytes:
        """An answer of Kong's in its own words, for who runs the event."""
        method, data = ("plugin.StepError", answer.error) if answer.error else ("plugin.Step", answer.value)
        content = {"EventId": answer.event} if data is None else {"EventId": answer.event, "Data": data}
        packed: bytes = msgpack.packb([_REQUEST, answer.ticket, method, [content]], unicode_errors="surrogateescape")
        return packed

    def number_of(self, ticket: int) -> int:
        """The message's number, which is the ticket."""
        return ticket

    def failed(self, ticket: int, message: str) -> bytes | None:
        """An error."""
        return _pack(ticket, message, None)

    @classmethod
    def last_words(cls, asked: bytes, refusal: Sequence[Any]) -> bytes:
        """The answer of a server that died: to a request within an event the refusal, to any other an error."""
        unpacker = msgpack.Unpacker(raw=False)
        unpacker.feed(asked)
        try:
            unpacker.read_array_header()
            kind, ticket, method = (unpacker.unpack() for _ in range(3))
        except (msgpack.UnpackException, ValueError):
            return b""  # not the beginning of a request
        if kind != _REQUEST or not isinstance(ticket, int) or not isinstance(method, str):
            return b""
        if method == "plugin.HandleEvent" or method.startswith("plugin.Step"):
            return cls().call(ticket, 0, _EXIT, refusal)
        return _pack(ticket, "the plugin server's process ended", None)


def _check(number: Any, what: str) -> int:
    """A number that Lua can hold: others are no ids of ours, and not to be passed on."""
    if type(number) is float and number.is_integer():
        number = int(number)
    if type(number) is not int or not 0 <= number < 1 << 63:
        raise ProtocolError(f"{what} is not a number: {str(number)[:40]}")
    return number


def _pack(ticket: int, error: str | None, result: Any) -> bytes:
    message = (_ANSWER, ticket, error, result)
    try:
        return _encode(message)
    except (UnicodeEncodeError, TypeError, OverflowError):  # text that is not UTF-8, subclasses, long numbers
        packed: bytes = msgpack.packb(message, unicode_errors="surrogateescape")
        return packed


_encode = msgspec.msgpack.Encoder().encode
