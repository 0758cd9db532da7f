"""The reader of requests that is written in C; what C doesn't judge Python does (see `_quick.c`)."""

from __future__ import annotations

from gatewright.gateways.apisix import _quick
from gatewright.gateways.apisix import _reading as reading
from gatewright.gateways.apisix._names import forms_of, has_alike
from gatewright.gateways.apisix._reading import Entry

__all__ = ["QuickRequest"]


class QuickRequest(_quick.Request):
    """As `_shaped.ShapedRequest`, which says more."""

    __slots__ = ()

    read_head = staticmethod(reading.read_request_head)

    def header_entries(self) -> list[Entry]:
        """The headers, in order and as they came."""
        entries = self.read_header_entries()
        return reading.read_entries(self._frame, self._table, self._layout[5]) if entries is None else entries

    def has_alike(self, names: tuple[str, ...]) -> bool:
        """Whether there may be a header that an upstream takes for one of these."""
        found = self.has_form(forms_of(names))
        return has_alike(self._frame, names) if found is None else found
