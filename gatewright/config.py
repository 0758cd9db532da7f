"""Typed plugin configuration: the gateway's text, parsed and validated once, into the model a plugin declares."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Final

import msgspec

from gatewright.errors import ConfigError
from gatewright.plain_defaults import with_plain_defaults
from gatewright.secret import SCHEMA, Secret

__all__ = ["config_schema", "parse_config"]


def _is_pydantic(model: Any) -> bool:
    return hasattr(model, "model_validate_json") and hasattr(model, "model_json_schema")


def _made(kind: type, value: Any) -> Any:
    """A value of a type that msgspec doesn't know."""
    if kind is Secret:
        return value if isinstance(value, Secret) else Secret(value)
    raise TypeError(f"a configuration can't hold {kind.__name__}, which JSON has no form of")


def _schema_of(kind: type) -> dict[str, Any]:
    if kind is Secret:
        return dict(SCHEMA)
    raise TypeError(f"a configuration can't hold {kind.__name__}, which JSON has no form of")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a name that is there twice, readers take one or the other."""
    value: dict[str, Any] = {}
    for name, inner in pairs:
        if name in value:
            raise ConfigError(f"the field {name[:100]!r} is there twice")
        value[name] = inner
    return value


def _no_number(text: str) -> float:
    raise ConfigError(f"not valid JSON: {text} is no number there")


_strict: Final = json.JSONDecoder(object_pairs_hook=_each_once, parse_constant=_no_number)


def _check_names(text: bytes) -> None:
    """See that no field is there twice.

    Raises:
        ConfigError: one is, or it's nested too deeply to be seen.
    """
    try:
        _strict.decode(text.decode())
    except RecursionError:
        raise ConfigError("it is nested too deeply") from None
    except ValueError:  # whoever reads it says what is wrong with it
        return


def parse_config(model: Any, value: object) -> Any:
    """Turn a configuration into an instance of `model`.

    Args:
        model: a msgspec Struct, a dataclass, a TypedDict, a pydantic model, or `None` for a plain dict.
        value: JSON text (as a gateway sends it; empty text means `{}`), a mapping, or an instance of `model`.

    Raises:
        ConfigError: the text is not JSON, or doesn't fit; the message names the field.
    """
    if model is not None and isinstance(model, type) and not isinstance(value, str | bytes | dict):
        if isinstance(value, model):
            return value
        if value is None:
            value = {}
    if value is None or (isinstance(value, str | bytes) and not value.strip()):
        value = {}
    try:
        if isinstance(value, str):
            value = value.encode("utf-8", "surrogateescape")
        if isinstance(value, bytes):
            _check_names(value)
        if model is None:
            parsed = msgspec.json.decode(value) if isinstance(value, bytes) else value
            if not isinstance(parsed, dict):
                raise ConfigError(f"expected a JSON object, got {type(parsed).__name__}")
            return parsed
        if _is_pydantic(model):
            return _parse_pydantic(model, value)
        if isinstance(value, bytes):
            return msgspec.json.decode(value, type=model, dec_hook=_made)
        return msgspec.convert(value, type=model, dec_hook=_made)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"not valid JSON: {error}") from None
    except (ValueError, TypeError) as error:  # a dataclass's own __post_init__ check
        raise ConfigError(str(error)) from error


def _parse_pydantic(model: Any, value: object) -> Any:
    from pydantic import ValidationError

    try:
        return model.model_validate_json(value) if isinstance(value, bytes) else model.model_validate(value)
    except ValidationError as error:
        problems = "; ".join(
            f"{item['msg']} - at `$.{'.'.join(map(str, item['loc']))}`" for item in error.errors(include_input=False)
        )
        raise ConfigError(problems) from None


def _own_schema(model: Any) -> dict[str, Any]:
    try:
        return msgspec.json.schema(model, schema_hook=_schema_of)
    except TypeError:  # a secret among the defaults, say
        return msgspec.json.schema(with_plain_defaults(model), schema_hook=_schema_of)


def _pydantic_schema(model: Any) -> dict[str, Any]:
    from pydantic.errors import PydanticInvalidForJsonSchema
    from pydantic.json_schema import GenerateJsonSchema

    class Quiet(GenerateJsonSchema):  # type: ignore[misc, unused-ignore]
        """Says nothing of a secret among the defaults, which it leaves out."""

        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    try:
        schema: dict[str, Any] = model.model_json_schema(schema_generator=Quiet)
    except PydanticInvalidForJsonSchema as error:
        raise ConfigError(f"{model.__qualname__}: {error.message}") from error
    return schema


def config_schema(model: Any) -> dict[str, Any]:
    """The JSON Schema of a configuration model; `{"type": "object"}` where the plugin declares none.

    Raises:
        ConfigError: it is no such model, or has a field that no JSON can hold.
    """
    if model is None:
        return {"type": "object"}
    schema = _schema(model)
    shape = schema
    while "$ref" in shape:
        shape = schema["$defs"][shape["$ref"].rpartition("/")[2]]
    if shape.get("type", "object") != "object":
        raise ConfigError(
            f"{model!r} is not a configuration model: a configuration is a JSON object, not {shape['type']}"
        )
    return schema


def _schema(model: Any) -> dict[str, Any]:
    if _is_pydantic(model):
        return _pydantic_schema(model)
    if dataclasses.is_dataclass(model) or isinstance(model, type):
        try:
            return _own_schema(model)
        except (TypeError, NameError) as error:
            raise ConfigError(f"{getattr(model, '__name__', model)}: {error}") from error
    raise ConfigError(f"{model!r} is not a configuration model: use a Struct, dataclass, TypedDict or pydantic model")
