"""A worker for each gateway and protocol, shared by a module's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gatewright.runtime.shipped import shipped_names
from tests.plugins.harness import GATEWAYS, Gateway
from tests.plugins.redis_servers import RedisProcess


@pytest.fixture(scope="module", params=GATEWAYS)
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A gateway that knows the plugins which the module names in `PLUGINS`; all those of a module share it."""
    plugins = getattr(request.module, "PLUGINS", sorted(shipped_names()))
    own = getattr(request.module, "OWN", ())
    with Gateway(request.param, plugins, own) as made:
        yield made


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A redis-server that tests share: each has keys of its own."""
    server = RedisProcess(tmp_path_factory.mktemp("redis")).wait()
    yield server
    server.end()
