"""What nginx does with a Content-Length that is set before it has read the client's body: it believes it."""

from __future__ import annotations

import logging
from dataclasses import replace

from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.messages import Answer

__all__ = ["cut_or_awaited"]

log = logging.getLogger("gatewright.dev")


def cut_or_awaited(exchange: Exchange) -> Answer | None:
    """Cut the body to the length that was set, or await what never comes: then there is an answer, which is none."""
    announced, exchange.announced_length = exchange.announced_length, None
    request = exchange.request
    came = len(request.body)
    if announced is None or announced == came:
        return None
    if announced < 0:
        if request.framing != "content-length":
            return None
        announced = 0
        exchange.request = replace(request, framing="none")
    if request.version == "2":
        log.warning(
            "fault: content-length %d was set before the body of %d bytes was read over HTTP/2: 400; "
            "read the body first", announced, came,
        )  # fmt: skip
        return Answer(400, exchange.response_headers, page=True)
    if announced > came:
        log.warning(
            "fault: content-length %d was set before the client's body of %d bytes was read: APISIX waits 60 s for "
            "the rest and closes without an answer; read the body first", announced, came,
        )  # fmt: skip
        return Answer(0)
    log.warning("fault: content-length %d was set before the body was read, which cuts it", announced)
    request.give_back(request.body[announced:])
    if not exchange.body_changed:
        exchange.body = exchange.body[:announced]
    return None
