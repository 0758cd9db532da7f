"""Routes in APISIX's own standalone format (`apisix.yaml`), as far as a plugin's author needs it.

Understood: routes (uri, uris, methods, hosts, priority, plugins, upstream, upstream_id, service_id, plugin_config_id),
services, upstreams, plugin_configs, consumers (key-auth), global_rules; the plugins of `PLUGINS`. What else there is
is refused by name, or, for a plugin, ignored with a warning: it would be a poor rehearsal to leave it out silently.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gatewright.dev.messages import raw
from gatewright.dev.target import Upstream
from gatewright.errors import ConfigError
from gatewright.yaml_faults import yaml_fault

__all__ = [
    "ASKING_PLUGINS",
    "LEAN_PLUGINS",
    "PLUGINS",
    "REWRITING_PLUGINS",
    "PluginConf",
    "Route",
    "Routes",
    "load_routes",
]

PLUGINS = (
    "ext-plugin-pre-req", "ext-plugin-post-req", "ext-plugin-post-resp",
    "gatewright", "gatewright-after", "gatewright-response", "proxy-rewrite", "response-rewrite", "key-auth",
)  # fmt: skip
_EXT_PLUGINS = frozenset(PLUGINS[:3])
LEAN_PLUGINS = frozenset(PLUGINS[3:6])
ASKING_PLUGINS = _EXT_PLUGINS | LEAN_PLUGINS
"""Those that ask a runner."""
REWRITING_PLUGINS = frozenset(PLUGINS[6:8])
"""APISIX's own that change requests or answers."""
_LONGEST_REST = 6398
"""Bytes that `*` after a slash takes: APISIX's router makes it a group of single characters, for each of which the
matching of regular expressions needs some of its stack."""
_EXACT = 1 << 20
"""The score of what matches whole, above that of any pattern with a wildcard."""
_EXT_PLUGIN_FIELDS = frozenset(("conf", "allow_degradation", "_meta"))
_ROUTE_FIELDS = frozenset(
    (
        "id", "name", "desc", "uri", "uris", "methods", "method", "host", "hosts", "priority", "plugins", "upstream",
        "upstream_id", "service_id", "plugin_config_id", "status", "labels", "create_time", "update_time",
        "enable_websocket", "timeout"
    )
)  # fmt: skip
_UPSTREAM_FIELDS = frozenset(
    (
        "id", "name", "desc", "type", "nodes", "scheme", "pass_host", "upstream_host", "retries", "retry_timeout",
        "timeout", "keepalive_pool", "labels", "hash_on", "key", "create_time", "update_time"
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PluginConf:
    """A plugin's configuration and the key under which its token is cached."""

    conf: Mapping[str, Any]
    key: str

    @property
    def entries(self) -> list[tuple[str, str]] | None:
        """Names and values of an ext-plugin's `conf`; `None` where the field is absent."""
        entries = self.conf.get("conf")
        return None if entries is None else [(entry["name"], entry["value"]) for entry in entries]

    @property
    def allow_degradation(self) -> bool:
        """Whether requests pass when the runner fails."""
        return bool(self.conf.get("allow_degradation", False))


@dataclass(frozen=True, slots=True)
class Route:
    """A route with all that its service and plugin config add to it."""

    id: str
    uris: tuple[str, ...]
    upstream: Upstream | None
    plugins: Mapping[str, PluginConf]
    methods: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    priority: int = 0
    conf_type: str = "route"
    conf_id: str = ""
    version: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    """`route_id`, and where there are such, `route_name`, `service_id`, `service_name`."""

    def matches(self, method: str, host: str, path: str) -> tuple[int, int, int] | None:
        """How well a request matches, higher is better; `None` if it doesn't."""
        if self.methods and method not in self.methods:
            return None
        where = max((_host_score(pattern, host) for pattern in self.hosts), default=-1)
        if self.hosts and where < 0:
            return None
        best = max((_uri_score(pattern, path) for pattern in self.uris), default=-1)
        return None if best < 0 else (where, best, self.priority)


@dataclass(frozen=True, slots=True)
class Routes:
    """All that a route file says."""

    routes: Sequence[Route]
    global_rules: Sequence[Mapping[str, PluginConf]] = ()
    consumers: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    """By key-auth key: the consumer's name and plugins."""
    version: str = ""
    known_consumers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """All of them, by name: their plugins."""

    def find(self, method: str, host: str, path: str) -> Route | None:
        """The route for a request: by hosts, then by uris, of both the exact before the longer, then by priority."""
        scored = [(score, route) for route in self.routes if (score := route.matches(method, host, path)) is not None]
        return max(scored, key=lambda item: item[0])[1] if scored else None


def _host_score(pattern: str, host: str) -> int:
    host, pattern = host.rsplit(":", 1)[0].lower(), pattern.lower()
    if pattern.startswith("*"):
        return len(pattern) - 1 if host.endswith(pattern[1:]) else -1
    return _EXACT if host == pattern else -1


def _uri_score(pattern: str, path: str) -> int:
    if pattern.endswith("/*") and len(raw(path)) - len(raw(pattern)) + 1 > _LONGEST_REST:
        return -1
    if pattern.endswith("*"):
        return len(pattern) - 1 if path.startswith(pattern[:-1]) else -1
    return _EXACT if path == pattern else -1


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
    return build_routes(content, source=str(file), version=version, default_upstream=default_upstream, ours=ours)


def build_routes(
    content: object,
    *,
    source: str = "routes",
    version: str = "",
    default_upstream: Upstream | None = None,
    ours: Container[str] = (),
) -> Routes:
    """Routes of an already parsed file.

    Raises:
        ConfigError: as `load_routes`.
    """
    builder = _Builder(content, source, version or str(int(time.time())), default_upstream, ours)
    try:
        return builder.build()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{source}: not of APISIX's form: {type(error).__name__}: {error}") from error


class _Builder:
    def __init__(
        self, content: object, source: str, version: str, default_upstream: Upstream | None, ours: Container[str]
    ) -> None:
        if not isinstance(content, dict) or not isinstance(content.get("routes"), list):
            raise ConfigError(f"{source}: expected a list under `routes:`, as in APISIX's standalone apisix.yaml")
        self._content = content
        self._source = source
        self._version = version
        self._default = default_upstream
        self._ours = ours

    def _fail(self, place: str, problem: str) -> ConfigError:
        return ConfigError(f"{self._source}: {place}: {problem}")

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
        consumers, known = {}, {}
        for consumer in self._content.get("consumers") or []:
            name = str(consumer.get("username"))
            plugins = known[name] = {
                plugin: self._lean_conf(conf, f"consumer {name}: {plugin}") if plugin in LEAN_PLUGINS else conf
                for plugin, conf in (consumer.get("plugins") or {}).items()
            }
            if "key-auth" in plugins:
                consumers[str(plugins["key-auth"]["key"])] = (str(consumer["username"]), plugins)
        return Routes(routes, rules, consumers, self._version, known)

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
        upstream = self._upstream_of(item, place)
        facts = {"route_id": id} | ({"route_name": str(item["name"])} if item.get("name") else {})
        if "service_id" in item:
            service = services.get(str(item["service_id"]))
            if service is None:
                raise self._fail(place, f"there is no service {item['service_id']!r}")
            plugins = {**(service.get("plugins") or {}), **plugins}
            facts["service_id"] = str(item["service_id"])
            if service.get("name"):
                facts["service_name"] = str(service["name"])
            upstream = upstream or self._upstream_of(service, place)
            conf_type, conf_id = "route&service", f"{id}&{item['service_id']}"
            version = f"{version}&{self._version}"
            if hosts is None:
                hosts = service.get("hosts")
        methods = item.get("methods") or item.get("method") or ()
        return Route(
            id=id,
            uris=uris,
            upstream=upstream or self._default,
            plugins=self._plugins(plugins, conf_type, conf_id, place, version),
            methods=(methods,) if isinstance(methods, str) else tuple(methods),
            hosts=tuple(hosts or ()),
            priority=int(item.get("priority", 0)),
            conf_type=conf_type,
            conf_id=conf_id,
            version=version,
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
                        place,
                        f"{name} stands where APISIX looks for plugins of its own; a plugin of the runner is named in "
                        f"plugins: {{ext-plugin-pre-req: {{conf: [{{name: {name}, value: '{{...}}'}}]}}}}",
                    )
                logging.getLogger("gatewright.dev").warning(
                    "%s: plugin %s is ignored: the development gateway has only %s", place, name, ", ".join(PLUGINS)
                )
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
            found[name] = PluginConf(conf, f"{conf_type}#{conf_id}#{name}#{version or self._version}")
        return found

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

    def _upstream_of(self, item: Mapping[str, Any], place: str) -> Upstream | None:
        if "upstream_id" in item:
            upstream = self._by_id("upstreams").get(str(item["upstream_id"]))
            if upstream is None:
                if self._default is not None and not self._content.get("upstreams"):
                    return self._default
                raise self._fail(place, f"there is no upstream {item['upstream_id']!r}")
            return self._upstream(upstream, place)
        return self._upstream(item["upstream"], place) if item.get("upstream") else None

    def _upstream(self, upstream: Mapping[str, Any], place: str) -> Upstream:
        unknown = sorted(set(upstream) - _UPSTREAM_FIELDS)
        if unknown:
            raise self._fail(place, f"upstream: `{unknown[0]}` is not supported by the development gateway")
        nodes = upstream.get("nodes") or {}
        if isinstance(nodes, list):
            pairs = [(str(node["host"]), int(node.get("port", 80))) for node in nodes]
        else:
            pairs = [_host_port(str(name)) for name in nodes]
        if not pairs:
            raise self._fail(place, "upstream: needs `nodes`")
        if len(pairs) > 1:
            logging.getLogger("gatewright.dev").warning("%s: only the upstream's first node is used", place)
        host, port = pairs[0]
        return Upstream(
            host=host,
            port=port,
            scheme=str(upstream.get("scheme", "http")),
            pass_host=str(upstream.get("pass_host", "pass")),
            upstream_host=str(upstream.get("upstream_host", "")),
            retries=int(upstream.get("retries", len(pairs) - 1)),
        )


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return (host, int(port)) if host else (text, 80)
