"""`Response` of Apache's Python runner: attributes (0.1.0) and accessors (0.2.0)."""

from __future__ import annotations

from typing import cast

from gatewright import http

__all__ = ["PLUGIN_ACTION_REWRITE", "PLUGIN_ACTION_STOP", "Response"]

PLUGIN_ACTION_STOP = 1
PLUGIN_ACTION_REWRITE = 2


def a_dict(value: object) -> dict[str, str]:
    """What is to be one.

    Raises:
        TypeError: it's none.
    """
    if not isinstance(value, dict):
        raise TypeError(f"headers and arguments are a dict, not {type(value).__name__}")
    return value


class Response:
    """What a 0.x plugin fills in.

    In 0.1.0 it holds the answer to the client after `stop()`, and the changed request after `rewrite()`. In 0.2.0 any
    change to it answers the client.
    """

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.args: dict[str, str] = {}
        self.path = ""
        self.body: str | bytes = ""
        self.status_code = 0
        self._req_id = 0

    def changed(self) -> bool:
        """Whether the plugin set a body, a header or a status."""
        return bool(self.body or self.headers or self.status_code)

    def as_answer(self) -> http.Response:
        """The answer to the client; of names that differ in case only, the one set last."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.body.encode("utf-8", "surrogateescape") if isinstance(self.body, str) else self.body
        is_set = (
            type(self.status_code) is not int or self.status_code != 0
        )  # what else is no status isn't "none" either
        return http.Response(self.status_code if is_set else 200, headers, body)

    def get_headers(self) -> dict[str, str]:
        """The headers."""
        return self.headers

    def set_headers(self, headers: object) -> bool:
        """Make these the headers."""
        if not headers:
            return False
        self.headers = a_dict(headers)
        return True

    def get_header(self, key: str) -> str | None:
        """One header."""
        return self.headers.get(key)

    def set_header(self, key: str, value: object) -> bool:
        """Set a header."""
        if not key or not value:
            return False
        self.headers[key] = cast("str", value)  # one that is none is refused when it's to be sent
        return True

    def get_body(self) -> str | bytes:
        """The body."""
        return self.body

    def set_body(self, body: str | bytes) -> bool:
        """Set the body."""
        if not body:
            return False
        self.body = body
        return True

    def get_req_id(self) -> int:
        """The number of the call that this answers."""
        return self._req_id

    def set_req_id(self, req_id: int) -> bool:
        """Set what `get_req_id` gives."""
        if req_id:
            self._req_id = req_id
        return bool(req_id)

    def get_status_code(self) -> int:
        """The status, 200 if none was set."""
        return self.status_code or 200

    def set_status_code(self, status_code: object) -> bool:
        """Set the status; one that can't be sent is an error, for without it the request would pass."""
        if not status_code:
            return False
        self.status_code = http.Response(cast("int", status_code)).status
        return True
