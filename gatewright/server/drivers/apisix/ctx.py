"""What request phases leave for response phases: `request.ctx`, under the request's id.

APISIX gives both phases the same `$request_id`; what was put away under it is found by any worker (see `ipc.keep`).
"""

from __future__ import annotations

from typing import Any, Final

from gatewright.errors import MustAwaitError, NotAvailableError, PluginError
from gatewright.http import Asker, Call, Question
from gatewright.runtime.kept import KeptContext, pack, unpack
from gatewright.server.ipc.keep import LostError, Region

__all__ = ["REQUEST_ID", "ctx_kept", "keep_ctx"]

REQUEST_ID: Final = Question("var", "request_id")
"""The same in both phases of a request."""


def keep_ctx(asker: Asker, call: Call, region: Region) -> None:
    """Keep what plugins put into `request.ctx`, under the request's id, if any response handler may look at it."""
    if not region.wanted:
        return
    name = asker.ask_sync(call, REQUEST_ID)
    if not name:
        return  # the response phase says so, if it looks
    if not region.writable:
        raise PluginError("request.ctx can't be kept for the response phase: too many workers are about to end")
    kept = _kept_of(name, region)
    kept.update(call.ctx)
    region.put(name, pack(kept))


def ctx_kept(call: Call, region: Region) -> dict[str, Any]:
    """What the request phase has left."""
    try:
        (name,) = call.asker.ask_here(call, (REQUEST_ID,))
    except MustAwaitError:
        raise NotAvailableError(
            "a task of one's own can't be the first to look at request.ctx in the response phase: look at it in "
            "the handler"
        ) from None
    if not name:
        raise NotAvailableError("APISIX doesn't tell $request_id, under which request.ctx is kept")
    wanted = region.wanted
    region.want()
    try:
        kept = _kept_of(name, region)
    except LostError as error:
        raise NotAvailableError(f"request.ctx has not come from the request phase: {error}") from None
    if not kept and not kept.left and not kept.more and not wanted:
        raise NotAvailableError(
            "whether the request phase put something into request.ctx is not known: that on_response looks at it "
            "was not to be seen in its source. It's kept from now on"
        )
    return kept


def _kept_of(name: bytes, region: Region) -> KeptContext:
    kept = KeptContext()
    for packed in region.get(name):
        part = unpack(packed)
        kept.left.update(part.left)
        kept.more |= part.more
        kept.update(part)
    return kept
