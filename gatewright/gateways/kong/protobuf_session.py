"""The session over "ProtoBuf:1".

A frame is its length (uint32, in the machine's own byte order: pb_rpc.lua packs with "I") and its payload. Kong sends
an RpcCall; everything of one event goes over this one connection (pb_rpc.lua, `Rpc:call`):

    Kong                            plugin server
    RpcCall{handle_event}    ->
                             <-     method's name, arguments      as often as wanted
    the answer (may be empty) ->
                             <-     empty frame, RpcReturn        the event is over

There is no error: the server closes, and Kong begins anew with a new instance, without end. So a failed event is ended
with `kong.response.exit` by the driver, and closing is for lost instances only.

The answer to a method that gives nothing says nothing either, not even whether it failed (then Kong drops the event and
the connection). So nobody has to wait for it: what comes next can be written at once, and Kong reads it in its turn.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from gatewright.errors import PluginError, ProtocolError
from gatewright.gateways.kong._which_steps import ProtoBufSteps
from gatewright.gateways.kong.events import Answer, CloseInstance, HandleEvent, KongEvent, Query, StartInstance
from gatewright.gateways.kong.messages import RPC_CALL, RPC_RETURN
from gatewright.gateways.kong.pdk import METHODS
from gatewright.gateways.kong.protobuf import read_varint, write_varint

__all__ = ["ProtoBufSession"]

_length = struct.Struct("=I")
_pack_length: Final = _length.pack
_unpack_length: Final = _length.unpack_from
_PREFIX: Final = _length.size
_MAX_FRAME: Final = 64 << 20
_SEQUENCE_TAG: Final = 0x08
_LAST_OF_VARINT: Final = 0x7F  # bytes up to this one end a number
_ALIASES: Final = {"kong.log": "kong.log.notice"}  # Lua's `kong.log(...)`, which has no place in the protocol
_QUERY_ARG: Final = "kong.request.get_query_arg"
_QUERY: Final = METHODS["kong.request.get_query"]
_MAX_KNOWN: Final = 1024
_LONGEST_KNOWN: Final = 256


class ProtoBufSession(ProtoBufSteps):
    """One connection's state; see `gatewright.gateways.kong.events.KongSession` for the methods' contract.

    An event's ticket is 0: its connection has no other, and so its sequence is kept here.
    """

    moves = False

    def __init__(self, *, max_payload: int = _MAX_FRAME) -> None:
        """Start.

        Args:
            max_payload: longest frame in bytes that is accepted.
        """
        super().__init__(max_payload, _CALLS, _call_of)

    def receive_more(self, data: bytes) -> Sequence[KongEvent]:
        """Take bytes in."""
        buffer = self._buffer
        if buffer:
            buffer += data
        received, at = buffer or data, 0
        expected = self._expected
        events: list[KongEvent] = []
        while len(received) - at >= _PREFIX:
            size = _unpack_length(received, at)[0]
            if not size and expected and expected[0] is None:  # often together with the next event's call
                expected.popleft()
                at += _PREFIX
                continue
            if size > self._max:
                raise ProtocolError(f"a frame of {size} bytes is longer than the limit of {self._max}")
            begin, end = at + _PREFIX, at + _PREFIX + size
            if len(received) < end:
                break
            events += self._events_of(bytes(received[begin:end]))
            at = end
        if buffer:
            del buffer[:at]
        else:
            buffer += data[at:]
        self.buffered = len(buffer) + len(expected)
        return events

    def _events_of(self, frame: bytes) -> Sequence[KongEvent]:
        if self._expected:
            decode = self._expected.popleft()
            self.buffered -= 1
            if decode is None:
                return ()
            try:
                return (Answer(0, None, decode(frame)),)
            except PluginError as error:
                return (Answer(0, None, None, str(error)),)
        # After the sequence, an event's call is the same bytes whenever the same instance meets the same phase.
        if frame and frame[0] == _SEQUENCE_TAG:
            after = 1
            while after < len(frame) and frame[after] > _LAST_OF_VARINT:
                after += 1
            known = self._known.get(frame[after + 1 :])
            if known is not None:
                self._sequence = frame[: after + 1]
                return known
        return (self._decode(frame),)

    def _decode(self, frame: bytes) -> KongEvent:
        call = RPC_CALL.decode(frame)
        ticket = call.get("sequence", 0)
        match call:
            case {"handle_event": event}:
                wish = HandleEvent(0, event.get("instance_id", 0), event.get("event_name", ""))
                self._sequence = b"\x08" + write_varint(ticket) if ticket else b""
                if frame[0] == _SEQUENCE_TAG and len(frame) <= _LONGEST_KNOWN:
                    if len(self._known) >= _MAX_KNOWN:
                        self._known.clear()
                    self._known[frame[read_varint(frame, 1)[1] :]] = (wish,)
                return wish
            case {"start_instance": start}:
                return StartInstance(ticket, start.get("name", ""), start.get("config", b""))
            case {"close_instance": close}:
                return CloseInstance(ticket, close.get("instance_id", 0))
            case {"get_instance_status": status}:
                return Query(ticket, "instance_status", status.get("instance_id", 0))
            case {"get_plugin_info": info}:
                return Query(ticket, "plugin_info", info.get("name", ""))
            case {"get_plugin_names": _}:
                return Query(ticket, "plugin_names")
            case _:
                raise ProtocolError("an RpcCall without a command that is known")

    def started(self, ticket: int, name: str, instance: int, config: Any, at: float) -> bytes:
        """The answer to cmd_start_instance."""
        return self._status(ticket, name, instance, config, at)

    def closed(self, ticket: int, name: str, instance: int, config: Any, at: float) -> bytes:
        """The answer to cmd_close_instance."""
        return self._status(ticket, name, instance, config, at)

    def _status(self, ticket: int, name: str, instance: int, config: Any, at: float) -> bytes:
        status = {"name": name, "instance_id": instance, "config": config, "started_at": int(at)}
        return _frame(RPC_RETURN.encode({"sequence": ticket, "instance_status": status}))

    def answered(self, ticket: int, what: str, content: Any) -> bytes:
        """The answer to a question."""
        if what == "plugin_info":
            content = {
                "name": content["Name"],
                "phases": content["Phases"],
                "version": content["Version"],
                "priority": content["Priority"],
                "schema": json.dumps(content["Schema"]),
            }
        return _frame(RPC_RETURN.encode({"sequence": ticket, what: content}))

    def number_of(self, ticket: int) -> int:
        """The sequence, which is kept here."""
        return read_varint(self._sequence, 1)[0] if self._sequence else 0

    def failed(self, ticket: int, message: str) -> bytes | None:
        """There are no errors in this protocol."""
        return None

    @classmethod
    def last_words(cls, asked: bytes, refusal: Sequence[Any]) -> bytes:
        """The refusal, for an event. Kong reads it next, even if it's at work on a PDK call."""
        return cls().call(0, 0, "kong.response.exit", refusal)


