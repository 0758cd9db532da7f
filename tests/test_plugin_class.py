"""What a plugin's class says: its configuration's model, its handlers' names."""

from __future__ import annotations

import msgspec
import pytest

from gatewright import NotJsonError, Plugin, override
from gatewright import Response as Answer
from gatewright.testing import Request, Response, SyncRequest, SyncResponse


class Model(msgspec.Struct):
    greeting: str = "hello"


def test_the_model_may_be_given_as_a_type_argument() -> None:
    class Greet(Plugin[Model]):
        pass

    class Loud(Greet):
        pass

    assert Greet({"greeting": "hi"}).config == Model("hi")
    assert Loud.Config is Model
    assert Plugin[Model].__origin__ is Plugin  # type: ignore[attr-defined]


def test_a_model_of_its_own_counts_more() -> None:
    class Own(Plugin[Model]):
        class Config(msgspec.Struct):
            other: int = 1

    assert Own().config.other == 1


@pytest.mark.parametrize(
    ("name", "meant"), [("on_respnse", "on_response"), ("on_requst", "on_request"), ("on_certficate", "on_certificate")]
)
def test_a_misspelt_handler_is_no_plugin(name: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"{name} would never be called: did you mean {meant}"):
        type("Greet", (Plugin,), {name: lambda self, request: None})


def test_other_methods_may_be_called_as_one_likes() -> None:
    class Greet(Plugin):
        def on_timeout(self) -> None: ...

        @override
        def on_log(self, kong: object) -> None: ...

    assert Greet.kong_phases() == ("log",)


class TestJson:
    async def test_bodies_are_read(self) -> None:
        assert await Request(body='{"a": [1, "ä"]}').json() == {"a": [1, "ä"]}
        assert SyncRequest(body=b"[1]").json() == [1]
        assert await Response(body='{"a": 1}').json() == {"a": 1}
        assert SyncResponse(body="null").json() is None
        assert Answer.json({"a": "ä"}, 201, {"x": "1"}).content == '{"a": "ä"}'.encode()

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"", "is empty, where JSON is expected"),
            (b"{", "is not JSON"),
            (b'"\xff"', "is not JSON"),
            (b"[" * 100_000, "is not JSON"),
        ],
    )
    async def test_what_is_not_json_is_an_error_for_a_400(self, body: bytes, words: str) -> None:
        with pytest.raises(NotJsonError, match=f"the request's body {words}"):
            await Request(body=body).json()
        with pytest.raises(NotJsonError, match=f"the request's body {words}"):
            SyncRequest(body=body).json()
        with pytest.raises(NotJsonError, match=f"the response's body {words}"):
            await Response(body=body).json()
        with pytest.raises(NotJsonError, match=f"the response's body {words}"):
            SyncResponse(body=body).json()
