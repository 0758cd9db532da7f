"""`Request` of Apache's Python runner: attributes (0.1.0) and accessors (0.2.0)."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from ipaddress import ip_address
from typing import Any

from apisix.runner.http.live import LiveDict
from apisix.runner.http.response import a_dict
from gatewright.datastructures import Headers, Query
from gatewright.http import SyncRequest

__all__ = ["Request"]

_SETTABLE_METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")


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
        self._lives: dict[str, LiveDict] = {}

    # --- 0.1.0

    @property
    def headers(self) -> dict[str, str]:
        """The headers, names in lower case, the first value of each."""
        copied: dict[str, str] = self._copy("headers", lambda: dict(self._header_mapping()))
        return copied

    @headers.setter
    def headers(self, headers: dict[str, str]) -> None:
        self._own["headers"] = headers

    @property
    def args(self) -> dict[str, str]:
        """The arguments, the first value of each."""
        copied: dict[str, str] = self._copy("args", lambda: dict(self._arg_mapping()))
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

    @id.setter  # noqa: A003 - its name there
    def id(self, id: int) -> None:
        self.set_id(id)

    @property
    def conf_token(self) -> int:
        """The token of the configuration."""
        return self.get_conf_token()

    @conf_token.setter
    def conf_token(self, conf_token: int) -> None:
        self.set_conf_token(conf_token)

    @property
    def configs(self) -> dict[str, Any]:
        """What was set with `set_config`."""
        return self.get_configs()

    @configs.setter
    def configs(self, configs: dict[str, Any]) -> None:
        self.set_configs(configs)

    def _copy(self, name: str, make: Any) -> Any:
        if name not in self._own:
            self._own[name] = make()
        return self._own[name]

    # --- 0.2.0

    def _header_mapping(self) -> Headers:
        return self._request.headers if self._request is not None else self._headers

    def get_headers(self) -> dict[str, str]:
        """The headers, names in lower case, the first value of each; changes reach the upstream."""
        return self._live("headers", self._header_mapping)

    def _live(self, name: str, mapping: Callable[[], Headers | Query]) -> dict[str, str]:
        live = self._lives.get(name)
        if live is None:
            live = self._lives[name] = LiveDict(mapping())
        return live

    def set_headers(self, headers: object) -> bool:
        """Make these the headers."""
        if not headers:
            return False
        self._header_mapping().replace(a_dict(headers))
        self._lives.pop("headers", None)
        return True

    def get_header(self, key: str) -> str | None:
        """One header, in any case."""
        return self._header_mapping().get(key)

    def set_header(self, key: str, value: object) -> bool:
        """Set a header."""
        return _set(self._lives.get("headers", self._header_mapping()), key, value)

    def _arg_mapping(self) -> Query:
        return self._request.query if self._request is not None else self._args

    def get_args(self) -> dict[str, str]:
        """The arguments, the first value of each; changes reach the upstream."""
        return self._live("args", self._arg_mapping)

    def set_args(self, args: object) -> bool:
        """Make these the arguments."""
        if not args:
            return False
        self._arg_mapping().replace(a_dict(args))
        self._lives.pop("args", None)
        return True

    def get_arg(self, key: str) -> str | None:
        """One argument."""
        return self._arg_mapping().get(key)

    def set_arg(self, key: str, value: object) -> bool:
        """Set an argument."""
        return _set(self._lives.get("args", self._arg_mapping()), key, value)

    def get_uri(self) -> str:
        """The path without the query."""
        return self._request.path if self._request is not None else str(self._own.get("uri", ""))

    def set_uri(self, uri: object) -> bool:
        """Send the request to another path; the query stays."""
        if not uri:
            return False
        if not isinstance(uri, str):
            raise TypeError(f"a path is a str, not {type(uri).__name__}")
        if not uri.startswith("/"):
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

    def get_var(self, key: str) -> str:
        """One of the gateway's variables; empty where there is none."""
        known: dict[str, str] = self._own.setdefault("vars", {})
        if not known.get(key) and self._request is not None:
            known[key] = self._request.var(key) or ""
        return known.get(key, "")

    def set_var(self, key: str, val: str) -> bool:
        """Set what `get_var` gives in this plugin; the gateway's variable can't be changed."""
        if key and val:
            self._own.setdefault("vars", {})[key] = val
            return True
        return False

    def get_method(self) -> str:
        """The method."""
        method = self._request.method if self._request is not None else ""
        return str(self._own.get("method", method))

    def set_method(self, method: str) -> bool:
        """Set what `get_method` gives in this plugin; the gateway's method can't be changed."""
        if not method or method.upper() not in _SETTABLE_METHODS:
            return False
        self._own["method"] = method
        return True

    def get_remote_addr(self) -> str:
        """The client's address."""
        if "remote_addr" in self._own or self._request is None:
            return str(self._own.get("remote_addr", ""))
        return ip_address(self._request.client_ip).exploded  # as there: IPv6 in full

    def set_remote_addr(self, remote_addr: str) -> bool:
        """Set what `get_remote_addr` gives in this plugin."""
        if remote_addr:
            self._own["remote_addr"] = remote_addr
        return bool(remote_addr)

    def get_id(self) -> int:
        """The gateway's number for the call."""
        return int(self._own.get("id", self._request.id if self._request is not None else 0))

    def set_id(self, id: int) -> bool:
        """Set what `get_id` gives in this plugin."""
        if id:
            self._own["id"] = id
        return bool(id)

    def get_conf_token(self) -> int:
        """The token of the configuration that the request goes through."""
        return int(self._own.get("conf_token") or (self._request.conf_token if self._request is not None else 0))

    def set_conf_token(self, conf_token: int) -> bool:
        """Set what `get_conf_token` gives in this plugin."""
        if conf_token:
            self._own["conf_token"] = conf_token
        return bool(conf_token)

    def get_configs(self) -> dict[str, Any]:
        """What was set with `set_config`; at first nothing, as there: configurations are known by their token."""
        configs: dict[str, Any] = self._own.setdefault("configs", {})
        return configs

    def set_configs(self, configs: dict[str, Any]) -> bool:
        """Set what `get_configs` gives in this plugin."""
        if configs:
            self._own["configs"] = configs
        return bool(configs)

    def get_config(self, key: str) -> Any:
        """What was set with `set_config`, or `None`."""
        return self.get_configs().get(key)

    def set_config(self, key: str, value: Any) -> bool:
        """Set what `get_config` gives in this plugin."""
        if key:
            self.get_configs()[key] = value
        return bool(key)

    def checked(self) -> bool:
        """Whether this is a request at all."""
        return bool(self.get_uri() or self._header_mapping() or self._arg_mapping())


def _set(mapping: MutableMapping[str, str], key: str, value: Any) -> bool:
    if not key or not value:
        return False
    mapping[key] = value
    return True