_Parts = tuple[bytes, Callable[[bytes], Any], bool]
_CALLS: Final[dict[tuple[str, ...], _Parts]] = {}


def _call_of(method: str, args: Sequence[Any]) -> _Parts:
    """A call's frames, what reads its answer, and whether that says anything."""
    known = METHODS.get(method) or METHODS.get(_ALIASES.get(method, ""))
    if known is None:
        raise PluginError(f"{method} does not exist over Protobuf; over MessagePack any kong.* function does")
    try:
        payload = known.encode(args)
    except PluginError as error:
        raise PluginError(f"{method}: {error}") from None
    decode = known.decode
    if method == _QUERY_ARG:  # a bare argument is `true` for Kong, which has no place in the answer
        known, payload = _QUERY, _QUERY.encode(())
        decode = partial(_first_of, name=args[0] if args else "")
    return known.frame + _pack_length(len(payload)) + payload, decode, bool(known.gives)


def _first_of(data: bytes, *, name: Any) -> Any:
    """An argument's first value, as `kong.request.get_query_arg` gives it; a bare one is `True`."""
    values = _QUERY.decode(data).get(name if isinstance(name, str) else "")
    if isinstance(values, list):
        return values[0] if values else True
    return values


def _frame(payload: bytes) -> bytes:
    return _pack_length(len(payload)) + payload
