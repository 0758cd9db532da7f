"""`Request` and `Response`, as plugins see them.

Handlers written as `async def` see a call through `Request` and `Response`; handlers written as `def` through
`SyncRequest` and `SyncResponse`, which have the same shape without awaits. All plugins of a chain share the one `Call`
that stands behind them, so mixing both kinds in a chain works.
"""

from __future__ import annotations

from gatewright.call import (
    REQUEST_BODY,
    RESPONSE_BODY,
    Asker,
    Call,
    CallSource,
    Question,
    Recipe,
    RequestCall,
    ResponseCall,
    find_header,
)
from gatewright.http.request import Request, SyncRequest
from gatewright.http.response import Response, SyncResponse

__all__ = [
    "REQUEST_BODY",
    "RESPONSE_BODY",
    "Asker",
    "Call",
    "CallSource",
    "Question",
    "Recipe",
    "Request",
    "RequestCall",
    "Response",
    "ResponseCall",
    "SyncRequest",
    "SyncResponse",
    "find_header",
]
