"""What `gatewright dev` prints when it has begun as APISIX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gatewright.dev.announcing import announced, url_of
from gatewright.dev.apisix.gateway import DevGateway
from gatewright.dev.echo import ECHO
from gatewright.dev.options import DevOptions
from gatewright.dev.survey import Survey

__all__ = ["print_banner"]


def print_banner(
    options: DevOptions,
    gateway: DevGateway,
    found: Survey,
    *,
    routes: Path | None,
    lean: bool,
    admin_port: int,
    blocked: Sequence[str],
    page: str,
) -> None:
    """Say what there is and where it listens.

    Args:
        options: what was wanted.
        gateway: it.
        found: the plugins.
        routes: the file of routes, if there is one.
        lean: plugins are asked over the lean path.
        admin_port: of the Admin API, if there is one.
        blocked: why nothing may pass.
        page: the inspector's address; nothing without one.
    """
    if options.announce is not None:
        problems = [*found.errors, *(each["text"] for each in found.findings if each["level"] == "problem")]
        line = announced(
            options, {"name": "apisix", "version": gateway.version}, port=gateway.port, page=page,
            admin_port=admin_port if options.admin else 0, plugins=found.plugins, routes=routes, problems=problems,
        )  # fmt: skip
        options.announce(line)
        return
    width = max((len(plugin["name"]) for plugin in found.plugins), default=0)
    lines = [
        "",
        f"Gatewright development gateway (behaves as Apache APISIX {gateway.version} does; not for production)",
        "",
    ]
    for plugin in found.plugins:
        name, phases = plugin["name"], ", ".join(plugin["phases"])
        why = plugin["needs"] if routes is None else None
        note = phases or "no handler: define on_request or on_response"
        if why:
            note = f"refused, its configuration doesn't fit: {why}; give one: --conf {name}='{{...}}'"
        lines.append(f"  plugin    {name:<{width}}  {note}")
    if not found.plugins:
        lines.append(f"  plugin    {([*blocked] or ['none but those that come along'])[0]}")
    said = routes or ("none yet" if options.admin else "every plugin on every path, in the order above")
    lines.append(f"  routes    {said}")
    if options.admin:
        admin = url_of(options, admin_port)
        lines.append(f"  admin     {admin}/apisix/admin/, X-API-KEY: {options.admin_key}")
    default = "where the routes say" if routes or options.admin else ECHO
    upstream = options.upstream or default
    lines.append(f"  upstream  {'built in: echoes the request' if upstream == ECHO else upstream}")
    if lean:
        lines.append("  protocol  lean")
    if options.connect:
        lines.append(f"  runner    {options.connect}, which ran already")
    if options.debug:
        lines.append("  debug     one process, no deadlines; breakpoint() works, Ctrl-C leaves at once")
    reloads = "" if options.connect else ", reloads when files change"
    url = url_of(options, gateway.port)
    lines += ["", f"Listening on {url}{reloads}, stop with Ctrl-C. Try:", ""]
    lines += [f"  curl -i {url}{_try_path(gateway)}", ""]
    lines += [f"See what becomes of each request: {page}", ""] if page else []
    print("\n".join(lines), flush=True)


def _try_path(gateway: DevGateway) -> str:
    uri = gateway.routes.routes[0].uris[0] if gateway.routes.routes else "/"
    return "/hello" if uri == "/*" else uri.replace("*", "")
