"""Whatever clients send to the plugins that judge it is read or refused: nothing else is raised, nobody gets a 503."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.plugins._shared.http_signatures import (
    Message,
    SignatureError,
    has_digest,
    read_signature,
    signature_base,
)
from gatewright.plugins.basic_auth import _login
from gatewright.plugins.jwt_auth._claims import ClaimRules, InsufficientScopeError
from gatewright.plugins.jwt_auth._token import InvalidTokenError, SignedToken, read_claims, read_token
from gatewright.plugins.request_validator._bodies import read_form, read_json, read_multipart
from gatewright.plugins.request_validator._faults import InvalidRequestError
from gatewright.plugins.request_validator._shapes import Shape
from tests.plugins.jwt_auth.tokens import encoded

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
HEADER = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "cty", "crit", "b64", "jwk", "enc", "zip"]), JSON)
CLAIMS = st.dictionaries(st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "scp", "a"]), JSON)
ASCII = st.text(st.characters(max_codepoint=127), max_size=60)
SHAPE = Shape(properties={"a": Shape(types=frozenset(["integer", "array"])), "b": Shape(types=frozenset(["boolean"]))})


@given(ASCII | st.builds(lambda h, p, s: f"{encoded(h)}.{encoded(p)}.{s}", HEADER, JSON, ASCII))
def test_tokens(text: str) -> None:
    with contextlib.suppress(InvalidTokenError):
        assert isinstance(read_claims(read_token(text)), dict)


@given(CLAIMS)
def test_claims(claims: dict[str, Any]) -> None:
    rules = ClaimRules(
        issuers=frozenset(["i"]), audiences=frozenset(["a"]), required=("exp", "/a/b", "/a/0"),
        values={"a": ("1",), "/a/b": ("x",)}, scopes=frozenset(["s"]), max_age=5.0,
    )  # fmt: skip
    with contextlib.suppress(InvalidTokenError, InsufficientScopeError):
        read = read_claims(SignedToken("RS256", None, "", b"", encoded(json.dumps(claims)), b""))
        rules.check(read, 1000.0)


FIELD = st.text(st.sampled_from('s1=("@method")-a;:,.AQ= \\keyid"created*'), max_size=60)
INPUT = st.builds(
    lambda names, rest: "s=(" + " ".join(f'"{name}"' for name in names) + ")" + rest,
    st.lists(
        st.sampled_from(["@method", "@authority", "@path", "@query", "@target-uri", "x-a", "@nothing", ""]), max_size=4
    ),
    st.text(st.sampled_from(';created=1"keyid\\ '), max_size=20),
)


@given(FIELD | INPUT, FIELD | st.just("s=:AAAA:"), ASCII, ASCII, st.sampled_from(["", "s"]))
def test_signatures(signature_input: str, value: str, host: str, target: str, label: str) -> None:
    message = Message("GET", "/" + target, host, "http", {"x-a": ["1", "2\n 3"]})
    with contextlib.suppress(SignatureError):
        signature_base(message, read_signature(signature_input, value, label))
    with contextlib.suppress(SignatureError):
        has_digest(signature_input, b"x")


@pytest.mark.parametrize("host", ["[", "[::1", "a:b:c", "", "EXAMPLE.com:80", "\u2100"])
def test_hosts(host: str) -> None:
    signature = read_signature('s=("@authority")', "s=:AAAA:", "")
    with contextlib.suppress(SignatureError):
        signature_base(Message("GET", "/", host, "http", {}), signature)


READERS: list[Callable[[bytes], Any]] = [
    lambda body: read_json(body, 5),
    lambda body: read_form(body, SHAPE),
    lambda body: read_multipart(body, "multipart/form-data; boundary=b", SHAPE),
    lambda body: read_multipart(b"--b\r\n" + body + b"\r\n--b--\r\n", "multipart/form-data; boundary=b", SHAPE),
    lambda body: read_multipart(b"--b--\r\n", f"multipart/form-data; {body.decode('latin-1')}", SHAPE),
]
PIECES = st.lists(
    st.sampled_from([
        b"content-disposition: form-data", b'; name="a"', b'; filename="', b"\r\n", b"\r\n\r\n", b"--b", b"--",
        b"boundary=", b'"',
        b"a=1", b"&", b"b=%", b"%ff", b"{", b"}", b"[", b'"a"', b":", b"1e5", b"\\u", b"d800", b"\xff", b"\0",
    ]), max_size=12,
).map(b"".join)  # fmt: skip


@pytest.mark.parametrize("read", READERS)
@given(body=PIECES | st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_bodies(read: Callable[[bytes], Any], body: bytes) -> None:
    with contextlib.suppress(InvalidRequestError):
        read(body)


@given(ASCII | st.binary(max_size=20).map(encoded) | st.text(max_size=10))
def test_logins(said: str) -> None:
    assert _login(said) is None or len(_login(said) or ()) == 2
