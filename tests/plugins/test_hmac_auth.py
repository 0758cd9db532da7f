from __future__ import annotations

import hmac
import re
import time
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import requests
from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver, algorithms

from gatewright import ConfigError
from gatewright.plugins._shared.http_signatures import (
    Message,
    SignatureError,
    has_digest,
    read_signature,
    signature_base,
    verify,
)
from gatewright.plugins.hmac_auth import HmacAuth
from tests.conftest import ROOT
from tests.plugins.harness import Gateway, Outcome
from tests.plugins.redis_servers import RedisProcess

PLUGINS = ["hmac-auth"]
SECRET = "a secret that nobody can guess, of 32 bytes or more"
KEYS = {"keys": [{"id": "k1", "consumer": "ada", "secret": SECRET}]}
COVERED = ("@method", "@authority", "@path", "@query")


class Keys(HTTPSignatureKeyResolver):
    def resolve_private_key(self, key_id: str) -> bytes:
        return SECRET.encode()

    resolve_public_key = resolve_private_key


def signed_by_the_library(method: str, url: str, components: tuple[str, ...], body: bytes = b"") -> dict[str, str]:
    request = requests.Request(method, url, data=body or None).prepare()
    if body:
        request.headers["content-digest"] = f"sha-256=:{b64encode(sha256(body).digest()).decode()}:"
    signer = HTTPMessageSigner(signature_algorithm=algorithms.HMAC_SHA256, key_resolver=Keys())
    signer.sign(
        request,
        key_id="k1",
        covered_component_ids=components,
        label="sig1",
        **({"use_existing_digest": True} if body else {}),
    )
    wanted = ("signature", "signature-input", "content-digest")
    return {name.lower(): value for name, value in request.headers.items() if name.lower() in wanted}


def signed(
    *components: str,
    secret: str = SECRET,
    target: str = "/",
    method: str = "GET",
    headers: Any = None,
    **parameters: Any,
) -> dict[str, str]:
    """A signature by hand; `parameters` as they are to be written."""
    path, _, query = target.partition("?")
    known = {
        "@method": method, "@authority": "example.com", "@path": path, "@query": f"?{query}", "@request-target": target,
        "@scheme": "http", "@target-uri": f"http://example.com{target}", **(headers or {}),
    }  # fmt: skip
    components = components or COVERED
    values = {"created": int(time.time()), "keyid": '"k1"', **parameters}
    listed = " ".join(f'"{name}"' for name in components)
    about = f"({listed})" + "".join(f";{name}={value}" for name, value in values.items() if value is not None)
    lines = [f'"{name}": {known.get(name, "")}' for name in components] + [f'"@signature-params": {about}']
    value = b64encode(hmac.digest(secret.encode(), "\n".join(lines).encode(), sha256)).decode()
    return {"signature-input": f"s={about}", "signature": f"s=:{value}:", **(headers or {})}


def ask(
    gateway: Gateway, headers: dict[str, str], config: dict[str, Any] | None = None, target: str = "/", **request: Any
) -> Outcome:
    path, _, query = target.partition("?")
    pairs = [tuple(pair.split("=")) for pair in query.split("&")] if query else []
    variables = {"request_uri": target, "scheme": "http"}
    route = gateway.route(("hmac-auth", {**KEYS, **(config or {})}))
    return route.request(path, headers=headers, query=pairs, variables=variables, **request)


