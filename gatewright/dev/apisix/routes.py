"""Routes in APISIX's own standalone format (`apisix.yaml`), as far as a plugin's author needs it.

Understood: routes (uri, uris, methods, hosts, remote_addrs, vars, priority, plugins, upstream, upstream_id, service_id,
plugin_config_id), services, upstreams, plugin_configs, consumers, global_rules; the plugins of `PLUGINS`. What else
there is is refused by name, or, for a plugin, ignored with a warning: it would be a poor rehearsal to leave it out
silently.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Container, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import yaml

from gatewright.dev.apisix.balancing import Balanced
from gatewright.dev.apisix.builtins import BUILTINS
from gatewright.dev.apisix.expressions import Condition, condition_of
from gatewright.dev.apisix.nodes import UPSTREAM_FIELDS, balanced
from gatewright.dev.apisix.places import line_of
from gatewright.dev.apisix.route import PluginConf, Route, Routes
from gatewright.dev.target import Upstream
from gatewright.errors import ConfigError
from gatewright.yaml_faults import yaml_fault

__all__ = [
    "ASKING_PLUGINS",
    "LEAN_PLUGINS",
    "PLUGINS",
    "PluginConf",
    "Route",
    "Routes",
    "load_routes",
]

_EXT_PLUGINS = ("ext-plugin-pre-req", "ext-plugin-post-req", "ext-plugin-post-resp")
LEAN_PLUGINS = ("gatewright", "gatewright-after", "gatewright-response")
ASKING_PLUGINS = frozenset((*_EXT_PLUGINS, *LEAN_PLUGINS))
"""Those that ask a runner."""
PLUGINS = (*_EXT_PLUGINS, *LEAN_PLUGINS, *BUILTINS)
_EXT_PLUGIN_FIELDS = frozenset(("conf", "allow_degradation", "_meta"))
_ROUTE_FIELDS = frozenset(
    (
        "id", "name", "desc", "uri", "uris", "methods", "method", "host", "hosts", "priority", "plugins", "upstream",
        "upstream_id", "service_id", "plugin_config_id", "status", "labels", "create_time", "update_time",
        "enable_websocket", "timeout", "remote_addr", "remote_addrs", "vars",
    )
)  # fmt: skip


def load_routes(file: Path, default_upstream: Upstream | None = None, *, ours: Container[str] = ()) -> Routes:
    """Read a route file.

    Args:
        file: of APISIX's standalone form.
        default_upstream: for routes that name none.
        ours: names of the runner's plugins: where APISIX looks for its own, it would let requests pass without them.

    Raises:
        ConfigError: it can't be read, isn't YAML, or holds something that this gateway can't do; names the place.
    """
    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        version = str(int(file.stat().st_mtime))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(yaml_fault(file, error)) from None
    return build_routes(
        content, source=str(file), text=text, version=version, default_upstream=default_upstream, ours=ours
    )


def build_routes(
    content: object,
    *,
    source: str = "routes",
    text: str = "",
    version: str = "",
    default_upstream: Upstream | None = None,
    ours: Container[str] = (),
) -> Routes:
    """Routes of an already parsed file, whose text tells in which line something stands.

    Raises:
        ConfigError: as `load_routes`.
    """
    builder = _Builder(content, source, text, version or str(int(time.time())), default_upstream, ours)
    try:
        return builder.build()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{source}: not of APISIX's form: {type(error).__name__}: {error}") from error


class _Builder:
    def __init__(
        self,
        content: object,
        source: str,
        text: str,
        version: str,
        default_upstream: Upstream | None,
        ours: Container[str],
    ) -> None:
        if not isinstance(content, dict) or not isinstance(content.get("routes"), list):
            raise ConfigError(f"{source}: expected a list under `routes:`, as in APISIX's standalone apisix.yaml")
        self._content = content
        self._source = source
        self._text = text
        self._version = version
        self._default = default_upstream
        self._ours = ours

    def _fail(self, place: str, problem: str) -> ConfigError:
        item, *keys = place.split(": ")
        kind, _, name = ("global rule", "", "") if item == "global rule" else item.partition(" ")
        keys += re.findall(r"`(\w+)`", problem)[:1]
        line = line_of(self._text, kind, name, keys) if self._text else None
        return ConfigError(f"{self._source}{f':{line}' if line else ''}: {place}: {problem}")

    def _by_id(self, kind: str) -> dict[str, dict[str, Any]]:
        return {str(item.get("id", item.get("username"))): item for item in self._content.get(kind) or []}

    def build(self) -> Routes:
        services, configs = self._by_id("services"), self._by_id("plugin_configs")
        routes = []
        for number, item in enumerate(self._content["routes"], 1):
            place = f"route {item.get('id', number) if isinstance(item, dict) else number}"
            if not isinstance(item, dict):
                raise self._fail(place, "expected a mapping")
            unknown = sorted(set(item) - _ROUTE_FIELDS)
            if unknown:
                raise self._fail(place, f"`{unknown[0]}` is not supported by the development gateway")
            if item.get("status", 1) == 0:
                continue  # disabled
            routes.append(self._route(item, str(item.get("id", number)), place, services, configs))
        rules = []
        for rule in self._content.get("global_rules") or []:
            rules.append(self._plugins(rule.get("plugins") or {}, "global_rule", str(rule["id"]), "global rule"))
        known, custom_ids, groups = {}, {}, {}
        for consumer in self._content.get("consumers") or []:
            name = str(consumer.get("username"))
            known[name] = {
                plugin: self._lean_conf(conf, f"consumer {name}: {plugin}") if plugin in LEAN_PLUGINS else conf
                for plugin, conf in (consumer.get("plugins") or {}).items()
            }
            if "custom_id" in (consumer.get("labels") or {}):
                custom_ids[name] = str(consumer["labels"]["custom_id"])
            if "group_id" in consumer:
                groups[name] = self._group_of(name, str(consumer["group_id"]))
        return Routes(routes, rules, self._version, known, groups, custom_ids)

    def _group_of(self, name: str, id: str) -> tuple[str, dict[str, Any]]:
        group = self._by_id("consumer_groups").get(id)
        if group is None:
            raise self._fail(f"consumer {name}", f"there is no consumer group {id!r}")
        return id, {
            plugin: self._lean_conf(conf, f"consumer group {id}: {plugin}") if plugin in LEAN_PLUGINS else conf
            for plugin, conf in (group.get("plugins") or {}).items()
        }

    def _route(
        self,
        item: dict[str, Any],
        id: str,
        place: str,
        services: Mapping[str, dict[str, Any]],
        configs: Mapping[str, dict[str, Any]],
    ) -> Route:
        uris = tuple(item.get("uris") or ([item["uri"]] if item.get("uri") else []))
        if not uris:
            raise self._fail(place, "needs `uri` or `uris`")
        plugins = dict(item.get("plugins") or {})
        hosts = item.get("hosts") or ([item["host"]] if item.get("host") else None)
        conf_type, conf_id, version = "route", id, self._version
        if "plugin_config_id" in item:  # joined first, so that it wins over the service
            config = configs.get(str(item["plugin_config_id"]))
            if config is None:
                raise self._fail(place, f"there is no plugin config {item['plugin_config_id']!r}")
            plugins = {**(config.get("plugins") or {}), **plugins}
            version = f"{version}#{self._version}"
        upstream, upgrades = self._upstream_of(item, place), item.get("enable_websocket")
        facts = {"route_id": id} | ({"route_name": str(item["name"])} if item.get("name") else {})
        if len(uris) == 1 and not hosts:
            facts["uri_param__path"] = uris[0]
        if "service_id" in item:
            service = services.get(str(item["service_id"]))
            if service is None:
                raise self._fail(place, f"there is no service {item['service_id']!r}")
            plugins = {**(service.get("plugins") or {}), **plugins}
            facts["service_id"] = str(item["service_id"])
            if service.get("name"):
                facts["service_name"] = str(service["name"])
            upstream = upstream or self._upstream_of(service, place)
            upgrades = service.get("enable_websocket") if upgrades is None else upgrades
            conf_type, conf_id = "route&service", f"{id}&{item['service_id']}"
            version = f"{version}&{self._version}"
            if hosts is None:
                hosts = service.get("hosts")
        methods = item.get("methods") or item.get("method") or ()
        return Route(
            id=id,
            uris=uris,
            upstream=upstream or (Balanced.of(self._default) if self._default is not None else None),
            plugins=self._plugins(plugins, conf_type, conf_id, place, version),
            methods=(methods,) if isinstance(methods, str) else tuple(methods),
            hosts=tuple(hosts or ()),
            addresses=self._addresses(item, place),
            condition=self._condition(item["vars"], f"{place}: vars") if item.get("vars") else None,
            priority=int(item.get("priority", 0)),
            conf_type=conf_type,
            conf_id=conf_id,
            version=version,
            upgrades=bool(upgrades),
            facts=facts,
        )

    def _plugins(
        self, plugins: Mapping[str, Any], conf_type: str, conf_id: str, place: str, version: str = ""
    ) -> dict[str, PluginConf]:
        found = {}
        for name, conf in plugins.items():
            if name not in PLUGINS:
                if name in self._ours:
                    raise self._fail(
                        f"{place}: {name}",
                        "here APISIX looks for plugins of its own; one of the runner's is named in plugins: "
                        f"{{ext-plugin-pre-req: {{conf: [{{name: {name}, value: '{{...}}'}}]}}}}",
                    )
                why = f"the development gateway has only {', '.join(PLUGINS)}"
                if name.startswith("serverless-"):
                    why = "the development gateway runs no Lua"
                logging.getLogger("gatewright.dev").warning("%s: plugin %s is ignored: %s", place, name, why)
                continue
            conf = conf or {}
            if isinstance(conf.get("_meta"), dict) and conf["_meta"].get("disable"):
                continue
            if name in LEAN_PLUGINS:
                conf = self._lean_conf(conf, f"{place}: {name}")
            if name in _EXT_PLUGINS:
                self._check_ext_plugin(conf, f"{place}: {name}")
            for entry in conf.get("conf") or []:
                if not isinstance(entry, dict) or not {"name", "value"} <= set(entry):
                    raise self._fail(place, f"{name}: each entry of `conf` needs `name` and `value`")
                if not isinstance(entry["name"], str) or not isinstance(entry["value"], str):
                    raise self._fail(place, f"{name}: `name` and `value` are strings; write the value as JSON text")
            if name in BUILTINS:
                self._check_builtin(name, conf, f"{place}: {name}")
            rule = (conf.get("_meta") or {}).get("filter")
            found[name] = PluginConf(
                conf,
                f"{conf_type}#{conf_id}#{name}#{version or self._version}",
                self._condition(rule, f"{place}: {name}: _meta.filter") if rule else None,
            )
        return found

    def _condition(self, rule: object, place: str) -> Condition:
        try:
            return condition_of(rule)
        except (ValueError, re.error) as error:
            raise self._fail(place, str(error)) from None

    def _addresses(self, item: Mapping[str, Any], place: str) -> tuple[str, ...]:
        given = item.get("remote_addrs") or item.get("remote_addr") or ()
        addresses = (given,) if isinstance(given, str) else tuple(map(str, given))
        for address in addresses:
            try:
                ip_network(address, strict=False)
            except ValueError:
                raise self._fail(place, f"remote_addrs: {address!r} is no address and no network") from None
        return addresses

    def _check_builtin(self, name: str, conf: Mapping[str, Any], place: str) -> None:
        try:
            BUILTINS[name].check(conf)
        except (ValueError, re.error) as error:
            raise self._fail(place, str(error)) from None

    def _lean_conf(self, conf: Mapping[str, Any], place: str) -> dict[str, Any]:
        """A configuration of the lean path's plugins, whose schema allows nothing else; values as JSON text."""
        entries = conf.get("conf")
        if not isinstance(entries, list) or not entries:
            raise self._fail(place, "`conf` is a list of one entry at least, each with `name` and `value`")
        for thing, allowed in ((conf, {"conf", "_meta"}), *((entry, {"name", "value"}) for entry in entries)):
            if not isinstance(thing, dict) or "name" not in {*thing, *({"name"} if thing is conf else ())}:
                raise self._fail(place, "each entry of `conf` needs a `name`")
            unknown = sorted(set(thing) - allowed, key=str)
            if unknown:
                raise self._fail(place, f"`{unknown[0]}` means nothing here; APISIX doesn't take the route")
        for entry in entries:
            if not isinstance(entry.get("value", ""), str | dict):
                raise self._fail(place, f"the `value` of {entry['name']} is an object, or JSON text")
        values = [entry.get("value", "{}") for entry in entries]
        return {
            "conf": [
                {"name": entry["name"], "value": value if isinstance(value, str) else json.dumps(value)}
                for entry, value in zip(entries, values, strict=True)
            ]
        }

    def _check_ext_plugin(self, conf: Mapping[str, Any], place: str) -> None:
        """See that plugins are named where APISIX looks for them; elsewhere the route would be left open, unsaid."""
        unknown = sorted(set(conf) - _EXT_PLUGIN_FIELDS, key=str)
        if unknown:
            raise self._fail(
                place, f"`{unknown[0]}` means nothing here; name plugins in `conf`, a list of `name` and `value`"
            )
        if conf.get("conf") == []:
            raise self._fail(place, "`conf` is empty: APISIX wants one entry at least")

    def _upstream_of(self, item: Mapping[str, Any], place: str) -> Balanced | None:
        if "upstream_id" in item:
            upstream = self._by_id("upstreams").get(str(item["upstream_id"]))
            if upstream is None:
                if self._default is not None and not self._content.get("upstreams"):
                    return Balanced.of(self._default)
                raise self._fail(place, f"there is no upstream {item['upstream_id']!r}")
            return self._upstream(upstream, item, place)
        return self._upstream(item["upstream"], item, place) if item.get("upstream") else None

    def _upstream(self, upstream: Mapping[str, Any], item: Mapping[str, Any], place: str) -> Balanced:
        unknown = sorted(set(upstream) - UPSTREAM_FIELDS)
        if unknown:
            raise self._fail(place, f"upstream: `{unknown[0]}` is not supported by the development gateway")
        try:
            return balanced(upstream, item.get("timeout") or upstream.get("timeout") or {})
        except ValueError as error:
            raise self._fail(place, f"upstream: {error}") from None
