"""What a handler touches of every call: in C where that was built, else in Python. Both do the same.

`CallParts` is what `Call` derives from, `View` what `Request` and `SyncRequest` have in common, `Lookup` the quick ways
of a call's headers, `Tally` what is counted of each run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatewright.built import parts

if TYPE_CHECKING or parts is None:
    from gatewright._plain_parts import CallParts, Lookup, Tally, View
else:
    CallParts, Lookup, Tally, View = parts.CallParts, parts.Lookup, parts.Tally, parts.View

__all__ = ["CallParts", "Lookup", "Tally", "View"]
