"""Schemas that Kong takes: those made of configuration models, and those that plugins bring."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.config import config_schema
from gatewright.errors import ConfigError
from gatewright.gateways.kong.dump import kong_fields, without_nulls
from gatewright.runtime.kong_modules import adapt
from gatewright.runtime.kong_schema import faults, filled
from tests.kong.conftest import Start
from tests.kong.peer import Exited


class Inner(msgspec.Struct):
    key: str
    more: str = ""


class Config(msgspec.Struct):
    prefix: str = ""
    inner: Inner | None = None
    nullable: int | None = 0
    needed: str | None = msgspec.field(default=None)
    mode: Literal["", "a"] = ""
    only: Literal[True] = True
    low: Annotated[int, msgspec.Meta(ge=5, le=9)] = 0
    labels: dict[str, str] = {}


def test_what_kept_kong_from_starting() -> None:
    """Each of these was seen of Kong 3.4 and 3.9."""
    fields = kong_fields(config_schema(Config))
    assert faults(fields) == []
    by_name = {name: field for each in fields for name, field in each.items()}
    assert by_name["prefix"] == {"type": "string", "len_min": 0, "default": ""}
    assert by_name["inner"]["required"] is False
    assert by_name["only"] == {"type": "boolean", "default": True}
    assert "default" not in by_name["low"], "a default that breaks its own limits is the model's own affair"
    assert filled(fields, {}, "config") == {"prefix": "", "nullable": 0, "mode": "", "only": True}
    assert filled(fields, {"labels": {"": ""}, "inner": {"key": ""}}, "config")["inner"] == {"key": "", "more": ""}


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"type": "string", "default": ""}, "x: default: length must be at least 1"),
        ({"type": "string", "description": "short"}, "x: description: length must be 10 to 500"),
        ({"type": "boolean", "one_of": [True]}, "x: field of type 'boolean' cannot have attribute 'one_of'"),
        ({"type": "any"}, "x: type: expected one of: array, boolean"),
        ({"type": "array"}, "x: field of type 'array' must declare 'elements'"),
        ({"type": "map", "keys": {"type": "string"}}, "must declare 'values'"),
        ({"type": "array", "elements": {"type": "strung"}}, "x.elements: type: expected one of"),
        ({"type": "record", "fields": [{"y": {}}]}, "x.y: missing type declaration"),
        ({"type": "record", "fields": [{}]}, "x: each entry has one name, not 0"),
        ({"type": "record", "fields": [{"y": 5}]}, "x.y: must be a table"),
        ({"type": "integer", "default": 7, "between": [1, 5]}, "x: default: value should be between 1 and 5"),
        ({"type": "integer", "default": 1.5}, "x: default: expected an integer"),
        ({"type": "string", "between": [1, 2]}, "cannot have attribute 'between'"),
        (
            {"type": "record", "default": {"b": "x"}, "fields": [{"a": {"type": "string", "required": True}},
                                                               {"b": {"type": "string"}}]},
            "x: default.a: required field missing",
        ),
    ],
)  # fmt: skip
def test_what_kong_would_not_start_with(field: dict[str, Any], words: str) -> None:
    """As Kong's own code says it, of 3.4 and 3.9."""
    assert words in "; ".join(faults([{"x": field}]))

    class Plugin:
        pass

    with pytest.raises(ConfigError, match="Kong would not start with this Schema"):
        adapt("p", Plugin, schema=[{"x": field}])


def test_a_record_is_there_unless_its_schema_says_that_it_need_not() -> None:
    inner = [{"a": {"type": "string", "required": True}}]
    with pytest.raises(ConfigError, match=r"config\.r\.a: required field missing"):
        filled([{"r": {"type": "record", "fields": inner}}], {}, "config")
    assert filled([{"r": {"type": "record", "required": False, "fields": inner}}], {}, "config") == {}


def test_a_model_that_holds_itself_is_told() -> None:
    @dataclass
    class Tree:
        below: list[Tree]

    globals()["Tree"] = Tree
    try:
        with pytest.raises(ConfigError, match="a model that holds itself"):
            kong_fields(config_schema(Tree))
    finally:
        del globals()["Tree"]


NUMBERS = itertools.count()
DEPTH = 2
NAMES = st.text("abcdef", min_size=1, max_size=6)
SCALARS = st.sampled_from([str, int, float, bool])


