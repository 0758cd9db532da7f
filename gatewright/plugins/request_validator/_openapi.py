"""An OpenAPI 3.1 document's operations: parameters and request bodies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from gatewright import ConfigError
from gatewright.plugins.request_validator._faults import Part, pointer
from gatewright.plugins.request_validator._operations import Body, Operation, Parameters
from gatewright.plugins.request_validator._schemas import Schema, Schemas
from gatewright.plugins.request_validator._shapes import Shape, shape_of

__all__ = ["document_of", "operations_of"]

_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_PARTS: Final[Mapping[str, Part]] = {"query": "query", "header": "headers", "path": "path", "cookie": "cookies"}
_STYLES: Final = {"query": "form", "header": "simple", "path": "simple", "cookie": "form"}
_NOT_PARAMETERS: Final = ("accept", "content-type", "authorization")  # OpenAPI 3.1, 4.8.12.2


def document_of(said: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """The document that a configuration holds or refers to.

    Args:
        said: the document, its text in JSON or YAML, or `file:/path`.

    Raises:
        ConfigError: it can't be read, or is no OpenAPI 3.1 document.
    """
    if isinstance(said, str):
        if said.startswith("file:"):
            try:
                said = Path("/" + said.removeprefix("file:").lstrip("/")).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"openapi can't be read: {error}") from None
        try:
            document = yaml.load(said, _Loader)  # noqa: S506 - a SafeLoader
        except yaml.YAMLError as error:
            raise ConfigError(f"openapi is neither JSON nor YAML: {error}") from None
    else:
        document = said
    version = document.get("openapi") if isinstance(document, Mapping) else None
    if not isinstance(version, str) or not version.startswith(("3.1.", "3.2.")):
        raise ConfigError(f"openapi is to be a document of OpenAPI 3.1, not of {version!r}: 3.0 has other schemas")
    return dict(document)


class _Loader(yaml.SafeLoader):
    """YAML as JSON has it: dates stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def operations_of(
    document: Mapping[str, Any], schemas: Schemas, *, only_known_arguments: bool
) -> dict[str, dict[str, Operation]]:
    """A document's operations, by path and method.

    Raises:
        ConfigError: a schema is none, or a parameter is serialised in a way that isn't known here.
    """
    return _Reader(document, schemas, only_known_arguments).operations()


class _Reader:
    def __init__(self, document: Mapping[str, Any], schemas: Schemas, only_known_arguments: bool) -> None:
        self._document = document
        self._schemas = schemas
        self._only_known = only_known_arguments

    def operations(self) -> dict[str, dict[str, Operation]]:
        found: dict[str, dict[str, Operation]] = {}
        paths = self._document.get("paths") or {}
        for path, item in paths.items():
            if not path.startswith("/"):
                raise ConfigError(f"openapi: the path {path!r} doesn't begin with a slash")
            item, place = self._followed(item, pointer(["paths", path]))
            found[path] = {
                method.upper(): self._operation(item[method], place, f"{place}/{method}", item)
                for method in _METHODS
                if method in item
            }
        if not found:
            raise ConfigError("openapi has no paths, so no request could pass")
        return found

    def _followed(self, value: Any, place: str) -> tuple[Any, str]:
        """What a reference stands for, and where that is."""
        for _ in range(20):
            if not isinstance(value, Mapping) or "$ref" not in value:
                return value, place
            reference = str(value["$ref"])
            if not reference.startswith("#/"):
                raise ConfigError(
                    f"openapi: {reference!r} at {place} leads out of the document, and nothing is fetched"
                )
            place, value = reference[1:], self._document
            for step in place.split("/")[1:]:
                step = step.replace("~1", "/").replace("~0", "~")
                if not isinstance(value, Mapping) or step not in value:
                    raise ConfigError(f"openapi: {reference!r} leads nowhere")
                value = value[step]
        raise ConfigError(f"openapi: the references at {place} go in a circle")

    def _operation(self, operation: Any, above: str, place: str, item: Mapping[str, Any]) -> Operation:
        parameters: dict[tuple[str, str], tuple[Mapping[str, Any], str]] = {}
        for holder, where in ((item, above), (operation, place)):
            for number, each in enumerate(holder.get("parameters", ())):
                each, at = self._followed(each, f"{where}/parameters/{number}")
                parameters[each["in"], each["name"]] = each, at
        return Operation(
            [*self._parameters(parameters)], self._bodies(operation, place), self._needs_body(operation, place)
        )

    def _parameters(self, parameters: Mapping[tuple[str, str], tuple[Mapping[str, Any], str]]) -> Iterator[Parameters]:
        for kind, part in _PARTS.items():
            properties: dict[str, Any] = {}
            shape, required, lists = Shape(), [], set()
            for (each_kind, name), (each, place) in parameters.items():
                if each_kind != kind or (kind == "header" and name.lower() in _NOT_PARAMETERS):
                    continue
                name = name.lower() if kind == "header" else name
                schema = self._schema_of(each, kind, place)
                properties[name] = {"$ref": schema[0]}
                shape.properties[name] = shape_of(schema[1])
                if each.get("required") or kind == "path":
                    required.append(name)
                if "array" in shape.properties[name].types and not each.get("explode", kind in ("query", "cookie")):
                    lists.add(name)
            if not properties and not (kind == "query" and self._only_known):
                continue
            whole: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
            if kind == "query" and self._only_known:
                whole["additionalProperties"] = False
            shape.fills = any(each.fills or each.has_default for each in shape.properties.values())
            yield Parameters(part, self._schemas.compile_with(whole, self._document, f"openapi: {part}"), shape,
                             frozenset(lists))  # fmt: skip

    def _schema_of(self, parameter: Mapping[str, Any], kind: str, place: str) -> tuple[str, Schema]:
        if "schema" not in parameter:
            raise ConfigError(
                f"openapi: the parameter at {place} has no `schema` (one with `content` is not known here)"
            )
        style = parameter.get("style", _STYLES[kind])
        if style != _STYLES[kind]:
            raise ConfigError(f"openapi: the parameter at {place} has the style {style}; known is {_STYLES[kind]}")
        inner = f"{place}/schema"
        return self._schemas.reference(inner), self._schemas.compile_part(self._document, inner, f"openapi: {inner}")

    def _bodies(self, operation: Mapping[str, Any], place: str) -> dict[str, Body]:
        if "requestBody" not in operation:
            return {}
        body, at = self._followed(operation["requestBody"], f"{place}/requestBody")
        found = {}
        for media, each in body.get("content", {}).items():
            if "schema" not in each:
                found[media.lower()] = Body()
                continue
            inner = at + pointer(["content", media, "schema"])
            schema = self._schemas.compile_part(self._document, inner, f"openapi: {inner}")
            found[media.lower()] = Body(schema, shape_of(schema))
        return found

    def _needs_body(self, operation: Mapping[str, Any], place: str) -> bool:
        if "requestBody" not in operation:
            return False
        return bool(self._followed(operation["requestBody"], f"{place}/requestBody")[0].get("required", False))
