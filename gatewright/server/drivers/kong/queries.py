"""What a plugin server says of itself: its plugins and its instances. Kong no longer asks; people and tools do."""

from __future__ import annotations

import os
from typing import Any

from gatewright.gateways.kong.dump import plugin_info
from gatewright.server.worker.service import Service

__all__ = ["answer_to"]


def answer_to(service: Service, what: str, argument: Any) -> Any:
    """The content of an answer to a `Query`; `None` where there is nothing of the name.

    Args:
        service: the process's service.
        what: `plugin_names`, `plugin_info` or `status`.
        argument: a plugin's name, for `plugin_info`.
    """
    plugins = service.builder.plugins
    if what == "plugin_names":
        return {"names": sorted(plugins)}
    if what == "plugin_info":
        return plugin_info(plugins[argument]) if argument in plugins else None
    return _status(service) if what == "status" else None


def _status(service: Service) -> dict[str, Any]:
    instances: dict[str, list[dict[str, Any]]] = {name: [] for name in sorted(service.builder.plugins)}
    for number, chain in service.confs.items():
        instances.setdefault(chain.name, []).append({"Name": chain.name, "Id": number})
    return {"Pid": os.getpid(), "Plugins": {name: {"Name": name, "Instances": own} for name, own in instances.items()}}