def test_the_pages_client_is_let_in_as_often_as_it_asks(gateway: Gateway) -> None:
    page = (ROOT / "docs/batteries/hmac-auth.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shown: dict[str, Any] = {}
    exec(code, shown)
    config = {"keys": [{"id": "k1", "consumer": "ada", "secret": "correct-horse-battery-staple-and-then-some"}]}
    route = gateway.route(("hmac-auth", config))
    for _ in range(3):
        headers = {name.lower(): each for name, each in shown["signature"]("GET", "shop.test", "/a%2Fb", "x=1").items()}
        sent = {"request_uri": "/a%2Fb?x=1", "real_request_uri": "/a%2Fb?x=1"}
        answer = route.request("/a/b", headers={"host": "shop.test", **headers}, query=[("x", "1")], variables=sent)
        assert (answer.status, answer.upstream["x-consumer"]) == (0, "ada"), answer.body


def test_what_another_implementation_signs(gateway: Gateway) -> None:
    headers = signed_by_the_library("GET", "http://example.com/a/b?c=d", COVERED)
    outcome = ask(gateway, headers, target="/a/b?c=d")
    assert (outcome.status, outcome.upstream) == (0, {"x-consumer": "ada"})
    headers = signed_by_the_library("POST", "http://example.com/a", (*COVERED, "content-digest"), b"body")
    assert ask(gateway, headers, target="/a", method="POST", body=b"body").status == 0
    assert ask(gateway, headers, target="/a", method="POST", body=b"other").status == 401


def test_the_example_of_the_rfc() -> None:
    """RFC 9421, B.2.5."""
    about = '("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
    signature = read_signature(f"sig-b25={about}", "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:", "")
    headers = {"date": ["Tue, 20 Apr 2021 02:07:55 GMT"], "content-type": ["application/json"]}
    message = Message("POST", "/foo?param=Value&Pet=dog", "example.com", "https", headers)
    secret = b64decode("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==")
    assert verify(signature_base(message, signature), signature, secret)


def test_every_component(gateway: Gateway) -> None:
    components = ("@method", "@authority", "@path", "@query", "@scheme", "@target-uri", "@request-target", "x-a")
    headers = signed(*components, target="/a%20b?c=d", headers={"x-a": "1"})
    assert ask(gateway, headers, {"covered": components}, "/a%20b?c=d").status == 0


NOW = int(time.time())
TWO = {"signature-input": f'{signed()["signature-input"]}, t=("@method")', "signature": signed()["signature"]}
PARAMETER = f's=("@query-param";name="a");created={NOW};keyid="k1"'
REFUSED: list[tuple[str, dict[str, str], str]] = [
    ("nothing", {}, "a signature is needed"),
    ("no value", {"signature-input": 's=("@method")'}, "a signature is needed"),
    ("another secret", signed(secret="x" * 40), "the signature is wrong"),
    ("an empty secret", signed(secret=""), "the signature is wrong"),
    ("another key", signed(keyid='"k2"'), "the signature is wrong"),
    ("another path", signed(target="/other"), "the signature is wrong"),
    ("another method", signed(method="PUT"), "the signature is wrong"),
    ("too little", signed("@method", "@path"), "doesn't cover @authority, @query"),
    ("nothing covered", {**signed(), "signature-input": f's=();created={NOW};keyid="k1"'}, "doesn't cover"),
    ("a component twice", signed(*COVERED, "@method"), "twice"),
    ("a header that isn't there", signed(*COVERED, "x-absent"), "x-absent is signed, but not there"),
    ("a component unknown", signed(*COVERED, "@status"), "@status is not known"),
    ("a header in capitals", signed(*COVERED, "X-A", headers={"X-A": "1"}), "not there"),
    ("too old", signed(created=NOW - 86401), "too old"),
    ("from the future", signed(created=NOW + 90_000), "from the future"),
    ("expired", signed(expires=NOW - 1), "too old"),
    ("created absent", signed(created=None), "needs created"),
    ("keyid absent", signed(keyid=None), "needs created and keyid"),
    ("created as text", signed(created=f'"{NOW}"'), "can't be read"),
    ("another algorithm", signed(alg='"rsa-pss-sha512"'), "hmac-sha256"),
    ("no algorithm", signed(alg='"none"'), "hmac-sha256"),
    ("a parameter twice", {**signed(), "signature-input": signed()["signature-input"] + ";created=1"}, "can't be read"),
    ("two signatures", TWO, "more than one"),
    ("other labels", {**signed(), "signature": "t=:AAAA:"}, "no signature s"),
    ("a value that is none", {**signed(), "signature": "s=AAAA"}, "can't be read"),
    ("base64 that is none", {**signed(), "signature": "s=:AAAAA:"}, "not base64"),
    ("a parameter of a component", {**signed(), "signature-input": PARAMETER}, "can't be read"),
    ("garbage", {"signature": "\\", "signature-input": '("'}, "can't be read"),
    ("much of it", {"signature": "s=:AAAA:", "signature-input": "s=(" + '"a" ' * 5000 + ")"}, "too many"),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "why"), [each[1:] for each in REFUSED], ids=[name for name, *_ in REFUSED])
def test_what_is_refused(gateway: Gateway, headers: dict[str, str], why: str) -> None:
    outcome = ask(gateway, headers, {"once": False, "max_age": 86400})  # they are signed when this module is imported
    assert outcome.status == 401
    assert why in outcome.json["error"]
    assert outcome.headers["accept-signature"].startswith('sig=("@method" "@authority" "@path" "@query");created;keyid')


