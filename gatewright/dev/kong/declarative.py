"""Kong's declarative format (`kong.yml`), as far as a plugin's author needs it.

Understood: services, routes, plugins, consumers, upstreams with targets, each where Kong lets it stand. Any other
entity or field is refused by name: it would be a poor rehearsal to leave it out silently. Plugins that no plugin server
has are left out with a warning, and so are consumers' credentials and groups, which are for them: they are Kong's own.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from gatewright.errors import ConfigError
from gatewright.yaml_faults import placed, yaml_fault

__all__ = ["Declared", "Entity", "PluginEntry", "load_content", "load_declarative", "parse_declarative"]

log = logging.getLogger("gatewright.dev.kong")

Entity = dict[str, Any]
"""An entity as the PDK shows it: a table without what was left empty."""

_NAMESPACE = uuid.UUID("6f2c1c86-6c3b-4a3f-9d42-0f5b3f8a7c11")
_WORKSPACE = str(uuid.uuid5(_NAMESPACE, "workspace"))
_COMMON = {"id", "name", "tags", "created_at", "updated_at"}
_FIELDS: dict[str, set[str]] = {
    "services": _COMMON
    | {
        "url", "protocol", "host", "port", "path", "retries", "connect_timeout", "write_timeout", "read_timeout",
        "enabled", "tls_verify", "tls_verify_depth", "routes", "plugins",
    },
    "routes": _COMMON
    | {
        "protocols", "methods", "hosts", "paths", "headers", "https_redirect_status_code", "regex_priority",
        "strip_path", "preserve_host", "path_handling", "request_buffering", "response_buffering", "service",
        "plugins",
    },
    "plugins": _COMMON
    | {"config", "enabled", "protocols", "instance_name", "service", "route", "consumer", "run_on"},
    "consumers": {"id", "username", "custom_id", "tags", "created_at", "updated_at", "plugins"},
    "upstreams": _COMMON | {"algorithm", "slots", "targets"},
    "targets": {"id", "target", "weight", "tags", "upstream", "created_at", "updated_at"},
}  # fmt: skip
_OF_KONGS_PLUGINS = frozenset(
    (
        "keyauth_credentials", "basicauth_credentials", "hmacauth_credentials", "jwt_secrets", "oauth2_credentials",
        "acls",
    )
)  # fmt: skip
_TOP = {"_format_version", "_transform", "_comment", "_info", "_workspace", "_ignore"}
_FORMAT_VERSIONS = ("1.1", "2.1", "3.0")
_TIMEOUT_MS = 60000


@dataclass(frozen=True, slots=True)
class PluginEntry:
    """A plugin's configuration and where it applies: ids, or `None` for any."""

    id: str
    name: str
    config: dict[str, Any]
    route: str | None
    service: str | None
    consumer: str | None
    instance_name: str | None
    where: str


@dataclass(slots=True)
class Declared:
    """What a file declares. Services, routes and consumers are by id; upstreams' targets by name, as (host, port)."""

    services: dict[str, Entity] = field(default_factory=dict)
    routes: dict[str, Entity] = field(default_factory=dict)
    consumers: dict[str, Entity] = field(default_factory=dict)
    plugins: list[PluginEntry] = field(default_factory=list)
    upstreams: dict[str, list[tuple[str, int]]] = field(default_factory=dict)


def load_declarative(file: Path) -> Declared:
    """Read a file.

    Raises:
        ConfigError: it can't be read or is not valid; says where and why.
    """
    try:
        return parse_declarative(load_content(file))
    except ConfigError as error:
        raise ConfigError(placed(file, error)) from None


