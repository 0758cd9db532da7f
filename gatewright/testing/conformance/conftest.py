"""The sockets that are asked."""

from __future__ import annotations

import os
import socket

import pytest

from gatewright.errors import ConfigError
from gatewright.settings import Address, parse_address
from gatewright.testing.conformance.asking import Runner

__all__ = ["listening", "plugin_server", "runner"]


@pytest.fixture
def runner(request: pytest.FixtureRequest) -> Runner:
    """The APISIX runner that is asked."""
    address = request.config.getoption("--runner")
    if not address:
        pytest.skip("name an APISIX runner's socket: --runner unix:/path")
    return Runner(listening(address, "--runner"))


@pytest.fixture
def plugin_server(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Kong's plugin server that is asked: path and protocol."""
    address = request.config.getoption("--plugin-server")
    if not address:
        pytest.skip("name a plugin server's socket: --plugin-server unix:/path")
    protocol: str = request.config.getoption("--plugin-server-protocol")
    return listening(address, "--plugin-server").path, protocol


def listening(text: str, flag: str) -> Address:
    """An address where somebody listens. Where nobody does, nothing passes either, which is no merit: so all ends."""
    try:
        address = parse_address(text, flag)
    except ConfigError as error:
        pytest.exit(str(error), pytest.ExitCode.USAGE_ERROR)
    try:
        if address.path:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address.path)
        else:
            socket.create_connection((address.host, address.port), timeout=10).close()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        pytest.exit(f"{flag} {text}: nobody listens there: {why}", pytest.ExitCode.USAGE_ERROR)
    return address
