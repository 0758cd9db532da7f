"""Where to listen: a unix socket's path, or a TCP host and port."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gatewright.errors import ConfigError

__all__ = ["Address", "parse_address"]


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed listen address: a unix socket's path, or a TCP host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"


def parse_address(text: str, name: str = "listen") -> Address:
    """Parse `unix:/path`, `/path`, `tcp://host:port` or `host:port`.

    Args:
        text: what to parse.
        name: the setting that it is, for the error.

    Raises:
        ConfigError: it is none of these.
    """
    rest = text.strip()
    if rest.startswith("unix:"):
        rest = rest.removeprefix("unix:")
        if rest.startswith("//"):
            rest = rest[2:]
        if rest.startswith("@") or "\0" in rest:
            raise ConfigError(
                f"{name}: an abstract socket has no rights, so everybody may connect: a path, not {text!r}"
            )
        if rest:
            return Address(path=rest)
    elif rest.startswith(("/", "./", "../")):
        return Address(path=rest)
    else:
        match = re.fullmatch(r"(?:tcp:(?://)?)?(?:\[([0-9A-Fa-f:.]+)\]|([^:/\s\[\]]*)):(\d{1,5})", rest)
        if match and int(match[3]) <= 65535:
            return Address(host=match[1] or match[2] or "127.0.0.1", port=int(match[3]))
    raise ConfigError(f"{name} is unix:/path or tcp://host:port, with a port up to 65535, not {text!r}")
