from __future__ import annotations

import pytest

from gatewright import ConfigError
from gatewright.plugins.ip_restriction import IpRestriction
from tests.plugins.harness import Gateway

PLUGINS = ["ip-restriction"]

BEHIND = {"deny": ["192.0.2.0/24"], "trusted_proxies": ["10.0.0.0/8", "fd00::/8"]}
CASES = [
    # configuration, client, X-Forwarded-For, whether it may
    ({"allow": ["192.0.2.0/24"]}, "192.0.2.7", None, True),
    ({"allow": ["192.0.2.0/24"]}, "192.0.3.7", None, False),
    ({"allow": ["192.0.2.7"]}, "192.0.2.7", None, True),
    ({"deny": ["192.0.2.7"]}, "192.0.2.7", None, False),
    ({"deny": ["192.0.2.7"]}, "192.0.2.8", None, True),
    ({"allow": ["192.0.2.0/24"], "deny": ["192.0.2.7"]}, "192.0.2.7", None, False),
    ({"allow": ["2001:db8::/32"]}, "2001:db8:1::1", None, True),
    ({"allow": ["2001:db8::/32"]}, "192.0.2.1", None, False),
    ({"deny": ["192.0.2.0/24"]}, "::ffff:192.0.2.1", None, False),
    ({"deny": ["::ffff:192.0.2.0/120"]}, "192.0.2.1", None, False),
    ({"allow": ["::ffff:192.0.2.0/120"]}, "::ffff:192.0.2.1", None, True),
    ({"allow": ["::ffff:192.0.2.0/120"]}, "192.0.3.1", None, False),
    ({"deny": ["0.0.0.0/0"]}, "2001:db8::1", None, True),
    # nobody is believed unless he is trusted
    ({"deny": ["192.0.2.0/24"]}, "10.0.0.1", "192.0.2.1", True),
    (BEHIND, "10.0.0.1", "192.0.2.1", False),
    (BEHIND, "198.51.100.1", "192.0.2.1", True),
    # what a client wrote itself stands to the left of what a trusted proxy appended
    (BEHIND, "10.0.0.1", "192.0.2.1, 198.51.100.1", True),
    (BEHIND, "10.0.0.1", "198.51.100.1, 192.0.2.1, 10.0.0.9", False),
    (BEHIND, "fd00::1", "[2001:db8::1]:4711", True),
    (BEHIND, "10.0.0.1", "192.0.2.1:4711", False),
    (BEHIND, "10.0.0.1", "nonsense", True),
    (BEHIND, "10.0.0.1", None, True),
]


@pytest.mark.parametrize(("config", "client", "forwarded", "may"), CASES)
def test_who_may(gateway: Gateway, config: object, client: str, forwarded: str | None, may: bool) -> None:
    outcome = gateway.route(("ip-restriction", config)).request(
        client=client, headers={"x-forwarded-for": forwarded} if forwarded else {}
    )
    assert outcome.status == (0 if may else 403)
    assert not outcome.failed


def test_the_refusal_can_be_worded(gateway: Gateway) -> None:
    conf = {"allow": ["192.0.2.1"], "status": 404, "body": "Nothing here.\n"}
    outcome = gateway.route(("ip-restriction", conf)).request(client="192.0.2.2")
    assert (outcome.status, outcome.body) == (404, b"Nothing here.\n")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "allow or deny has to have an address"),
        ({"allow": ["10.0.0.1/8"]}, "has host bits set"),
        ({"deny": ["example.com"]}, "does not appear to be an IPv4 or IPv6 network"),
        ({"deny": ["10.0.0.1"], "status": 200}, "Expected `int` >= 400"),
    ],
)
def test_what_cannot_be_meant_is_refused(config: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        IpRestriction(config)
