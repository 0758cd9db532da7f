from __future__ import annotations

import asyncio
import threading
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import argon2
import bcrypt
import pytest

from gatewright import ConfigError
from gatewright.plugins._shared import passwords
from gatewright.plugins._shared.passwords import PasswordChecker, TooManyChecksError
from gatewright.plugins.basic_auth import BasicAuth
from tests.plugins.harness import Gateway

PLUGINS = ["basic-auth"]
WEAK = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
ARGON2 = WEAK.hash("pä:ss")
BCRYPT = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
USERS = [{"consumer": "ada", "hash": ARGON2}, {"consumer": "bob", "hash": BCRYPT}]


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{name}:{password}".encode()).decode()}


def test_who_may(gateway: Gateway) -> None:
    route = gateway.route(("basic-auth", {"users": USERS}))
    told = {"x-consumer": "ada", "authorization": None}
    assert route.request(headers=basic("ada", "pä:ss")).upstream == told
    assert route.request(headers={**basic("bob", "secret"), "x_consumer": "root"}).upstream == {
        "x-consumer": "bob", "authorization": None, "x_consumer": None,
    }  # fmt: skip
    for headers in (
        {}, *({"authorization": each} for each in ("Basic", "Basic !!!!", "Basic YWRh", "Basic /w==")),
        basic("ada", ""), basic("ada", "secret"), basic("", ""), basic("eve", "secret"), basic("bob", "x" * 100),
        basic("bob", "secret\0x"),
        basic("ada", "x" * 3000), {"authorization": "Bearer x"},
    ):  # fmt: skip
        outcome = route.request(headers=headers)
        assert (outcome.status, outcome.headers["www-authenticate"]) == (401, 'Basic realm="api", charset="UTF-8"'), (
            headers
        )


def test_names_and_passwords_can_be_sent_on(gateway: Gateway) -> None:
    route = gateway.route(("basic-auth", {"users": USERS, "hide": False, "optional": True}))
    assert route.request(headers=basic("ada", "pä:ss")).upstream == {"x-consumer": "ada"}
    assert route.request().status == 0
    assert route.request(headers=basic("ada", "wrong")).status == 401


def test_a_file_of_htpasswd(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    file.write_text(f"# users\nbob:{BCRYPT.replace('$2b$', '$2y$')}\n\nada:{ARGON2}\n")
    route = gateway.route(("basic-auth", {"file": str(file)}))
    assert route.request(headers=basic("bob", "secret")).status == 0
    assert route.request(headers=basic("ada", "pä:ss")).status == 0
    assert route.request(headers=basic("bob", "pä:ss")).status == 401


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "there are no users"),
    ({"users": [{"consumer": "a", "hash": "secret"}]}, "begins with neither"),
    ({"users": [{"consumer": "a", "hash": "$apr1$x$y"}]}, "htpasswd -nB"),
    ({"users": [{"consumer": "a", "hash": "$argon2id$broken"}]}, "can't be used"),
    ({"users": [{"consumer": "a", "hash": "$2b$broken"}]}, "can't be used"),
    ({"users": [USERS[0], USERS[0]]}, "two credentials are the same"),
]


@pytest.mark.parametrize(("config", "message"), BAD, ids=[text for _, text in BAD])
def test_mistakes(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("$", r"\$")) as refused:
        BasicAuth(config)
    assert "$apr1$" not in str(refused.value)


def test_a_file_with_hashes_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("bob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n")
    with pytest.raises(ConfigError, match="htpasswd -nB"):
        BasicAuth({"file": str(tmp_path / "f")})


# --- checking


def slow_checks(monkeypatch: pytest.MonkeyPatch) -> tuple[list[bytes], threading.Event]:
    done, go = [], threading.Event()

    def matches(password: bytes, hashed: str) -> bool:
        go.wait(10)
        done.append(password)
        return password == b"right"

    monkeypatch.setattr(passwords, "_matches", matches)
    return done, go


async def test_the_same_password_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done, go = slow_checks(monkeypatch)
    checker = PasswordChecker(2, 10, ttl=60, wrong_ttl=60)
    tasks = [asyncio.create_task(checker.is_right("right", ARGON2)) for _ in range(5)]
    await asyncio.sleep(0.05)
    go.set()
    assert await asyncio.gather(*tasks) == [True] * 5
    assert await checker.is_right("right", ARGON2)
    assert not await checker.is_right("wrong", ARGON2)
    assert not await checker.is_right("wrong", ARGON2)
    assert done == [b"right", b"wrong"]
    assert await checker.is_right("right", BCRYPT), "another hash is another question"
    assert len(done) == 3


async def test_a_flood_of_passwords_is_refused_and_nothing_else_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    _, go = slow_checks(monkeypatch)
    checker = PasswordChecker(1, 2, ttl=60, wrong_ttl=60)
    tasks = [asyncio.create_task(checker.is_right(f"p{n}", ARGON2)) for n in range(3)]
    began = time.monotonic()
    await asyncio.sleep(0.05)
    with pytest.raises(TooManyChecksError):
        await checker.is_right("p4", ARGON2)
    assert time.monotonic() - began < 5, "the loop is free meanwhile"
    go.set()
    assert await asyncio.gather(*tasks) == [False] * 3


async def test_a_name_that_is_nobodys_takes_a_check_too(monkeypatch: pytest.MonkeyPatch) -> None:
    done, go = slow_checks(monkeypatch)
    go.set()
    checker = PasswordChecker(1, 2, ttl=0, wrong_ttl=0)
    assert not await checker.is_right("wrong", None)
    assert done == [b"wrong"]


@pytest.mark.parametrize(
    "hashed",
    [ARGON2, BCRYPT, argon2.PasswordHasher(time_cost=1, memory_cost=64).hash("x")],
    ids=["argon2", "bcrypt", "more lanes"],
)
async def test_a_name_that_is_nobodys_takes_as_long_as_one_that_is_somebodys(
    hashed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []

    def matches(_: bytes, hashed: str) -> bool:
        checked.append(hashed)
        return False

    checker = PasswordChecker(1, 2, ttl=60, wrong_ttl=60)
    checker.takes_as_long_as(hashed)
    assert not await checker.is_right("any", None), "a hash that can be checked, and that nothing has"
    monkeypatch.setattr(passwords, "_matches", matches)
    for name in (None, hashed):
        assert not await checker.is_right("wrong", name)
    nobodys, somebodys = checked
    assert nobodys != somebodys
    assert len(nobodys) == len(somebodys)
    costs = [text.rsplit("$", 2)[0] if text.startswith("$argon2") else text[:7] for text in checked]
    assert costs[0] == costs[1]


def test_no_password_is_logged(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    route = gateway.route(("basic-auth", {"users": USERS}))
    route.request(headers=basic("ada", "my-password"))
    seen = "".join(capfd.readouterr())
    assert "my-password" not in seen
    assert ARGON2 not in seen