def test_two_signatures_of_which_one_is_named(gateway: Gateway) -> None:
    mine = signed()
    headers = {
        "signature-input": f'o=("@method");tag="a,b", {mine["signature-input"]}',
        "signature": f"o=:AAAA:, {mine['signature']}",
    }
    assert ask(gateway, headers, {"label": "s"}).status == 0


def test_on_apisix_the_path_is_taken_as_it_was_sent() -> None:
    """APISIX's `$request_uri` is decoded: /a b?c=d, where the client sent /a%20b?c=d."""
    variables = {"request_uri": "/a b?c=d", "real_request_uri": "/a%20b?c=d", "scheme": "http"}
    with Gateway("apisix", PLUGINS) as apisix:
        route = apisix.route(("hmac-auth", KEYS))
        assert route.request("/a b", headers=signed(target="/a%20b?c=d"), variables=variables).status == 0


def test_a_tag(gateway: Gateway) -> None:
    assert ask(gateway, signed(tag='"shop"'), {"tag": "shop"}).status == 0
    assert ask(gateway, signed(tag='"bank"'), {"tag": "shop"}).status == 401
    assert ask(gateway, signed(), {"tag": "shop"}).status == 401


def test_a_body_has_to_be_covered(gateway: Gateway) -> None:
    assert ask(gateway, signed(method="POST"), method="POST", body=b"x").status == 401
    assert ask(gateway, signed(method="POST"), {"body": False}, method="POST", body=b"x").status == 0


def test_digests() -> None:
    right = b64encode(sha256(b"x").digest()).decode()
    assert has_digest(f"sha-256=:{right}:", b"x")
    assert has_digest(f"unixsum=:AAAA:, sha-256=:{right}:", b"x")
    assert not has_digest(f"sha-256=:{right}:, sha-512=:AAAA:", b"x")
    assert not has_digest("md5=:AAAA:", b"x")
    with pytest.raises(SignatureError):
        has_digest(f"sha-256={right}", b"x")


def test_a_signature_is_good_once() -> None:
    with Gateway("apisix", PLUGINS) as apisix:
        route = apisix.route(("hmac-auth", {**KEYS, "most_remembered": 2}), id="once")
        variables = {"request_uri": "/", "scheme": "http"}
        first, second, third = (signed(nonce=f'"{n}"') for n in range(3))
        assert route.request(headers=first, variables=variables).status == 0
        again = route.request(headers=first, variables=variables)
        assert (again.status, again.json["error"]) == (401, "the signature was used before")
        changed = apisix.route(("hmac-auth", {**KEYS, "most_remembered": 2, "hide": True}), id="once")
        assert changed.request(headers=first, variables=variables).status == 401, "though the configuration is another"
        assert route.request(headers=second, variables=variables).status == 0
        full = route.request(headers=third, variables=variables)
        assert full.status == 503, "none is forgotten to make room"


def test_a_signature_is_good_once_for_all_who_share_a_redis(gateway: Gateway, tmp_path: Any) -> None:
    redis = RedisProcess(tmp_path).wait()
    try:
        config = {"redis": {"servers": [redis.address], "timeout": 5}}
        headers = signed()
        assert ask(gateway, headers, config).status == 0
        assert ask(gateway, headers, config).status == 401
    finally:
        redis.end()
    assert ask(gateway, signed(nonce='"n"'), config).status == 503


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "there are no secrets"),
    ({"keys": [{"id": "a", "consumer": "a", "secret": "short"}]}, "less than 32 bytes"),
    ({"keys": [{"id": "a", "consumer": "a", "secret": "!" * 50, "encoding": "base64"}]}, "not base64"),
    ({**KEYS, "covered": ["@nothing"]}, "covered knows"),
]


@pytest.mark.parametrize(("config", "message"), BAD, ids=[text for _, text in BAD])
def test_mistakes(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HmacAuth(config)


def test_the_pages_client(gateway: Gateway) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "batteries" / "hmac-auth.md").read_text(encoding="utf-8")
    source = page.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(source, names)
    headers = names["signature"]("GET", "example.com", "/a", "b=c", secret=SECRET)
    assert ask(gateway, headers, target="/a?b=c").status == 0
