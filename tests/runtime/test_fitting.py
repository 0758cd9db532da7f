"""Fields of a configuration that nobody reads are errors, whichever model a plugin has."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
import typing_extensions

from gatewright.errors import ConfigError
from gatewright.plugin import Plugin
from gatewright.runtime.fitting import check_config, check_fields

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


NESTED = {
    "it": lambda inner: inner,
    "optional": lambda inner: inner | None,
    "list": lambda inner: list[inner],
    "tuple": lambda inner: tuple[inner, ...],
    "pair": lambda inner: tuple[str, inner],
    "dict": lambda inner: dict[str, inner],
    "dict of lists": lambda inner: dict[str, list[inner]],
    "or text": lambda inner: inner | str | list[str],
    "list or text": lambda inner: list[inner] | str,
    "described": lambda inner: Annotated[inner, msgspec.Meta(title="t", description="d", extra_json_schema={"a": 1})],
    "described list": lambda inner: Annotated[list[inner], msgspec.Meta(min_length=1, description="d")],
}
VALUES: dict[str, Any] = {
    "list": [{}], "tuple": [{}], "pair": ["a", {}], "dict": {"a": {}}, "dict of lists": {"a": [{}]},
    "list or text": [{}], "described list": [{}],
}  # fmt: skip


class NestedData(TypedDict, total=False):
    host: str


@dataclasses.dataclass
class NestedDataclass:
    host: str = ""


class NestedTyped(typing_extensions.TypedDict, total=False):
    host: str


def of_msgspec(kind: Any) -> Any:
    return msgspec.defstruct("M", [("rules", kind, None)])


def of_pydantic(kind: Any) -> Any:
    return pydantic.create_model("M", rules=(kind, None))


@pytest.mark.parametrize("nesting", NESTED)
@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (of_msgspec, Inner), (of_msgspec, NestedData), (of_msgspec, NestedDataclass),
        (of_pydantic, Sub), (of_pydantic, NestedDataclass), (of_pydantic, NestedTyped),
    ],
)  # fmt: skip
def test_fields_are_looked_at_wherever_a_model_has_another_in_it(outer: Any, inner: Any, nesting: str) -> None:
    value = json.dumps({"rules": VALUES.get(nesting, {})})
    model = plugin(outer(NESTED[nesting](inner)))
    check_config(model, value)
    with pytest.raises(ConfigError, match="did you mean 'host'"):
        check_config(model, value.replace("{}", '{"hots": "x"}'))


class Listed(msgspec.Struct, array_like=True):
    first: Inner


class Named(NamedTuple):
    first: Inner


class Cat(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    kind: Literal["cat"] = "cat"
    purrs: bool = True


class Dog(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    kind: Literal["dog"] = "dog"
    barks: bool = True


class Upper(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    model_config = {"alias_generator": str.upper}
    host: str = ""


class Choice(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    host: str = pydantic.Field("", validation_alias=pydantic.AliasChoices("host", "at", pydantic.AliasPath("to", 0)))


class Root(pydantic.RootModel[list[Sub]]):  # type: ignore[misc, name-defined]
    pass


@pytest.mark.parametrize(
    ("model", "good", "bad"),
    [
        (Listed, '[{"host": "h"}]', '[{"hots": "h"}]'),
        (of_msgspec(Named), '{"rules": [{"host": "h"}]}', '{"rules": [{"hots": "h"}]}'),
        (
            of_pydantic(Cat | Dog),
            '{"rules": {"kind": "cat", "purrs": true}}',
            '{"rules": {"kind": "cat", "barks": true}}',
        ),
        (Upper, '{"HOST": "h"}', '{"host": "h"}'),
        (Choice, '{"to": ["h"]}', '{"from": "h"}'),
        (Root, '[{"host": "h"}]', '[{"hots": "h"}]'),
    ],
)
def test_other_forms(model: Any, good: str, bad: str) -> None:
    check_config(plugin(model), good)
    with pytest.raises(ConfigError, match="unknown field"):
        check_config(plugin(model), bad)


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
