"""Finding a request's route as Kong's router does (flavor "traditional_compatible")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gatewright.dev.kong.declarative import Declared, Entity
from gatewright.errors import ConfigError

__all__ = ["Match", "Router"]

_PCRE_NAME = re.compile(r"\(\?<(?![=!])")


@dataclass(frozen=True, slots=True)
class Match:
    """A route that suits, and what follows from it.

    Attributes:
        route: the route.
        service: its service, or `None`.
        upstream_path: the path for the service, with what matched left out if the route says so.
        prefix: the part of the path that matched.
        unnamed: captures of a regular expression, the whole match first.
        named: its named captures.
    """

    route: Entity
    service: Entity | None
    upstream_path: str
    prefix: str
    unnamed: list[str] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)

    @property
    def stripped(self) -> str:
        """What is taken off the path for the service; empty for nothing."""
        return self.prefix if self.route["strip_path"] and self.prefix != "/" else ""


class Router:
    """Knows all routes, best first."""

    def __init__(self, declared: Declared) -> None:
        """Sort the routes.

        Raises:
            ConfigError: a path is not a valid regular expression.
        """
        self._services = declared.services
        self._routes = sorted(map(_Candidate, declared.routes.values()), key=lambda each: each.weight, reverse=True)

    def find(self, method: str, host: str, path: str, headers: Mapping[str, list[str]]) -> Match | None:
        """The best route for a request.

        Args:
            method: the request's method.
            host: its host, without port, in lower case.
            path: its normalized path.
            headers: its headers; names in lower case.
        """
        if not path.isprintable() and re.search("[\udc80-\udcff]", path):  # the router has no place for such bytes
            return None
        for candidate in self._routes:
            found = candidate.match(method, host, path, headers)
            if found is not None:
                route, (prefix, unnamed, named) = candidate.route, found
                service = self._services.get(route.get("service", {}).get("id"))
                return Match(route, service, _upstream_path(route, service, path, prefix), prefix, unnamed, named)
        return None


class _Candidate:
    """A route with what its paths mean."""

    def __init__(self, route: Entity) -> None:
        self.route = route
        self._paths: list[str | re.Pattern[str]] = []
        for path in route.get("paths") or ["/"]:
            self._paths.append(_expression(route, path) if path.startswith("~") else path)
        self._paths.sort(key=_weight_of_path, reverse=True)
        hosts = route.get("hosts") or []
        kinds = sum(bool(route.get(name)) for name in ("methods", "hosts", "paths", "headers"))
        has_regex = any(isinstance(path, re.Pattern) for path in self._paths)
        longest = max(len(path) for path in route.get("paths") or [""])
        plain_hosts = bool(hosts) and not any("*" in host for host in hosts)
        self.weight = (kinds, plain_hosts, len(route.get("headers") or ()), has_regex,
                       route["regex_priority"] if has_regex else 0, longest)  # fmt: skip

    def match(
        self, method: str, host: str, path: str, headers: Mapping[str, list[str]]
    ) -> tuple[str, list[str], dict[str, str]] | None:
        """What of the path matches, and the captures; `None` if the route doesn't suit."""
        route = self.route
        if route.get("methods") and method not in route["methods"]:
            return None
        if route.get("hosts") and not any(_suits_host(pattern, host) for pattern in route["hosts"]):
            return None
        for name, wanted in (route.get("headers") or {}).items():
            given = {value.lower() for value in headers.get(name.lower(), ())}
            if given.isdisjoint(str(value).lower() for value in wanted):
                return None
        for pattern in self._paths:
            if isinstance(pattern, str):
                if path.startswith(pattern):
                    return pattern, [], {}
                continue
            found = pattern.match(path)
            if found is not None:
                named = {name: value for name, value in found.groupdict().items() if value is not None}
                return found[0], [found[0], *(value or "" for value in found.groups())], named
        return None


def _expression(route: Entity, path: str) -> re.Pattern[str]:
    try:
        return re.compile(_PCRE_NAME.sub("(?P<", path[1:]))
    except re.error as error:
        name = route.get("name") or route["id"]
        raise ConfigError(f"route {name}: {path} is no regular expression: {error}") from None


def _weight_of_path(path: str | re.Pattern[str]) -> tuple[bool, int]:
    return isinstance(path, re.Pattern), len(path) if isinstance(path, str) else 0


def _suits_host(pattern: str, host: str) -> bool:
    name = pattern.partition(":")[0].lower()
    if name.startswith("*"):
        return host.endswith(name[1:])
    return host.startswith(name[:-1]) if name.endswith("*") else host == name


def _upstream_path(route: Entity, service: Any, path: str, prefix: str) -> str:
    """Path handling "v0": one slash between the service's path and the rest."""
    base = (service or {}).get("path") or "/"
    rest = path[len(prefix) :] if route["strip_path"] else path
    if route["path_handling"] == "v1" and route["strip_path"]:
        return base + rest
    return (base.rstrip("/") + "/" + rest.lstrip("/")) if rest else base
