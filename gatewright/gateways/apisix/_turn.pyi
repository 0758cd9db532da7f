"""Each does what its sibling in Python does (see `_plain_turn`)."""

from collections.abc import Callable, Sequence

from gatewright.gateways.events import Event
from gatewright.http import Call, Response

EDITION: int

class Turn:
    busy: bool
    buffered: int
    def __init__(
        self,
        request_class: Callable[[bytes], object],
        call_class: type[Call],
        max_payload: int,
        no_action: bytes,
        parts_of: Callable[..., tuple[bytes, bytes] | None],
        /,
    ) -> None: ...
    def receive_data(self, data: bytes, /) -> Sequence[Event]: ...
    def reply(self, call: Call, response: Response | None, /) -> bytes: ...
