from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest

from gatewright import ConfigError, Plugin, Secret
from gatewright.config import config_schema
from gatewright.gateways.kong.dump import kong_fields
from gatewright.runtime.fitting import check_fields
from gatewright.runtime.kong_modules import load_directory

pydantic = pytest.importorskip("pydantic")


class Struct(msgspec.Struct):
    password: Secret | None = None


@dataclasses.dataclass
class Data:
    password: Secret | None = None


class Model(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    password: Secret | None = None


def plugin(model: Any) -> type[Plugin]:
    return type("P", (Plugin,), {"Config": model})


@pytest.mark.parametrize("model", [Struct, Data, Model])
def test_a_secret_is_a_field_of_any_model(model: Any) -> None:
    made = plugin(model)('{"password": "hunter2"}')
    assert made.config.password.reveal() == "hunter2"
    assert "hunter2" not in f"{made.config!r} {made.config.password}"
    assert made.config.password == Secret("hunter2")
    assert plugin(model)({"password": Secret("a")}).config.password.reveal() == "a"
    assert plugin(model)("{}").config.password is None
    check_fields(plugin(model), '{"password": "hunter2"}')
    with pytest.raises(ConfigError) as refused:
        plugin(model)('{"password": 12345}')
    assert "12345" not in str(refused.value)
    assert '"hunter2"' not in repr(config_schema(model))


@pytest.mark.parametrize("model", [Struct, Data, Model])
def test_kong_may_have_it_in_a_vault(model: Any) -> None:
    ((field,),) = (entry.values() for entry in kong_fields(config_schema(model)))
    assert field["type"] == "string"
    assert field["referenceable"] is True


class ByDefault(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What there is."""

    host_name: str
    token: Secret = Secret("$env://TOKEN")
    tries: int = 3


@dataclasses.dataclass(frozen=True)
class DataByDefault:
    """What there is."""

    hostName: str
    token: Secret = Secret("$env://TOKEN")  # noqa: RUF009 - it's a value
    tries: int = 3


class ModelByDefault(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    """What there is."""

    hostName: str
    token: Secret = Secret("$env://TOKEN")
    tries: int = 3


class Typed(TypedDict):
    one: ByDefault


class Around(msgspec.Struct):
    one: ByDefault | None = None
    some: Annotated[dict[str, list[ByDefault]], msgspec.Meta(description="more")] = {}
    kind: Literal["a", "b"] = "a"
    typed: Typed | None = None


class Holding(msgspec.Struct):
    inner: list[Holding] = []
    token: Secret = Secret("$env://TOKEN")


@pytest.mark.parametrize("model", [ByDefault, DataByDefault, ModelByDefault])
def test_one_that_is_there_by_default_is_a_field_that_need_not_be_given(model: Any) -> None:
    schema = config_schema(model)
    schema = schema.get("$defs", {}).get(model.__name__, schema)
    token, tries = schema["properties"]["token"], schema["properties"]["tries"]
    assert (token["format"], "default" in token, tries["default"]) == ("password", False, 3)
    assert (schema["required"], schema["description"]) == (["hostName"], "What there is.")
    assert plugin(model)({"hostName": "a"}).config.token == Secret("$env://TOKEN")


def test_one_that_is_there_by_default_may_be_deep_inside() -> None:
    schema = config_schema(Around)
    outer, inner = schema["$defs"]["Around"], schema["$defs"]["ByDefault"]
    assert outer["properties"]["some"]["description"] == "more"
    assert outer["properties"]["kind"] == {"enum": ["a", "b"], "default": "a"}
    assert (inner["required"], inner["additionalProperties"]) == (["hostName"], False)
    assert schema["$defs"]["Typed"]["required"] == ["one"]


class Pathed(msgspec.Struct):
    place: Path = Path()


@pytest.mark.parametrize(
    ("model", "why"),
    [(Holding, "Holding holds itself"), (Pathed, "a configuration can't hold Path"), (3, "3 is not a configuration")],
)
def test_a_model_that_has_no_schema_is_told(model: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        config_schema(model)


def test_a_plugin_server_leaves_out_what_kong_cannot_be_told_of(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "from pathlib import Path\nimport msgspec\nfrom gatewright import Plugin\n"
        "class C(msgspec.Struct):\n    place: Path\n"
        "class Odd(Plugin):\n    Config = C\n    async def on_request(self, request): ...\n"
        "class Even(Plugin):\n    async def on_request(self, request): ...\n"
    )
    discovery = load_directory(tmp_path)
    assert list(discovery.plugins) == ["even"]
    assert "odd.py: odd: its Config can't be used: C: a configuration can't hold Path" in str(discovery.errors[0])
    with pytest.raises(ConfigError, match="can't hold Path"):
        plugin(Pathed)({"place": "/tmp"})


def test_it_can_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = Secret("$env://GW_TEST_SECRET")
    assert repr(secret) == "Secret('$env://GW_TEST_SECRET')"
    with pytest.raises(ConfigError, match=r"no GW_TEST_SECRET.*APISIX clears.*nginx_config\.envs"):
        secret.reveal()
    monkeypatch.setenv("GW_TEST_SECRET", "from outside")
    assert secret.reveal() == "from outside"


@pytest.mark.parametrize("scheme", ["file:", "file://"])
def test_it_can_be_in_a_file_that_is_read_again(tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatewright.secret._LOOK_SECONDS", -1.0)
    file = tmp_path / "secret"
    secret = Secret(f"{scheme}{file}")
    with pytest.raises(ConfigError, match="No such file"):
        secret.reveal()
    file.write_text("")
    with pytest.raises(ConfigError, match="the file is empty"):
        secret.reveal()
    file.write_text("one\n")
    assert secret.reveal() == "one"
    file.write_text("another\r\n")
    assert secret.reveal() == "another"
    os.remove(file)
    assert secret.reveal() == "another", "it may be about to be replaced"
    file.write_bytes(b"\xff")
    assert secret.reveal() == "another"
    file.write_text("")
    assert secret.reveal() == "another"
    file.write_text("third")
    assert secret.reveal() == "third"


def test_a_file_is_looked_at_once_a_second_at_most(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("one")
    secret = Secret(f"file:{file}")
    assert secret.reveal() == "one"
    file.write_text("another")
    assert secret.reveal() == "one"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must not be empty"),
        ("$env://", "the name of a variable"),
        ("file:relative", "an absolute path"),
        ("$secret://vault/1/a/b", "has not resolved"),
        ("{vault://env/x}", "has not resolved"),
    ],
)
def test_what_nobody_resolves_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plugin(Struct)({"password": text})


def test_it_is_not_written_by_accident() -> None:
    with pytest.raises(TypeError):
        msgspec.json.encode(Struct(Secret("hunter2")))
