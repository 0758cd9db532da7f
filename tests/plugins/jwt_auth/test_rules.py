"""What a request needs to pass, what the upstream is told, and what a client is answered."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from gatewright import ConfigError
from gatewright.plugins.jwt_auth import JwtAuth
from tests.plugins.harness import Gateway, Outcome
from tests.plugins.jwt_auth.tokens import SECRET, claims, private_key, public_jwk, public_pem, sign

PLUGINS = ["jwt-auth"]
HS = {"secret": SECRET}
GUIDE = {"secret": SECRET, "algorithm": "HS256"}


def ask(gateway: Gateway, config: dict[str, Any], token: str | None = None, **request: Any) -> Outcome:
    headers = {**({"authorization": f"Bearer {token}"} if token is not None else {}), **request.pop("headers", {})}
    return gateway.route(("jwt-auth", config)).request(headers=headers, **request)


# --- keys of all kinds

KINDS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K", "Ed25519", "Ed448"]


@pytest.mark.parametrize("kind", KINDS)
def test_public_keys(gateway: Gateway, kind: str, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(public_pem(kind))
    jwk = public_jwk(kind, kid="k")
    for config in (
        {"public_key": public_pem(kind)},
        {"public_key": f"file:{tmp_path / 'key.pem'}"},
        {"jwks": json.dumps(jwk)},
        {"jwks": json.dumps({"keys": [jwk]}), "algorithm": "EdDSA" if kind.startswith("Ed") else kind},
    ):
        outcome = ask(gateway, config, sign(kind, kid="k"))
        assert (outcome.status, outcome.upstream) == (0, {"x-jwt-sub": "ada"}), config
        assert ask(gateway, config, sign(kind, 1, kid="k")).status == 401


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_secrets(gateway: Gateway, algorithm: str) -> None:
    assert ask(gateway, {**HS, "algorithm": algorithm}, sign(algorithm)).upstream == {"x-jwt-sub": "ada"}
    other = {"HS256": "HS384"}.get(algorithm, "HS256")
    assert ask(gateway, {**HS, "algorithm": algorithm}, sign(other)).status == 401


def test_the_guides_configuration(gateway: Gateway) -> None:
    assert ask(gateway, GUIDE, sign("HS256")).upstream == {"x-jwt-sub": "ada"}
    assert ask(gateway, GUIDE).status == 401


BAD = [
    ({}, "without keys no token can be verified"),
    ({"secret": ""}, "must not be empty"),
    ({"secret": "secret"}, "6 bytes, and HS256 wants 32"),
    ({"secret": "x" * 63, "algorithm": "HS512"}, "HS512 wants 64"),
    ({"secret": public_pem("RS256")}, "give it as `public_key`"),
    ({**HS, "algorithm": "none"}, "'none' is not accepted"),
    ({**HS, "algorithms": ["HS256", "RS256"]}, "RS256 wants a public key"),
    ({"public_key": public_pem("RS256"), "algorithm": "HS256"}, "HS256 wants a secret"),
    ({"public_key": public_pem("RS256"), "algorithm": "ES256"}, "none of these is in `algorithms`"),
    ({"public_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"}, "not a public key or certificate"),
    ({"public_key": "-----BEGIN PRIVATE KEY-----"}, "private key"),
    ({**HS, "public_key": public_pem("RS256")}, "one way only"),
    ({**HS, "algorithm": "HS256", "algorithms": ["HS256"]}, "not both"),
    ({"jwks": "{"}, "not JSON"),
    ({"jwks": {"keys": []}}, "it is empty"),
    ({"jwks": {"keys": [{**public_jwk("RS256"), "use": "enc"}]}}, "not for verifying"),
    ({"jwks": {"keys": [{"kty": "oct", "k": "AAAA"}]}, "algorithm": "HS256"}, "HS256 wants 32"),
    ({"public_key": public_pem("1024 bits")}, "1024 bits"),
    ({"jwks_url": "http://id.example/jwks"}, "https:// URL"),
    ({"jwks_url": "file:///etc/passwd"}, "https:// URL"),
    ({"discover": "ftp://id.example"}, "https:// URL"),
    ({**HS, "header": ""}, "come from somewhere"),
    ({**HS, "claim_values": {"role": []}}, "no token would do"),
    ({"introspection": {"url": "https://id.example/i", "client_id": "x"}}, "client_secret"),
    ({**HS, "realm": 'a"b'}, "realm"),
]


@pytest.mark.parametrize(("config", "message"), BAD, ids=[text for _, text in BAD])
def test_what_can_only_be_a_mistake_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        JwtAuth(config)
    assert message in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_changed_key_file_is_seen_and_what_the_old_key_signed_is_forgotten(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(public_pem("RS256"))
    route = gateway.route(("jwt-auth", {"public_key": f"file:{file}"}))
    old, new = ({"authorization": f"Bearer {sign('RS256', number)}"} for number in (0, 1))
    assert route.request(headers=old).status == 0
    assert route.request(headers=new).status == 401
    file.write_text(public_pem("RS256", 1))
    deadline = time.monotonic() + 10
    while route.request(headers=new).status:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert route.request(headers=old).status == 401


# --- where the token is


def test_without_a_token_the_challenge_names_no_error(gateway: Gateway) -> None:
    for headers in ({}, {"authorization": "Basic YTpi"}):
        outcome = ask(gateway, {**HS, "realm": "shop"}, headers=headers)
        assert outcome.status == 401
        assert outcome.headers["www-authenticate"] == 'Bearer realm="shop"'


def test_a_bad_token_and_why(gateway: Gateway) -> None:
    outcome = ask(gateway, HS, sign("HS256", exp=1))
    assert outcome.status == 401
    assert outcome.headers["www-authenticate"] == (
        'Bearer realm="api", error="invalid_token", error_description="the token has expired"'
    )
    assert outcome.json == {"error": "invalid_token", "error_description": "the token has expired"}


PLACES = [
    ({}, {"headers": {"Authorization": "bearer {}"}}),
    ({"header": "X-Token", "scheme": ""}, {"headers": {"x-token": "{}"}}),
    ({"cookie": "sid"}, {"headers": {"cookie": "a=b; sid={}; c=d"}}),
    ({"argument": "access_token", "header": ""}, {"query": [("a", "1"), ("access_token", "{}")]}),
]


def _filled(request: dict[str, Any], token: str) -> dict[str, Any]:
    return json.loads(json.dumps(request).replace("{}", token)) | {
        "query": [(name, value.replace("{}", token)) for name, value in request.get("query", [])]
    }


@pytest.mark.parametrize(("config", "request_"), PLACES)
def test_where_the_token_may_be(gateway: Gateway, config: dict[str, Any], request_: dict[str, Any]) -> None:
    outcome = ask(gateway, {**HS, **config}, **_filled(request_, sign("HS256")))
    assert (outcome.status, outcome.upstream) == (0, {"x-jwt-sub": "ada"})


@pytest.mark.parametrize(("config", "request_"), PLACES)
def test_the_token_can_be_kept_from_the_upstream(
    gateway: Gateway, config: dict[str, Any], request_: dict[str, Any]
) -> None:
    asked = _filled(request_, sign("HS256"))
    outcome = ask(gateway, {**HS, **config, "hide": True}, **asked)
    if "argument" in config:
        assert outcome.query is not None
        assert "access_token" not in dict(outcome.query)
    else:
        (name,) = (each.lower() for each in request_["headers"])
        assert outcome.upstream[name] == ("a=b; c=d" if name == "cookie" else None)


def test_two_tokens_are_one_too_many(gateway: Gateway) -> None:
    config = {**HS, "cookie": "sid", "argument": "t"}
    token = sign("HS256")
    for request in (
        {"headers": {"authorization": [f"Bearer {token}", f"Bearer {token}"]}},
        {"headers": {"authorization": f"Bearer {token}", "cookie": f"sid={token}"}},
        {"headers": {"cookie": f"sid={token}; sid=x"}},
        {"query": [("t", token), ("t", token)]},
    ):
        outcome = ask(gateway, config, **request)
        assert outcome.status == 400, request
        assert 'error="invalid_request"' in outcome.headers["www-authenticate"]


# --- what the upstream is told

FORGED = ["x-jwt-sub", "X-JWT-Sub", "x_jwt_sub", "X_Jwt-Sub", "x-jwt_sub"]


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("optional", [False, True])
def test_no_client_can_forge_what_the_upstream_is_told(gateway: Gateway, name: str, optional: bool) -> None:
    token = None if optional else sign("HS256")
    outcome = ask(gateway, {**HS, "optional": optional}, token, headers={name: "root", "x-other_one": "1"})
    assert outcome.status == 0
    assert {key: value for key, value in outcome.upstream.items() if value} == (
        {} if optional else {"x-jwt-sub": "ada"}
    )
    assert outcome.upstream.get(name.lower()) in ((None,) if optional else (None, "ada"))
    if name.lower() != "x-jwt-sub" or optional:
        assert name.lower() in outcome.upstream, "it is removed, not only left alone"
    assert "x-other_one" not in outcome.upstream


def test_a_claim_that_is_absent_leaves_no_room_for_the_clients(gateway: Gateway) -> None:
    config = {**HS, "claims_to_headers": {"sub": "x-user", "role": "x-role"}}
    outcome = ask(gateway, config, sign("HS256"), headers={"x-role": "admin"})
    assert outcome.upstream == {"x-user": "ada", "x-role": None}


def test_claims_as_headers(gateway: Gateway) -> None:
    config = {
        **HS,
        "claims_to_headers": {
            "sub": "X-User", "n": "x-n", "yes": "x-yes", "roles": "x-roles", "/realm/roles/x~1y": "x-deep",
            "https://x/y": "x-url", "not": "x-not",
        },
    }  # fmt: skip
    token = sign(
        "HS256", n=1.5, yes=True, roles=["a", "b,c"], realm={"roles": {"x/y": "deep"}}, not_=1, **{"https://x/y": "é"}
    )
    told = ask(gateway, config, token).upstream
    assert {name: value for name, value in told.items() if value is not None} == {
        "x-user": "ada", "x-n": "1.5", "x-yes": "true", "x-roles": '["a","b,c"]', "x-deep": "deep", "x-url": "é",
    }  # fmt: skip


# --- what the claims have to say

CLAIMS: list[tuple[dict[str, Any], dict[str, Any], int]] = [
    ({"scopes": ["read"]}, {"scope": "write read"}, 0),
    ({"scopes": ["read"]}, {"scp": ["read"]}, 0),
    ({"scopes": ["read", "write"]}, {"scope": "read"}, 403),
    ({"scopes": ["read"]}, {"scope": "readers"}, 403),
    ({"scopes": ["read"]}, {}, 403),
    ({"claim_values": {"role": ["admin", "root"]}}, {"role": "root"}, 0),
    ({"claim_values": {"role": ["admin"]}}, {"role": ["user", "admin"]}, 0),
    ({"claim_values": {"role": ["admin"]}}, {"role": "user"}, 403),
    ({"claim_values": {"role": ["admin"]}}, {}, 403),
    ({"claim_values": {"/a/b": ["true"]}}, {"a": {"b": True}}, 0),
    ({"required_claims": ["exp", "tenant"]}, {"tenant": "x"}, 0),
    ({"required_claims": ["exp", "tenant"]}, {}, 401),
    ({"required_claims": []}, {"exp": None}, 0),
    ({"issuers": ["https://a", "https://b"]}, {"iss": "https://b"}, 0),
    ({"audiences": ["a", "b"]}, {"aud": ["c", "b"]}, 0),
    ({"audiences": ["a"]}, {"aud": ["c"]}, 401),
    ({"leeway": 30}, {"exp": "now - 20"}, 0),
    ({"leeway": 10}, {"exp": "now - 20"}, 401),
    ({"leeway": 30}, {"nbf": "now + 20"}, 0),
    ({"max_age": 60, "leeway": 0}, {"iat": "now - 30"}, 0),
    ({"max_age": 60, "leeway": 0}, {"iat": "now - 90"}, 401),
    ({"max_age": 60}, {"iat": None}, 401),
]


@pytest.mark.parametrize(("config", "more", "status"), CLAIMS)
def test_claims(gateway: Gateway, config: dict[str, Any], more: dict[str, Any], status: int) -> None:
    now = int(time.time())
    more = {n: now + int(v[4:].replace(" ", "")) if str(v).startswith("now ") else v for n, v in more.items()}
    outcome = ask(gateway, {**HS, **config}, sign("HS256", **more))
    assert outcome.status == status
    if status == 403 and "scopes" in config:
        assert f'scope="{" ".join(config["scopes"])}"' in outcome.headers["www-authenticate"]


# --- what is remembered


def test_a_repeated_token_costs_no_second_signature_check(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    from gatewright.plugins.jwt_auth._keys import Key

    checks: list[str] = []
    verifies = Key.verifies
    monkeypatch.setattr(Key, "verifies", lambda self, alg, *rest: checks.append(alg) or verifies(self, alg, *rest))
    config = {"public_key": public_pem("RS256")}
    if gateway.kind == "apisix":  # on Kong each request of the harness has an instance of its own
        route = gateway.route(("jwt-auth", config))
        headers = {"authorization": f"Bearer {sign('RS256')}"}
        for _ in range(5):
            assert route.request(headers=headers).upstream == {"x-jwt-sub": "ada"}
        assert checks == ["RS256"]
        assert route.request(headers={"authorization": f"Bearer {sign('RS256', sub='eve')}"}).status == 0
        assert len(checks) == 2


def test_what_is_remembered_ends_with_the_token(gateway: Gateway) -> None:
    route = gateway.route(("jwt-auth", {**HS, "leeway": 0}))
    headers = {"authorization": f"Bearer {sign('HS256', exp=time.time() + 1.5)}"}
    assert route.request(headers=headers).status == 0
    deadline = time.monotonic() + 10
    while route.request(headers=headers).status == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_no_secret_and_no_token_is_logged(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    token = sign("HS256", exp=1)
    ask(gateway, HS, token)
    ask(gateway, {"secret": "too short"}, token)
    seen = "".join(capfd.readouterr())
    assert token not in seen
    assert token.split(".")[2] not in seen
    assert SECRET not in seen
    assert private_key("RS256") is private_key("PS256")
    assert claims()["sub"] not in seen
