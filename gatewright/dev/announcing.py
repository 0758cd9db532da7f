"""What a development gateway says of itself when it has begun, for machines: one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gatewright.dev.options import DevOptions

__all__ = ["announced", "url_of"]


def url_of(options: DevOptions, port: int) -> str:
    """The address of what listens at a port, as a client writes it."""
    return f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{port}"


def announced(
    options: DevOptions,
    gateway: Mapping[str, str],
    *,
    port: int,
    page: str,
    admin_port: int,
    plugins: Sequence[Mapping[str, Any]],
    routes: Path | None,
    problems: Sequence[str],
) -> str:
    """The line.

    Args:
        options: what was wanted.
        gateway: what it behaves as: `name` and `version`.
        port: the gateway's.
        page: the inspector's address; nothing without one.
        admin_port: of the Admin API; 0 without one.
        plugins: each with `name` and `phases`.
        routes: the file that says where plugins apply, if there is one.
        problems: what keeps requests from passing.
    """
    return json.dumps(
        {
            "url": url_of(options, port),
            "gateway": dict(gateway),
            "inspector": page or None,
            "admin": url_of(options, admin_port) if admin_port else None,
            "admin_key": options.admin_key if admin_port and gateway["name"] == "apisix" else None,
            "routes": str(routes) if routes is not None else None,
            "plugins": [{"name": plugin["name"], "phases": list(plugin["phases"])} for plugin in plugins],
            "problems": list(problems),
        }
    )
