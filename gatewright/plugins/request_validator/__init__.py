"""**request-validator**: requests that don't suit a JSON Schema, a model or an OpenAPI document are refused.

Schemas are compiled when the configuration comes (`_schemas`). A request is read as strictly as can be (`_bodies`), so
that the upstream reads in it what was checked; text is taken for what its schema wants (`_shapes`), all faults are told
(`_faults`), and what is missing and has a default is filled in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gatewright import ConfigError, Plugin, Request, Response
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.extras import extra

with extra("validator", plugin="request-validator"):
    from gatewright.plugins.request_validator import _bodies as bodies
    from gatewright.plugins.request_validator._config import RequestValidatorConfig
    from gatewright.plugins.request_validator._faults import Fault, InvalidRequestError, answer
    from gatewright.plugins.request_validator._models import load_model
    from gatewright.plugins.request_validator._openapi import document_of, operations_of
    from gatewright.plugins.request_validator._operations import Body, Operation, Operations, Parameters
    from gatewright.plugins.request_validator._schemas import Schemas
    from gatewright.plugins.request_validator._shapes import shape_of

__all__ = ["RequestValidator"]

_TITLE = "The request is not valid"


class RequestValidator(Plugin):
    """Refuses requests that are not what the upstream expects, and says what is wrong with them."""

    name = "request-validator"
    version = "1.0.0"
    priority = 800
    Config = RequestValidatorConfig

    config: RequestValidatorConfig

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        own = self.config
        documents = _object(own.documents, "documents") if own.documents else {}
        self._schemas = Schemas(own.draft, formats=own.formats, documents=documents)
        self._operations = self._of_openapi() if own.openapi else self._own_operations()
        self._decisions = counter("request_validator_decisions", "Requests looked at, by decision.", ["decision"])

    async def on_request(self, request: Request) -> Response | None:
        """Let a request pass that is right, with its defaults; or tell what is wrong with it."""
        try:
            found = self._operations.find(request.method, request.path)
            if found is None:
                if self.config.unmatched == "pass":
                    self._decisions.add("unmatched")
                    return None
                raise InvalidRequestError(404, "There is no such path")
            await self._check(request, *found)
        except InvalidRequestError as error:
            self._decisions.add("refused")
            where = [f"{fault.part}{fault.pointer}: {fault.keyword}" for fault in error.faults[:5]]
            self.log.info("refused", extra={"why": error.title, "where": where})  # without what was quoted
            return answer(error, self.config.errors)
        self._decisions.add("passed")
        return None

    # --- checking

    async def _check(self, request: Request, operation: Operation, captured: Mapping[str, str]) -> None:
        most, fills = self.config.max_faults, self.config.fill_defaults
        faults: list[Fault] = []
        filled: list[tuple[Parameters, dict[str, Any]]] = []
        for parameters in operation.parameters:
            value = parameters.values(request, captured)
            before = dict(value)
            if fills and parameters.shape.fill(value):
                filled.append((parameters, {name: new for name, new in value.items() if name not in before}))
            faults += parameters.schema.faults(parameters.part, value, most)
        body = await self._checked_body(request, operation, faults) if operation.bodies else None
        if faults:
            raise InvalidRequestError(self.config.status, _TITLE, faults[:most])
        for parameters, missing in filled:
            _set_parameters(request, parameters, missing)
        if body is not None:
            request.set_body(body)

    async def _checked_body(self, request: Request, operation: Operation, faults: list[Fault]) -> bytes | None:
        """Add what is wrong with the body to `faults`; gives what is to be sent instead of it, if that is something."""
        own = self.config
        needs = operation.needs_body or request.method in operation.methods
        raw = await self._body(request, needs)
        if not raw:
            return None
        content_type = self._content_type(request, operation)
        media = bodies.media_type(content_type)
        kind = bodies.kind_of(media)
        wanted = operation.body(media, kind)
        if wanted is None:
            accepted = ", ".join(operation.bodies)
            raise InvalidRequestError(
                415, f"Bodies of this type are not taken, but {accepted}", (), [("accept", accepted)]
            )
        if kind == bodies.JSON:
            value = bodies.read_json(raw, own.max_depth)
        elif kind == bodies.FORM:
            value = bodies.read_form(raw, wanted.shape)
        elif kind == bodies.MULTIPART:
            value = bodies.read_multipart(raw, content_type, wanted.shape)
        else:
            return None  # a type of an OpenAPI document's that isn't looked into
        if wanted.model is not None:
            try:
                read = wanted.model.read(value, own.max_faults)
            except InvalidRequestError as error:
                faults += error.faults
                return None
            changed, value = own.fill_defaults and read != value, read
        else:
            changed = own.fill_defaults and wanted.shape.fills and kind != bodies.MULTIPART and wanted.shape.fill(value)
            faults += wanted.faults(value, own.max_faults)
        if not changed:
            return None
        if kind == bodies.FORM:
            return bodies.encode_form(value)
        if wanted.model is not None:
            return json.dumps(value, separators=(",", ":")).encode()
        return bodies.rewritten_json(raw, wanted.shape.fill)

    async def _body(self, request: Request, needs: bool) -> bytes:
        headers, most = request.headers, self.config.max_bytes
        length = headers.get("content-length", "")
        if length.isdigit() and len(length) < 20 and int(length) > most:
            raise InvalidRequestError(413, f"The body is longer than {most} bytes")
        raw = b""
        if needs or length not in ("", "0") or "transfer-encoding" in headers:
            raw = await request.body()
        if len(raw) > most:
            raise InvalidRequestError(413, f"The body is longer than {most} bytes")
        if not raw and needs:
            raise InvalidRequestError(400, _TITLE, [Fault("body", "", "a body is needed")])
        return raw

    @staticmethod
    def _content_type(request: Request, operation: Operation) -> str:
        """The body's type; JSON where none is said and JSON is taken. What is packed can't be looked into."""
        headers = request.headers
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise InvalidRequestError(415, "Packed bodies are not taken", (), [("accept-encoding", "identity")])
        said = headers.get_all("content-type")
        if len(said) > 1:
            raise InvalidRequestError(400, _TITLE, [Fault("headers", "/content-type", "it is there more than once")])
        if not said:
            return bodies.JSON if bodies.JSON in operation.bodies else ""
        if not bodies.is_utf8(said[0]):
            raise InvalidRequestError(415, "Bodies are taken in UTF-8 only")
        return said[0]

    # --- making

    def _of_openapi(self) -> Operations:
        own = self.config
        document = document_of(own.openapi)
        found = operations_of(document, self._schemas, only_known_arguments=own.only_known_arguments)
        return Operations(found, base_path=own.base_path)

    def _own_operations(self) -> Operations:
        own, schemas = self.config, self._schemas
        parameters = []
        for field, part in (("query_schema", "query"), ("headers_schema", "headers"), ("path_schema", "path")):
            if (said := getattr(own, field)) not in (None, ""):
                source = _object(said, field)
                schema = schemas.compile(_lower_names(source) if part == "headers" else source, field)
                parameters.append(Parameters(part, schema, shape_of(schema)))  # type: ignore[arg-type]
        body = None
        if own.schema not in (None, ""):
            schema = schemas.compile(_object(own.schema, "schema"), "schema")
            body = Body(schema, shape_of(schema))
        elif own.model:
            body = Body(model=load_model(own.model))
        kinds = dict.fromkeys(own.content_types, body) if body is not None else {}
        operation = Operation(parameters, kinds, methods=frozenset(own.methods))
        return Operations({own.path or "/{*}": {"*": operation}}, base_path=own.base_path)


def _object(said: str | Mapping[str, Any], field: str) -> Any:
    if not isinstance(said, str):
        return said
    try:
        return json.loads(said)
    except ValueError as error:
        raise ConfigError(f"{field} is not JSON: {error}") from None


def _lower_names(schema: Any) -> Any:
    """A schema of headers, whose names are compared in lower case."""
    if not isinstance(schema, Mapping):
        return schema
    lowered = dict(schema)
    if isinstance(schema.get("properties"), Mapping):
        lowered["properties"] = {name.lower(): each for name, each in schema["properties"].items()}
    if isinstance(schema.get("required"), list):
        lowered["required"] = [str(name).lower() for name in schema["required"]]
    return lowered


def _set_parameters(request: Request, parameters: Parameters, missing: Mapping[str, Any]) -> None:
    for name, value in missing.items():
        values = value if isinstance(value, list) else [value]
        texts = [each if isinstance(each, str) else json.dumps(each) for each in values]
        if name in parameters.lists:
            texts = [",".join(texts)]
        if parameters.part == "query":
            request.query.set_all(name, texts)
        elif parameters.part == "headers":
            request.headers.set_all(name, texts)