def model(depth: int) -> st.SearchStrategy[Any]:
    """Types of a model's field, with a value of each that suits it."""
    texts = st.text(max_size=5)
    leaf = st.one_of(
        st.tuples(st.just(str), texts),
        st.tuples(st.just(int), st.integers(-1000, 1000)),
        st.tuples(st.just(float), st.floats(-1e6, 1e6)),
        st.tuples(st.just(bool), st.booleans()),
        st.tuples(
            st.just(Annotated[str, msgspec.Meta(min_length=2, max_length=4, description="of four")]), st.just("ab")
        ),
        st.tuples(st.just(Annotated[int, msgspec.Meta(ge=1, le=5)]), st.integers(1, 5)),
        st.lists(texts, min_size=1, max_size=3, unique=True).map(lambda c: (Literal[tuple(c)], c[0])),
        st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True).map(lambda c: (Literal[tuple(c)], c[-1])),
    )
    if not depth:
        return leaf
    below = model(depth - 1)
    return st.one_of(
        leaf,
        below.map(lambda kind: (list[kind[0]], [kind[1]])),  # type: ignore[index,name-defined,valid-type]
        st.tuples(texts, below).map(lambda t: (dict[str, t[1][0]], {t[0]: t[1][1]})),  # type: ignore[valid-type,misc,index]
        structs(depth - 1).map(lambda made: (made[0], made[1])),
    )


def structs(depth: int) -> st.SearchStrategy[tuple[Any, dict[str, Any]]]:
    """A model, and a configuration that it takes."""

    @st.composite
    def make(draw: Any) -> tuple[Any, dict[str, Any]]:
        names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
        fields, value = [], {}
        for name in names:
            kind, example = draw(model(depth))
            if depth == DEPTH and draw(st.booleans()):
                kind, example = kind | None, None  # within lists and maps Kong has no null
            if draw(st.booleans()):
                fields.append((name, kind))
                value[name] = example
            else:
                simple = not isinstance(example, list | dict)
                fields.append((name, kind, example if simple else msgspec.UNSET))
                if not simple:
                    fields[-1] = (name, kind | None, None)
        required = [field for field in fields if len(field) == 2]
        return msgspec.defstruct(
            f"Model{next(NUMBERS)}", [*required, *(field for field in fields if len(field) == 3)]
        ), value

    return make()


@settings(max_examples=40, deadline=None)
@given(structs(DEPTH))
@pytest.mark.long
def test_kong_starts_with_any_model_and_takes_what_it_takes(made: tuple[Any, dict[str, Any]]) -> None:
    kind, value = made
    fields = kong_fields(config_schema(kind))
    assert faults(fields) == []
    complete = filled(fields, {name: item for name, item in value.items() if item is not None}, "config")
    # Kong hands over what was left out as null, at any depth.
    nulls = {name: None for field in fields for name in field if name not in complete}
    handed_over = json.loads(json.dumps({**complete, **nulls}))
    msgspec.convert(without_nulls(config_schema(kind), handed_over), kind)


class Deep(msgspec.Struct):
    key: str | None
    labels: dict[str, str] = {}


class Outer(msgspec.Struct):
    deep: list[Deep]
    by_name: dict[str, Deep] = {}


def test_what_was_left_out_at_any_depth_is_the_models_own_default() -> None:
    nothing = {"key": None, "labels": None}  # so Kong completes it
    cleaned = without_nulls(config_schema(Outer), {"deep": [nothing], "by_name": {"a": nothing}})
    assert cleaned == {"deep": [{"key": None}], "by_name": {"a": {"key": None}}}
    assert msgspec.convert(cleaned, Outer).deep[0].labels == {}


NATIVE = """
import msgspec
from gatewright import Plugin, Response
class Native(Plugin):
    class Config(msgspec.Struct):
        who: str | None
        prefix: str = ""
    def on_request(self, request):
        return Response(200, body=repr((self.config.who, self.config.prefix)))
"""


def test_what_may_be_null_reaches_the_model(serve: Start) -> None:
    server = serve("msgpack", native=NATIVE)
    with server.kong() as kong, pytest.raises(Exited) as exited:
        config = {"who": None, "prefix": "", "__seq__": 1}
        kong.event(kong.start("native", config), "access", {"kong.request.get_headers": lambda _: {}})
    assert exited.value.body in (b"(None, '')", "(None, '')")


def test_check_names_a_schema_that_kong_would_not_start_with(tmp_path: Path) -> None:
    from gatewright.runtime.kong_modules import load_directory

    (tmp_path / "bad.py").write_text(
        'Schema = ({"prefix": {"type": "string", "default": ""}},)\n'
        "class Plugin:\n    def __init__(self, config): pass\n"
    )
    (error,) = load_directory(tmp_path).errors
    assert "prefix: default: length must be at least 1" in str(error)
