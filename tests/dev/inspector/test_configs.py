"""Configurations are shown without what their models call secret, whatever the fields' names are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gatewright.dev.inspector.configs import Schemas

CANARY = "Zx81-kestrel-0123456789abcdef"
REDIS = {"servers": ["127.0.0.1:6379"], "password": CANARY, "sentinel_password": CANARY}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("api-key", {"keys": [{"key": CANARY, "consumer": "ada"}], "redis": REDIS}),
        ("gatewright-api-key", {"keys": [{"key": CANARY, "consumer": "ada"}]}),
        ("basic-auth", {"users": [{"consumer": "ada", "hash": CANARY}]}),
        ("hmac-auth", {"keys": [{"id": "k", "consumer": "ada", "secret": CANARY}]}),
        ("jwt-auth", {"secret": CANARY}),
        ("jwt-auth", {"introspection": {"url": "https://a", "client_id": "b", "client_secret": CANARY}}),
        ("jwt-auth", {"jwks": {"keys": [{"kty": "oct", "kid": "1", "k": CANARY}]}}),
        ("jwt-auth", {"jwks": json.dumps({"kty": "RSA", "d": CANARY})}),
        ("aws-lambda", {"access_key_id": CANARY, "secret_access_key": CANARY, "session_token": CANARY}),
        ("ml-model", {"model": {"kind": "oip-http", "authorization": CANARY}}),
        ("opentelemetry", {"exporters": [{"headers": {"x-tenant": CANARY}}]}),
        ("rate-limit", {"limits": [{"requests": 1}], "redis": {"url": CANARY}}),
        ("cache", {"redis": REDIS}),
        ("llm-guard", {"redis": REDIS}),
    ],
)
def test_what_a_plugin_calls_secret_is_not_shown(name: str, config: dict[str, Any]) -> None:
    record = {"phases": [{"plugins": [{"name": name, "config": json.dumps(config)}]}]}
    view = [{"name": name, "schema": None, "routes": [{"id": "1", "config": json.dumps(config)}]}]
    schemas = Schemas()
    for shown in (schemas.shown(record), schemas.shown(view)):
        assert CANARY not in json.dumps(shown)
        assert "[redacted]" in json.dumps(shown)
    assert CANARY in json.dumps(record), "it can still be revealed"


def test_of_ones_own_plugins_it_is_the_schema_that_was_told() -> None:
    schemas = Schemas()
    schemas.tell([{"name": "mine", "schema": {"properties": {"pin": {"format": "password", "type": "string"}}}}])
    shown = schemas.shown({"name": "mine", "config": '{"pin": "1234", "other": "5"}'})
    assert json.loads(shown["config"]) == {"pin": "[redacted]", "other": "5"}


def test_all_else_stays_as_it_was_written() -> None:
    schemas = Schemas()
    for name, config in (
        ("api-key", '{"keys":[{"key":"$env://KEY","consumer":"ada"}]}'),
        ("hmac-auth", '{"keys":  [{"id":"k","secret":"file:/run/secret"}]}'),
        ("cors", '{"allow_origins": ["*"]}'),
        ("nobodys", '{"password": "1"}'),
        ("api-key", "no JSON"),
        ("api-key", '{"keys": null}'),
    ):
        assert schemas.shown({"name": name, "config": config})["config"] == config
