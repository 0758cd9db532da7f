"""What `gatewright dev` prints when it has begun as Kong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gatewright.dev.kong.gateway import KongGateway
from gatewright.dev.kong.plugins import KnownPlugin, Plugins

__all__ = ["ECHO", "print_banner"]

ECHO = "echo"
"""What the built-in upstream is called on the command line."""


def print_banner(
    known: Sequence[KnownPlugin],
    plugins: Plugins,
    gateway: KongGateway,
    host: str,
    declarative: Path | None,
    upstream: str | None,
    protocol: str,
    page: str = "",
) -> None:
    """Say what there is and where it listens, and where the inspector's page is."""
    width = max((len(plugin.name) for plugin in known), default=0)
    where = f"[{host}]" if ":" in host else host
    lines = ["", "Gatewright development gateway (behaves as Kong does; not for production)", ""]
    for plugin in known:
        unused = "" if plugins.uses(plugin.name) else "  (not used by any route)"
        lines.append(f"  plugin    {plugin.name:<{width}}  {', '.join(plugin.phases) or 'no phase'}{unused}")
        beyond = [phase for phase in plugin.phases if phase in ("certificate", "preread")]
        if beyond:
            lines.append(f"            {'':<{width}}  {', '.join(beyond)} never runs here: plain HTTP only")
    lines.append(f"  routes    {declarative or 'every plugin on every path, by priority'}")
    default = "where the services say" if declarative else "built in: echoes the request"
    lines.append(f"  upstream  {'built in: echoes the request' if upstream == ECHO else upstream or default}")
    if protocol:
        lines.append(f"  protocol  {protocol}")
    url = f"http://{where}:{gateway.port}"
    lines += ["", f"Listening on {url}, reloads when files change, stop with Ctrl-C. Try:", ""]
    lines += [f"  curl -i {url}{gateway.try_path}", ""]
    lines += [f"See what becomes of each request: {page}", ""] if page else []
    print("\n".join(lines), flush=True)
