"""Where a development gateway's requests go, unless its routes say otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from gatewright.errors import ConfigError

__all__ = ["Upstream", "upstream_of"]


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where requests go: one node, and whose Host they carry."""

    host: str
    port: int
    scheme: str = "http"
    pass_host: str = "pass"
    upstream_host: str = ""

    @property
    def authority(self) -> str:
        """The node as a Host header names it."""
        default = {"http": 80, "https": 443}.get(self.scheme)
        return self.host if self.port == default else f"{self.host}:{self.port}"


def upstream_of(url: str) -> Upstream:
    """The upstream of a URL.

    Raises:
        ConfigError: it is not one.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--upstream is a URL such as http://127.0.0.1:8000, not {url!r}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise ConfigError(f"--upstream: {error}") from None
    return Upstream(parts.hostname, port, parts.scheme, pass_host="node")
