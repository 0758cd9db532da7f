"""`Response` of the plugin guide."""

from __future__ import annotations

from collections.abc import Mapping

from gatewright import http
from gatewright.datastructures import Headers

__all__ = ["Response"]


class Response:
    """What a plugin fills in: `status_code`, `headers`, `body`."""

    def __init__(self) -> None:
        self.status_code: int | None = None
        self.body: str | bytes | None = None
        self._headers = Headers()

    @property
    def headers(self) -> Headers:
        """The headers, names in any case; a dict may be assigned."""
        return self._headers

    @headers.setter
    def headers(self, headers: Mapping[str, str]) -> None:
        self._headers = Headers(headers)

    @property
    def answered(self) -> bool:
        """Whether a status or a body was set."""
        return self.status_code is not None or self.body is not None

    def as_answer(self) -> http.Response:
        """The answer to the client; 403 if the plugin refused without saying how."""
        status = self.status_code or (403 if self.body is None else 200)
        body = self.body.encode("utf-8", "surrogateescape") if isinstance(self.body, str) else self.body or b""
        return http.Response(status, self._headers.multi_items(), body)
