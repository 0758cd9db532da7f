"""What authors say of a configuration's fields is in its schema."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import pydantic
import pytest

from gatewright import Plugin
from gatewright.field_docs import described_schema
from gatewright.gateways.kong.dump import kong_fields


class Inner(msgspec.Struct, rename="camel"):
    most_calls: int = 3
    """How many calls there may be."""


class Base(msgspec.Struct):
    header: str = "x-user"
    """The header that names the user."""


class Config(Base):
    inner: Inner | None = None
    """What is inside.

    More of it.
    """
    told: Annotated[int, msgspec.Meta(description="Said otherwise.")] = 1
    """Not this."""
    plain: int = 2


@dataclass
class Data:
    items: list[Inner] = field(default_factory=list)
    """All of them."""


class Modern(pydantic.BaseModel):
    header: str = pydantic.Field("x", alias="Header")
    """The header."""


def properties(model: Any, name: str) -> dict[str, Any]:
    schema = described_schema(model)
    found: dict[str, Any] = schema.get("$defs", {}).get(name, schema)["properties"]
    return found


def test_of_structs_and_what_is_in_them() -> None:
    fields = properties(Config, "Config")
    assert fields["header"]["description"] == "The header that names the user."
    assert fields["inner"]["description"] == "What is inside.\n\nMore of it."
    assert fields["told"]["description"] == "Said otherwise."
    assert "description" not in fields["plain"]
    assert properties(Config, "Inner")["mostCalls"]["description"] == "How many calls there may be."


@pytest.mark.parametrize(
    ("model", "name", "field", "meaning"),
    [(Data, "Data", "items", "All of them."), (Modern, "Modern", "Header", "The header.")],
)
def test_of_other_models(model: Any, name: str, field: str, meaning: str) -> None:
    assert properties(model, name)[field]["description"] == meaning


def test_kong_is_told_too() -> None:
    fields = {name: each for field in kong_fields(described_schema(Config)) for name, each in field.items()}
    assert fields["header"]["description"] == "The header that names the user."


def test_without_a_source_nothing_is_said() -> None:
    made = msgspec.defstruct("Made", [("a", int)])
    assert "description" not in properties(made, "Made")["a"]
    assert described_schema(Plugin.Config) == {"type": "object"}
