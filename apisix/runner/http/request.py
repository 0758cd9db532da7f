"""`Request` of Apache's Python runner: attributes (0.1.0) and accessors (0.2.0)."""

from __future__ import annotations

from typing import Any

from gatewright.datastructures import Headers, Query
from gatewright.http import SyncRequest

__all__ = ["Request"]


class Request:
    """The request as 0.x plugins know it.

    The 0.1.0 attributes (`headers`, `args`, `path`, ...) are the plugin's own copies: there, changes go out through the
    response object. The 0.2.0 accessors act on the request itself.
    """

    def __init__(self, request: SyncRequest | None = None) -> None:
        """Wrap the request of a call; without one, an empty request for unit tests."""
        self._request = request
        self._headers = Headers()
        self._args = Query()
        self._own: dict[str, Any] = {}

    # --- 0.1.0

    @property
    def headers(self) -> dict[str, str]:
        """The headers, names in lower case, the first value of each."""
        copied: dict[str, str] = self._copy("headers", lambda: dict(self.get_headers()))
        return copied

    @headers.setter
    def headers(self, headers: dict[str, str]) -> None:
        self._own["headers"] = headers

    @property
    def args(self) -> dict[str, str]:
        """The arguments, the first value of each."""
        copied: dict[str, str] = self._copy("args", lambda: dict(self.get_args()))
        return copied

    @args.setter
    def args(self, args: dict[str, str]) -> None:
        self._own["args"] = args

    @property
    def path(self) -> str:
        """The path without the query."""
        return str(self._copy("path", self.get_uri))

    @path.setter
    def path(self, path: str) -> None:
        self._own["path"] = path

    @property
    def method(self) -> str:
        """The method."""
        return self.get_method()

    @method.setter
    def method(self, method: str) -> None:
        self.set_method(method)

    @property
    def src_ip(self) -> str:
        """The client's address."""
        return self.get_remote_addr()

    @src_ip.setter
    def src_ip(self, address: str) -> None:
        self.set_remote_addr(address)

    @property
    def id(self) -> int:
        """The gateway's number for the call."""
        return self.get_id()

    def _copy(self, name: str, make: Any) -> Any:
        if name not in self._own:
            self._own[name] = make()
        return self._own[name]

    # --- 0.2.0

    def get_headers(self) -> Headers:
        """The headers, live: changes reach the upstream."""
        return self._request.headers if self._request is not None else self._headers

    def set_headers(self, headers: object) -> bool:
        """Make these the headers."""
        if not isinstance(headers, dict):
            return False
        self.get_headers().replace(headers)
        return True

    def get_header(self, key: str) -> str | None:
        """One header, in any case."""
        return self.get_headers().get(key)

    def set_header(self, key: str, value: object) -> bool:
        """Set a header."""
        return _set(self.get_headers(), key, value)

    def get_args(self) -> Query:
        """The arguments, live: changes reach the upstream."""
        return self._request.query if self._request is not None else self._args

    def set_args(self, args: object) -> bool:
        """Make these the arguments."""
        if not isinstance(args, dict):
            return False
        self.get_args().replace(args)
        return True

    def get_arg(self, key: str) -> str | None:
        """One argument."""
        return self.get_args().get(key)

    def set_arg(self, key: str, value: object) -> bool:
        """Set an argument."""
        return _set(self.get_args(), key, value)

    def get_uri(self) -> str:
        """The path without the query."""
        return self._request.path if self._request is not None else str(self._own.get("uri", ""))

    def set_uri(self, uri: object) -> bool:
        """Send the request to another path; the query stays."""
        if not isinstance(uri, str) or not uri.startswith("/"):
            return False
        if self._request is not None:
            self._request.path = uri
        self._own["uri"] = uri
        return True

    def get_body(self) -> str:
        """The body as text; bytes that are not UTF-8 survive as surrogates."""
        if self._request is None:
            return str(self._own.get("body", ""))
        return self._request.body().decode("utf-8", "surrogateescape")

    def set_body(self, body: str | bytes) -> bool:
        """Send another body to the upstream."""
        if not body:
            return False
        raw = body.encode("utf-8", "surrogateescape") if isinstance(body, str) else body
        if self._request is not None:
            self._request.set_body(raw)
        self._own["body"] = raw.decode("utf-8", "surrogateescape")
        return True

    def get_var(self, key: str) -> str | None:
        """One of the gateway's variables."""
        if key not in self._own.setdefault("vars", {}) and self._request is not None:
            self._own["vars"][key] = self._request.var(key)
        value: str | None = self._own["vars"].get(key)
        return value

    def set_var(self, key: str, val: str) -> bool:
        """Set what `get_var` gives in this plugin; the gateway's variable can't be changed."""
        self._own.setdefault("vars", {})[key] = val
        return True

    def get_method(self) -> str:
        """The method."""
        return str(self._own.get("method") or (self._request.method if self._request is not None else ""))

    def set_method(self, method: str) -> bool:
        """Set what `get_method` gives in this plugin; the gateway's method can't be changed."""
        self._own["method"] = method
        return bool(method)

    def get_remote_addr(self) -> str:
        """The client's address."""
        return str(self._own.get("remote_addr") or (self._request.client_ip if self._request is not None else ""))

    def set_remote_addr(self, remote_addr: str) -> bool:
        """Set what `get_remote_addr` gives in this plugin."""
        self._own["remote_addr"] = remote_addr
        return bool(remote_addr)

    def get_id(self) -> int:
        """The gateway's number for the call."""
        return int(self._own.get("id", self._request.id if self._request is not None else 0))

    def set_id(self, id: int) -> bool:
        """Set what `get_id` gives in this plugin."""
        self._own["id"] = id
        return True


def _set(mapping: Headers | Query, key: str, value: object) -> bool:
    if not key or not isinstance(value, str):
        return False
    mapping[key] = value
    return True
