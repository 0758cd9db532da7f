"""Upstreams as routes, services and `upstreams` have them written."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from gatewright.dev.apisix.balancing import KINDS, Balanced, Node

__all__ = ["UPSTREAM_FIELDS", "balanced"]

UPSTREAM_FIELDS: Final = frozenset(
    (
        "id", "name", "desc", "type", "nodes", "scheme", "pass_host", "upstream_host", "retries", "retry_timeout",
        "timeout", "keepalive_pool", "labels", "hash_on", "key", "checks", "create_time", "update_time",
    )
)  # fmt: skip


def balanced(written: Mapping[str, Any], timeout: Mapping[str, Any]) -> Balanced:
    """An upstream.

    Args:
        written: as it stands there.
        timeout: `connect` and `read` in seconds: the route's, or else the upstream's.

    Raises:
        ValueError: it is none, or one that this gateway can't do.
    """
    kind, scheme = str(written.get("type", "roundrobin")), str(written.get("scheme", "http"))
    if kind not in KINDS:
        raise ValueError(f"`type` is one of {', '.join(KINDS)}, not {kind}")
    if scheme not in ("http", "https"):
        raise ValueError(f"`scheme` {scheme} is not supported by the development gateway")
    if written.get("checks"):
        logging.getLogger("gatewright.dev").warning("upstream: `checks` are ignored: every node counts as healthy")
    nodes, hash_on = written.get("nodes"), str(written.get("hash_on", "vars"))
    if nodes is None:
        raise ValueError("needs `nodes`")
    if kind == "chash" and hash_on != "consumer" and not written.get("key"):
        raise ValueError("`type: chash` needs a `key`")
    connect, read = timeout.get("connect"), timeout.get("read")
    retries = written.get("retries")
    return Balanced(
        [_node(each) for each in nodes] if isinstance(nodes, list) else [_named(*each) for each in nodes.items()],
        kind=kind,
        scheme=scheme,
        pass_host=str(written.get("pass_host", "pass")),
        upstream_host=str(written.get("upstream_host", "")),
        retries=None if retries is None else int(retries),
        retry_timeout=float(written.get("retry_timeout", 0)),
        connect=None if connect is None else float(connect),
        read=None if read is None else float(read),
        hash_on=hash_on,
        key=str(written.get("key", "")),
    )


def _node(written: Mapping[str, Any]) -> Node:
    port = written.get("port")
    return Node(
        str(written["host"]).strip("[]"),
        None if port is None else int(port),
        int(written.get("weight", 1)),
        int(written.get("priority", 0)),
    )


def _named(name: str, weight: Any) -> Node:
    """A node by its name, `host:port` or only `host`."""
    host, _, port = str(name).rpartition(":")
    if not host or name.endswith("]"):
        return Node(str(name).strip("[]"), None, int(weight))
    return Node(host.strip("[]"), int(port), int(weight))
