"""Fields of a configuration that nobody reads are errors, whichever model a plugin has."""

from __future__ import annotations

import dataclasses
from typing import Any, TypedDict

import msgspec
import pytest

from gatewright.errors import ConfigError
from gatewright.plugin import Plugin
from gatewright.runtime.fitting import check_fields

pydantic = pytest.importorskip("pydantic")


class Inner(msgspec.Struct):
    host: str = ""


class Redis(Inner, tag_field="kind", tag="redis"):
    pass


class Memory(msgspec.Struct, tag_field="kind", tag="memory"):
    size: int = 0


class Model(msgspec.Struct, rename="kebab"):
    allow_from: list[str] = []
    inner: Inner | None = None
    many: list[Inner] = []
    named: dict[str, Inner] = {}
    store: Redis | Memory | None = None
    free: dict[str, Any] = {}


@dataclasses.dataclass
class Data:
    allow: list[str] = dataclasses.field(default_factory=list)


class Typed(TypedDict, total=False):
    allow: list[str]


class Sub(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    host: str = ""


class Pydantic(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    allow: list[str] = []
    sub: Sub = Sub()
    other: str = pydantic.Field("", alias="an-other")


class Ignores(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    model_config = {"extra": "ignore"}


def plugin(model: Any, **attributes: Any) -> type[Plugin]:
    return type("P", (Plugin,), {"Config": model, **attributes})


@pytest.mark.parametrize(
    ("model", "text", "told"),
    [
        (Model, '{"alow-from": []}', "unknown field 'alow-from' - at `$`: did you mean 'allow-from'?"),
        (Model, '{"inner": {"hots": "x"}}', "unknown field 'hots' - at `$.inner`: did you mean 'host'?"),
        (Model, '{"many": [{}, {"x": 1}]}', "unknown field 'x' - at `$.many[1]`: there are: host"),
        (Model, '{"named": {"a": {"x": 1}}}', "`$.named.a`"),
        (Model, '{"store": {"kind": "memory", "host": "x"}}', "unknown field 'host' - at `$.store`"),
        (Data, '{"alow": []}', "did you mean 'allow'?"),
        (Typed, '{"alow": []}', "did you mean 'allow'?"),
        (Pydantic, '{"alow": []}', "did you mean 'allow'?"),
        (Pydantic, '{"sub": {"x": 1}}', "`$.sub`"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_name(model: Any, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_fields(plugin(model), text)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            Model,
            '{"allow-from": ["a"], "inner": {"host": "h"}, "many": [{"host": "h"}], "free": {"any": {"thing": 1}}}',
        ),
        (Model, '{"store": {"kind": "redis", "host": "h"}, "inner": null}'),
        (Model, ""),
        (Pydantic, '{"an-other": "x", "sub": {"host": "h"}}'),
        (Ignores, '{"x": 1}'),
        (None, '{"x": 1}'),
    ],
)
def test_what_is_known_or_allowed_is_no_error(model: Any, text: str) -> None:
    check_fields(plugin(model), text)


def test_a_plugin_may_say_that_it_ignores_them() -> None:
    check_fields(plugin(Model, unknown_fields="ignore"), '{"x": 1}')
