"""What `gatewright dev` prints when it has begun as Kong."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from gatewright.dev.announcing import announced, url_of
from gatewright.dev.echo import ECHO
from gatewright.dev.kong.serving import Serving

__all__ = ["print_banner"]


def print_banner(serving: Serving, protocol: str, page: str, admin_port: int) -> None:
    """Say what there is and where it listens.

    Args:
        serving: what there is.
        protocol: what our own plugin servers speak; nothing if they are somebody else's.
        page: the inspector's address; nothing without one.
        admin_port: of the Admin API; 0 without one.
    """
    options, gateway, file = serving.options, serving.gateway, serving.file
    if options.announce is not None:
        known = [{"name": each.name, "phases": each.phases} for each in serving.known] or serving.over_lean
        missing = list(serving.plugins.missing.values())
        line = announced(
            options, {"name": "kong", "version": ""}, port=gateway.port, page=page, admin_port=admin_port,
            plugins=known, routes=file, problems=[*serving.servers.errors, *missing],
        )  # fmt: skip
        options.announce(line)
        return
    lines = ["", "Gatewright development gateway (behaves as Kong does; not for production)", "", *_plugins(serving)]
    said = "none yet" if options.admin else "every plugin on every path, by priority"
    lines.append(f"  routes    {file or said}")
    default = "where the services say" if file else "built in: echoes the request"
    upstream = options.upstream
    lines.append(f"  upstream  {'built in: echoes the request' if upstream == ECHO else upstream or default}")
    if protocol:
        lines.append(f"  protocol  {protocol}")
    url = url_of(options, gateway.port)
    lines += ["", f"Listening on {url}, reloads when files change, stop with Ctrl-C. Try:", ""]
    lines += [f"  curl -i {url}{gateway.try_path}", ""]
    lines += [f"See what becomes of each request: {page}", ""] if page else []
    if admin_port:
        lines += [f"  admin     {url_of(options, admin_port)}/  (services, routes, plugins, consumers, config)", ""]
    print("\n".join(lines), flush=True)
    for line in serving.why_blocked():
        print(line, file=sys.stderr, flush=True)


def _plugins(serving: Serving) -> Iterator[str]:
    uses = serving.plugins.uses
    over_lean = serving.over_lean
    names_over_lean = {plugin["name"] for plugin in over_lean}
    known = [plugin for plugin in serving.known if uses(plugin.name) or plugin.name not in names_over_lean]
    names = [*(plugin.name for plugin in known), *(plugin["name"] for plugin in over_lean)]
    width = max(map(len, names), default=0)
    for plugin in known:
        unused = "" if uses(plugin.name) else "  (not used by any route)"
        yield f"  plugin    {plugin.name:<{width}}  {', '.join(plugin.phases) or 'no phase'}{unused}"
        beyond = [phase for phase in plugin.phases if phase in ("certificate", "preread")]
        if beyond:
            yield f"            {'':<{width}}  {', '.join(beyond)} never runs here: plain HTTP only"
    for found in over_lean:
        phases = ", ".join(found["phases"]) or "no handler: define on_request or on_response"
        yield f"  plugin    {found['name']:<{width}}  over the lean path: {phases}"
