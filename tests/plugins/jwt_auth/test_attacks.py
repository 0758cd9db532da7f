"""No token of the table is believed, and their like is refused whatever it is made of."""

from __future__ import annotations

import pytest

from tests.plugins.harness import Gateway
from tests.plugins.jwt_auth.attacks import attacks
from tests.plugins.jwt_auth.tokens import by_hand, claims, public_jwk, sign

KEYS = [public_jwk("RS256", kid="rsa"), public_jwk("ES256", kid="ec"), public_jwk("Ed25519", kid="ed")]
RIGHTLY_SIGNED = (
    "exp",
    "nbf",
    "iat",
    "claim",
    "payload",
    "audience",
    "issuer",
    "subject",
    "crit",
    "typ",
    "nested",
    "zip",
)
CONFIG = {
    "jwks": {"keys": KEYS},
    "algorithms": ["RS256", "ES256", "EdDSA"],
    "issuers": ["https://id.example"],
    "audiences": ["shop"],
    "leeway": 0,
}


def test_tokens_that_others_fell_for_are_refused(gateway: Gateway) -> None:
    route = gateway.route(("jwt-auth", CONFIG))
    table = attacks()
    assert len(table) >= 40
    believed = {}
    for name, token in table.items():
        outcome = route.request(headers={"authorization": f"Bearer {token}"})
        if outcome.status not in (400, 401) or "www-authenticate" not in outcome.headers or outcome.upstream:
            believed[name] = outcome
        elif name.startswith(RIGHTLY_SIGNED) and "signature" in outcome.json["error_description"]:
            believed[name] = "it is meant to be signed rightly, and wrong otherwise"
    assert not believed, believed


@pytest.mark.parametrize("kind", ["RS256", "ES256", "Ed25519"])
def test_what_they_are_made_of_is_believed(gateway: Gateway, kind: str) -> None:
    kid = {"RS256": "rsa", "ES256": "ec"}.get(kind, "ed")
    route = gateway.route(("jwt-auth", CONFIG))
    hand_made = by_hand({"alg": "EdDSA" if kind == "Ed25519" else kind}, claims(), kind)
    for token in (sign(kind, kid=kid), sign(kind), sign(kind, kid=kid, typ="at+jwt"), hand_made):
        outcome = route.request(headers={"authorization": f"Bearer {token}"})
        assert (outcome.status, outcome.upstream) == (0, {"x-jwt-sub": "ada"})
