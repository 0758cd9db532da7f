from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gatewright import ConfigError, Plugin, Secret
from gatewright.config import config_schema
from gatewright.gateways.kong.dump import kong_fields
from gatewright.runtime.fitting import check_fields

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
