"""The sockets that are asked."""

from __future__ import annotations

import pytest

from gatewright.settings import parse_address
from gatewright.testing.conformance.asking import Runner

__all__ = ["plugin_server", "runner"]


@pytest.fixture
def runner(request: pytest.FixtureRequest) -> Runner:
    """The APISIX runner that is asked."""
    address = request.config.getoption("--runner")
    if not address:
        pytest.skip("name an APISIX runner's socket: --runner unix:/path")
    return Runner(parse_address(address, "--runner"))


@pytest.fixture
def plugin_server(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Kong's plugin server that is asked: path and protocol."""
    address = request.config.getoption("--plugin-server")
    if not address:
        pytest.skip("name a plugin server's socket: --plugin-server unix:/path")
    protocol: str = request.config.getoption("--plugin-server-protocol")
    return parse_address(address, "--plugin-server").path, protocol
