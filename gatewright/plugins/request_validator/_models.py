"""A Python class instead of a schema: a pydantic model, or what msgspec knows (Struct, dataclass, TypedDict)."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import Any, Protocol

import msgspec

from gatewright import ConfigError
from gatewright.plugins.request_validator._bounds import MOST_FAULTS, TOO_LARGE
from gatewright.plugins.request_validator._faults import Fault, InvalidRequestError, pointer

__all__ = ["Model", "load_model"]

_TITLE = "The request is not valid"


class Model(Protocol):
    """A class that bodies are read into."""

    def read(self, value: Any, most: int) -> Any:
        """What a JSON value is in the model's eyes, as JSON again, defaults included.

        Raises:
            InvalidRequestError: it doesn't suit; with all faults that the model's library tells.
        """


class _Pydantic:
    def __init__(self, model: Any) -> None:
        self._model = model

    def read(self, value: Any, most: int) -> Any:
        from pydantic import ValidationError

        try:
            return self._model.model_validate(value).model_dump(mode="json", by_alias=True)
        except ValidationError as error:
            if error.error_count() > MOST_FAULTS:  # it would make all of them, to have `most` shown
                raise InvalidRequestError(400, _TITLE, [TOO_LARGE]) from None
            faults = [
                Fault("body", pointer(item["loc"]), item["msg"], item["type"])
                for item in error.errors(include_url=False, include_input=False, include_context=False)[:most]
            ]
            raise InvalidRequestError(400, _TITLE, faults) from None


class _Msgspec:
    def __init__(self, model: Any) -> None:
        self._model = model

    def read(self, value: Any, most: int) -> Any:
        try:
            made = msgspec.convert(value, self._model)
            # msgspec leaves a dataclass's defaults where they are: in the class.
            is_plain = dataclasses.is_dataclass(made) and not isinstance(made, type)
            return msgspec.to_builtins(dataclasses.asdict(made) if is_plain else made)
        except msgspec.ValidationError as error:
            text, _, place = str(error).rpartition(" - at `")
            steps = place.rstrip("`").removeprefix("$").replace("[", ".").replace("]", "").split(".")[1:]
            fault = Fault("body", pointer(steps), text or str(error))
            raise InvalidRequestError(400, _TITLE, [fault]) from None


def load_model(path: str) -> Model:
    """Import a model.

    Args:
        path: `package.module:Name`.

    Raises:
        ConfigError: it can't be imported, or is no model.
    """
    module_name, colon, name = path.partition(":")
    if not colon or not name:
        raise ConfigError(f"model is to be package.module:Name, not {path!r}")
    try:
        found: Any = import_module(module_name)
        for step in name.split("."):
            found = getattr(found, step)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"model {path!r} can't be imported: {error}") from error
    if not isinstance(found, type):
        raise ConfigError(f"model {path!r} is not a class")
    if hasattr(found, "model_validate"):
        return _Pydantic(found)
    try:
        msgspec.json.schema(found)
    except TypeError as error:
        raise ConfigError(f"model {path!r} is neither a pydantic model nor one for msgspec: {error}") from None
    return _Msgspec(found)