def load_content(file: Path) -> Any:
    """A file's content.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        return yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(error.strerror or str(error)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(yaml_fault("", error)) from None


def parse_declarative(content: Any) -> Declared:
    """Take a file's content.

    Raises:
        ConfigError: it is not valid; says where and why.
    """
    if not isinstance(content, Mapping):
        raise ConfigError("expected _format_version, services, routes, plugins at the top")
    version = content.get("_format_version")
    if str(version) not in _FORMAT_VERSIONS:
        raise ConfigError(f'_format_version: expected one of {", ".join(_FORMAT_VERSIONS)}, as text ("3.0")')
    for name in content:
        if name in _OF_KONGS_PLUGINS:
            _leave_out(name)
        elif name not in _TOP and name not in ("services", "routes", "plugins", "consumers", "upstreams"):
            raise ConfigError(f"{name}: not known here; the development gateway has services, routes, plugins, "
                              "consumers and upstreams")  # fmt: skip
    return _Reader(content).read()


class _Reader:
    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content
        self._declared = Declared()
        self._now = int(time.time())
        self._by_name: dict[tuple[str, str], str] = {}
        self._plugins: list[tuple[str, Mapping[str, Any], dict[str, str]]] = []

    def read(self) -> Declared:
        routes: list[tuple[str, Mapping[str, Any], str | None]] = []
        for where, item in _items(self._content, "services"):
            service = self._service(where, item)
            routes += [(at, route, service) for at, route in _items(item, "routes", where)]
            self._note_plugins(where, item, service=service)
        routes += [(at, route, None) for at, route in _items(self._content, "routes")]
        for where, item in _items(self._content, "consumers"):
            self._note_plugins(where, item, consumer=self._consumer(where, item))
        for where, item, of in routes:
            self._note_plugins(where, item, route=self._route(where, item, of))
        self._note_plugins("", self._content)
        for where, item, scope in self._plugins:
            self._plugin(where, item, scope)
        for where, item in _items(self._content, "upstreams"):
            self._upstream(where, item)
        return self._declared

    def _note_plugins(self, where: str, item: Mapping[str, Any], **scope: str) -> None:
        self._plugins += [(at, plugin, scope) for at, plugin in _items(item, "plugins", where)]

    def _base(self, kind: str, where: str, item: Mapping[str, Any], name: Any) -> Entity:
        if name is not None and (not isinstance(name, str) or not name.isprintable()):
            raise ConfigError(f"{where}: its name is not a text: {name!r}")
        own = str(item.get("id") or uuid.uuid5(_NAMESPACE, f"{kind}:{name or where}"))
        try:
            uuid.UUID(own)
        except ValueError:
            raise ConfigError(f"{where}.id: expected a valid UUID") from None
        self._by_name[kind, own] = own
        if name:
            if (kind, name) in self._by_name:
                raise ConfigError(f"{where}: there are two of the name {name!r}")
            self._by_name[kind, name] = own
        times: dict[str, Any] = {"created_at": self._now, "updated_at": self._now}
        if kind in ("services", "routes"):
            times["ws_id"] = _WORKSPACE
        rest = {key: value for key, value in item.items() if key not in ("plugins", "routes", "url")}
        return {**times, **{key: value for key, value in rest.items() if value is not None}, "id": own}

    def _service(self, where: str, item: Mapping[str, Any]) -> str:
        entity = {
            "protocol": "http", "port": 80, "retries": 5, "connect_timeout": _TIMEOUT_MS,
            "write_timeout": _TIMEOUT_MS, "read_timeout": _TIMEOUT_MS, "enabled": True,
            **_from_url(item.get("url"), where), **self._base("services", where, item, item.get("name")),
        }  # fmt: skip
        if entity["protocol"] not in ("http", "https"):
            raise ConfigError(f"{where}.protocol: the development gateway has http and https only")
        _check_types(where, entity, {"path": str, "retries": int, "connect_timeout": int, "write_timeout": int,
                                     "read_timeout": int, "tls_verify": bool})  # fmt: skip
        if not isinstance(entity.get("host"), str) or not isinstance(entity["port"], int):
            raise ConfigError(f"{where}: needs a url, or a host and a port")
        self._declared.services[entity["id"]] = entity
        return str(entity["id"])

    def _route(self, where: str, item: Mapping[str, Any], service: str | None) -> str:
        entity = {
            "protocols": ["http", "https"], "https_redirect_status_code": 426, "regex_priority": 0,
            "strip_path": True, "preserve_host": False, "path_handling": "v0", "request_buffering": True,
            "response_buffering": True, **self._base("routes", where, item, item.get("name")),
        }  # fmt: skip
        service = service or self._reference("services", item.get("service"), f"{where}.service")
        if service:
            entity["service"] = {"id": service}
        for name in ("paths", "hosts", "methods", "protocols"):
            values = entity.get(name, [])
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                raise ConfigError(f"{where}.{name}: expected an array of strings")
        _check_types(where, entity, {"regex_priority": int, "strip_path": bool, "preserve_host": bool, "headers": dict,
                                     "path_handling": str})  # fmt: skip
        for name, values in entity.get("headers", {}).items():
            if not isinstance(name, str) or not isinstance(values, list):
                raise ConfigError(f"{where}.headers.{name}: expected an array of strings")
        for path in entity.get("paths", ()):
            if not path.startswith(("/", "~")):
                raise ConfigError(f"{where}.paths: {path} should start with / (or ~/ for a regular expression)")
        self._declared.routes[entity["id"]] = entity
        return str(entity["id"])

    def _consumer(self, where: str, item: Mapping[str, Any]) -> str:
        if not item.get("username") and not item.get("custom_id"):
            raise ConfigError(f"{where}: needs a username or a custom_id")
        own = {name: value for name, value in item.items() if name not in _OF_KONGS_PLUGINS}
        entity = self._base("consumers", where, own, item.get("username"))
        self._declared.consumers[entity["id"]] = entity
        return str(entity["id"])

    def _plugin(self, where: str, item: Mapping[str, Any], scope: Mapping[str, str]) -> None:
        name, config = item.get("name"), item.get("config")
        if not isinstance(name, str):
            raise ConfigError(f"{where}.name: required field missing")
        if config is not None and not isinstance(config, Mapping):
            raise ConfigError(f"{where}.config: expected a record")
        if item.get("enabled") is False:
            return
        places = {
            kind: scope.get(kind) or self._reference(f"{kind}s", item.get(kind), f"{where}.{kind}")
            for kind in ("route", "service", "consumer")
        }
        own = str(item.get("id") or uuid.uuid5(_NAMESPACE, f"plugins:{where}"))
        if any((each.name, each.route, each.service, each.consumer) == (name, *places.values())
               for each in self._declared.plugins):  # fmt: skip
            raise ConfigError(f"{where}: the plugin {name} is there twice for the same place")
        self._declared.plugins.append(
            PluginEntry(own, name, dict(config or {}), **places, instance_name=item.get("instance_name"), where=where)
        )

    def _upstream(self, where: str, item: Mapping[str, Any]) -> None:
        name = item.get("name")
        if not isinstance(name, str):
            raise ConfigError(f"{where}.name: required field missing")
        targets = []
        for at, target in _items(item, "targets", where):
            host, colon, port = str(target.get("target", "")).rpartition(":")
            if not colon:
                host, port = port, "8000"
            if not host or not port.isdigit():
                raise ConfigError(f"{at}.target: expected host:port")
            targets.append((host, int(port)))
        self._declared.upstreams[name] = targets

    def _reference(self, kind: str, value: Any, where: str) -> str | None:
        if value is None:
            return None
        if isinstance(value, Mapping):
            value = value.get("id") or value.get("name") or value.get("username")
        known = self._by_name.get((kind, str(value)))
        if known is None:
            raise ConfigError(f"{where}: there is no {kind[:-1]} {value!r}")
        return known


def _items(content: Mapping[str, Any], kind: str, where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    place = f"{where}.{kind}" if where else kind
    items = content.get(kind) or []
    if not isinstance(items, list):
        raise ConfigError(f"{place}: expected an array")
    for number, item in enumerate(items):
        at = f"{place}[{number}]"
        if not isinstance(item, Mapping):
            raise ConfigError(f"{at}: expected a record")
        for name in item:
            if kind == "consumers" and name in _OF_KONGS_PLUGINS:
                _leave_out(f"{at}.{name}")
            elif name not in _FIELDS[kind]:
                raise ConfigError(f"{at}.{name}: unknown field")
        yield at, item


def _leave_out(place: str) -> None:
    log.warning("%s: left out, it is for a plugin of Kong's own; kong.client.authenticate takes any credential", place)


def _check_types(where: str, entity: Entity, types: Mapping[str, type]) -> None:
    for name, wanted in types.items():
        value = entity.get(name)
        if value is not None and (not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))):
            words = {str: "a string", int: "an integer", bool: "a boolean", dict: "a map"}[wanted]
            raise ConfigError(f"{where}.{name}: expected {words}")


def _from_url(url: Any, where: str) -> Entity:
    if url is None:
        return {}
    try:
        parts = urlsplit(str(url))
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise ConfigError(f"{where}.url: {error}") from None
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise ConfigError(f"{where}.url: expected http://host:port/path or https://…, not {url!r}")
    found: Entity = {"protocol": parts.scheme, "host": parts.hostname, "port": port}
    if parts.path:
        found["path"] = parts.path
    return found
