"""JSON Schemas, compiled once by jsonschema-rs: nothing is fetched, and no pattern takes without end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Final, Literal
from urllib.parse import quote, unquote

import jsonschema_rs

from gatewright import ConfigError
from gatewright.plugins.request_validator._bounds import TOO_LARGE, branches_of, may_be_told
from gatewright.plugins.request_validator._faults import Fault, Part, pointer

__all__ = ["Draft", "Schema", "Schemas"]

Draft = Literal["2020-12", "draft-07"]
_DRAFTS: Final = {
    "2020-12": (jsonschema_rs.Draft202012Validator, jsonschema_rs.Draft202012),
    "draft-07": (jsonschema_rs.Draft7Validator, jsonschema_rs.Draft7),
}
_OF_URI: Final[Mapping[str, Draft]] = {
    "https://json-schema.org/draft/2020-12/schema": "2020-12",
    "http://json-schema.org/draft-07/schema": "draft-07",
}
_HERE: Final = "urn:gatewright:document"
_BACKTRACKS: Final = 100_000


class Schema:
    """A compiled schema.

    Attributes:
        source: the schema as it was given.
        resolve: follows the `$ref`s of a part of it that lead somewhere in the same document.
    """

    __slots__ = ("_branches", "_validator", "resolve", "source")

    def __init__(self, validator: Any, source: Any, resolve: Callable[[Any], Any]) -> None:
        self._validator = validator
        self._branches = branches_of(source, resolve)
        self.source = source
        self.resolve = resolve

    def faults(self, part: Part, value: Any, most: int) -> list[Fault]:
        """What of a value doesn't suit the schema, at most so many faults; of what is large, that it doesn't."""
        validator = self._validator
        if validator.is_valid(value):
            return []
        if not may_be_told(value, self._branches):
            return [replace(TOO_LARGE, part=part)]
        found = islice(validator.iter_errors(value), most)
        return [Fault(part, pointer(error.instance_path), error.message, error.kind.name) for error in found]


class Schemas:
    """Compiles schemas of one configuration.

    Args:
        draft: what schemas without `$schema` are.
        formats: whether `format` is checked.
        documents: other schemas, by the URI under which `$ref` may name them.
    """

    def __init__(self, draft: Draft, *, formats: bool, documents: Mapping[str, Any] | None = None) -> None:
        self._draft = draft
        self._formats = formats
        self._documents = dict(documents or {})

    def compile(self, schema: Any, field: str) -> Schema:
        """Compile a schema.

        Raises:
            ConfigError: it is none, or a `$ref` leads out of the document; names the field.
        """
        draft = self._draft_of(schema, field)
        return self._made(draft, schema, list(self._documents.items()), field, _Resolver(schema))

    def compile_with(self, schema: Any, document: Any, field: str) -> Schema:
        """Compile a schema of 2020-12 that refers to parts of a document (`reference`)."""
        resources = [*self._documents.items(), (_HERE, document)]
        return self._made("2020-12", schema, resources, field, _Resolver(document))

    def reference(self, place: str) -> str:
        """How a schema refers to a part of the document that it is compiled with."""
        return f"{_HERE}#{quote(place)}"

    def compile_part(self, document: Any, place: str, field: str) -> Schema:
        """Compile the part of a document that a JSON pointer leads to, as a schema of 2020-12.

        Raises:
            ConfigError: see `compile`.
        """
        made = self.compile_with({"$ref": self.reference(place)}, document, field)
        made.source = made.resolve({"$ref": f"#{quote(place)}"})
        return made

    def _draft_of(self, schema: Any, field: str, depth: int = 0) -> Draft:
        said = schema.get("$schema") if isinstance(schema, Mapping) else None
        if said is None:
            return self._draft
        uri = str(said).removesuffix("#")
        if uri in self._documents and depth < 10:  # a dialect of one's own, which says in turn what it is made of
            return self._draft_of(self._documents[uri], field, depth + 1)
        draft = _OF_URI.get(uri)
        if draft is None:
            raise ConfigError(f"{field}: $schema is {said!r}; known are {', '.join(_OF_URI)}, and what `documents` has")
        return draft

    def _made(
        self, draft: Draft, schema: Any, resources: list[tuple[str, Any]], field: str, resolve: Callable[[Any], Any]
    ) -> Schema:
        validator, number = _DRAFTS[draft]
        try:
            compiled = validator(
                schema,
                validate_formats=self._formats,
                registry=jsonschema_rs.Registry(resources, draft=number) if resources else None,
                retriever=_fetch_nothing,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACKS),
            )
        except (ValueError, TypeError, jsonschema_rs.ReferencingError) as error:
            text = str(error).partition("\n")[0]
            raise ConfigError(f"{field} is not a usable JSON Schema: {text}") from None
        return Schema(compiled, schema, resolve)


def _fetch_nothing(uri: str) -> Any:
    raise ValueError("nothing is fetched: $ref has to stay in the document, or name one of `documents`")


class _Resolver:
    """Follows `$ref`s that are JSON pointers into the same document."""

    def __init__(self, document: Any) -> None:
        self._document = document

    def __call__(self, schema: Any) -> Any:
        for _ in range(100):  # a circle of references alone says nothing
            if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
                return schema
            target = self._find(schema["$ref"])
            if target is None:
                return schema
            schema = target
        return {}

    def _find(self, reference: str) -> Any:
        reference = reference.removeprefix(_HERE)
        if not reference.startswith("#"):
            return None
        value = self._document
        for step in _steps(reference[1:]):
            if isinstance(value, Mapping) and step in value:
                value = value[step]
            elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        return value


def _steps(place: str) -> Iterator[str]:
    for step in unquote(place).split("/")[1:]:
        yield step.replace("~1", "/").replace("~0", "~")
