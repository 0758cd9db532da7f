"""What the inspector is told of plugins and routes."""

from __future__ import annotations

from gatewright.dev.apisix.gateway import DevGateway
from gatewright.dev.apisix.route import PluginConf
from gatewright.dev.apisix.routes import ASKING_PLUGINS
from gatewright.dev.inspector.facts import Facts
from gatewright.dev.survey import Survey

__all__ = ["facts_of"]


def _entries(where: str, conf: PluginConf) -> list[tuple[str, str]]:
    return conf.entries or [] if where in ASKING_PLUGINS else []


def _faults(found: Survey, name: str) -> list[str]:
    """What reading a plugin's code and its routes' values found wrong."""
    return [
        f"{each['text']}; {each['cure']}" if each["cure"] else each["text"]
        for each in found.findings
        if each["about"] == name and each["level"] == "problem"
    ]


def facts_of(found: Survey, gateway: DevGateway, host: str) -> Facts:
    """The facts.

    Args:
        found: the plugins.
        gateway: with its routes.
        host: the address that it listens on.
    """
    routes = [
        {
            "id": str(route.id),
            "name": route.facts.get("route_name", ""),
            "paths": list(route.uris),
            "plugins": [
                (where, name, value) for where, conf in route.plugins.items() for name, value in _entries(where, conf)
            ],
        }
        for route in gateway.routes.routes
    ]
    rules = [
        {
            "id": f"global rule {number}",
            "name": "",
            "paths": ["all"],
            "plugins": [(where, name, value) for where, conf in rule.items() for name, value in _entries(where, conf)],
        }
        for number, rule in enumerate(gateway.routes.global_rules, 1)
    ]
    return Facts(
        url=f"http://{f'[{host}]' if ':' in host else host}:{gateway.port}",
        host=host,
        port=gateway.port,
        plugins=[
            {**plugin, "schema": plugin.get("config"), "faults": _faults(found, plugin["name"])}
            for plugin in found.plugins
        ],
        routes=[*routes, *rules],
        errors=found.errors,
    )
