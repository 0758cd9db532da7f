"""Each does what its sibling in Python does (see `_plain_steps`)."""

from collections.abc import Callable, Sequence
from typing import Any

from gatewright.gateways.kong.events import Answer, HandleEvent, KongEvent

EDITION: int

def texts_of(data: bytes, /) -> dict[str, list[str]] | None: ...

class MsgPackSteps:
    buffered: int
    def __init__(
        self,
        handle_event: type[HandleEvent],
        answer: type[Answer],
        phases: tuple[str, ...],
        otherwise: frozenset[str],
        /,
    ) -> None: ...
    def receive_data(self, data: bytes, /) -> Sequence[KongEvent]: ...
    def call(self, ticket: int, event: int, method: str, args: Sequence[Any], /) -> bytes: ...
    def done(self, ticket: int, event: int, /) -> bytes: ...

class ProtoBufSteps:
    buffered: int
    ahead: bool
    patient: bool
    def __init__(
        self,
        max_payload: int,
        calls: dict[tuple[str, ...], tuple[bytes, Callable[[bytes], Any], bool]],
        parts_of: Callable[[str, Sequence[Any]], tuple[bytes, Callable[[bytes], Any], bool]],
        /,
    ) -> None: ...
    def receive_data(self, data: bytes, /) -> Sequence[KongEvent]: ...
    def call(self, ticket: int, event: int, method: str, args: Sequence[Any], /) -> bytes: ...
    def done(self, ticket: int, event: int, /) -> bytes: ...
