"""The configuration of request-validator, each field with its meaning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from gatewright.plugins._shared.model import field
from gatewright.plugins.request_validator._bodies import FORM, JSON, MULTIPART

__all__ = ["RequestValidatorConfig"]

_KINDS = (JSON, FORM, MULTIPART)


class RequestValidatorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What requests have to be; schemas are objects, or JSON text (as they have to be on Kong)."""

    schema: Annotated[str | dict[str, Any] | None, field("The JSON Schema of the body.")] = None
    query_schema: Annotated[
        str | dict[str, Any] | None, field("The JSON Schema of the query's arguments, an object.")
    ] = None
    headers_schema: Annotated[
        str | dict[str, Any] | None, field("The JSON Schema of the headers that it names, an object.")
    ] = None
    path_schema: Annotated[
        str | dict[str, Any] | None, field("The JSON Schema of what the names in `path` stand for.")
    ] = None
    path: Annotated[str, field("The request's path, with {names}. Empty: any; otherwise others are unmatched.")] = ""
    model: Annotated[
        str, field("Instead of `schema`: a pydantic model, msgspec Struct or dataclass, as package.module:Name.")
    ] = ""
    openapi: Annotated[
        str | dict[str, Any],
        field("Instead of all these: an OpenAPI 3.1 document, as an object, as JSON or YAML text, or file:/path."),
    ] = ""
    base_path: Annotated[str, field("What stands before all paths of `openapi` or `path`, such as /v1.")] = ""
    unmatched: Annotated[
        Literal["refuse", "pass"], field("What becomes of requests for paths that `openapi` or `path` doesn't have.")
    ] = "refuse"
    only_known_arguments: Annotated[
        bool, field("Refuse arguments of the query that an operation of `openapi` doesn't name.")
    ] = False
    documents: Annotated[
        str | dict[str, dict[str, Any]],
        field("Schemas that `$ref` may name, by URI. Nothing is ever fetched."),
    ] = ""
    draft: Annotated[Literal["2020-12", "draft-07"], field("What schemas without `$schema` are.")] = "2020-12"
    formats: Annotated[bool, field("Whether `format` is checked.")] = True
    methods: Annotated[
        tuple[str, ...], field("Methods that need a body, with `schema` or `model`; of others a body is only checked.")
    ] = ("POST", "PUT", "PATCH")
    content_types: Annotated[
        tuple[str, ...],
        field("Media types that `schema` or `model` is for; the others there are: " + ", ".join(_KINDS[1:]) + "."),
    ] = (JSON,)
    fill_defaults: Annotated[
        bool, field("Fill in what is missing and has a default, and send that to the upstream.")
    ] = True
    max_bytes: Annotated[int, field("The longest body.", unit="bytes", ge=1)] = 1 << 20
    max_depth: Annotated[
        int, field("How deep arrays and objects may be in one another.", unit="levels", ge=1, le=500)
    ] = 64
    max_faults: Annotated[int, field("At most so many faults are told.", ge=1, le=1000)] = 50
    status: Annotated[int, field("The status where a request doesn't suit its schema.", ge=400, le=499)] = 400
    errors: Annotated[
        Literal["problem", "text"], field("How faults are told: application/problem+json, or a line of text.")
    ] = "problem"

    def __post_init__(self) -> None:
        own = ("schema", "query_schema", "headers_schema", "path_schema", "path", "model")
        given = [name for name in own if getattr(self, name) not in (None, "")]
        if self.openapi and given:
            raise ValueError(f"openapi says what {' and '.join(given)} would say: give one or the other")
        if not self.openapi and not given:
            raise ValueError(
                "there is nothing to check: give schema, query_schema, headers_schema, path, model or openapi"
            )
        if "schema" in given and self.model:
            raise ValueError("give schema or model, not both")
        if "path_schema" in given and not self.path:
            raise ValueError("path_schema wants a path with {names}")
        for name in ("path", "base_path"):
            if getattr(self, name) and not getattr(self, name).startswith("/"):
                raise ValueError(f"{name} begins with a slash")
        for kind in self.content_types:
            if kind not in _KINDS:
                raise ValueError(f"content_types knows {', '.join(_KINDS)}, not {kind!r}")
        if self.model and MULTIPART in self.content_types:
            raise ValueError("a model is for JSON and forms; multipart wants a schema")
