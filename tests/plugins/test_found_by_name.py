"""Plugins that come along are found by name, on both gateways, and imported only once one is named."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import pytest

from gatewright import ConfigError
from gatewright.config import config_schema
from gatewright.errors import DiscoveryError
from gatewright.gateways.kong.dump import plugin_info
from gatewright.runtime.kept import looks_at_ctx
from gatewright.runtime.kong_modules import load_plugins
from gatewright.runtime.kong_schema import faults
from gatewright.runtime.shipped import load_shipped, shipped_names
from tests.conftest import StartRunner
from tests.plugins.harness import Gateway, Outcome
from tests.plugins.redis_servers import RedisProcess
from tests.plugins.test_hmac_auth import KEYS, signed

DENY = json.dumps({"deny": ["127.0.0.1"]})


def test_on_apisix_without_plugins_of_ones_own(start_runner: StartRunner) -> None:
    runner = start_runner("--workers", "1")
    with runner.peer() as peer:
        action = peer.request(peer.prepare(("ip-restriction", DENY)))
        assert getattr(action, "status", 0) == 403
    (told,) = [line for line in runner.log.splitlines() if "routes can name only those that come along" in line]
    assert {name for name in shipped_names() if name not in told} == set()


def test_somebodys_own_of_the_same_name_wins(start_runner: StartRunner, plugin_dir: Callable[..., Path]) -> None:
    own = plugin_dir(
        mine="from gatewright import Plugin, Response\n"
        "class IpRestriction(Plugin):\n    def on_request(self, request): return Response(418)\n"
    )
    runner = start_runner("--workers", "2", "-p", own)
    with runner.peer() as peer:
        assert getattr(peer.request(peer.prepare(("ip-restriction", "{}"))), "status", 0) == 418
    runner.wait_for_log("in place of the one of its name that comes along")
    assert runner.log.count("in place of the one of its name") == 1


def test_nothing_of_theirs_is_imported_at_the_start() -> None:
    code = (
        "import sys, gatewright.cli, gatewright.server.drivers.apisix.driver, gatewright.runtime.shipped as s;"
        "s.shipped_names(); print([m for m in sys.modules if m.startswith('gatewright.plugins.') or m == 'redis'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_an_unknown_name_is_told_what_there_is() -> None:
    with Gateway("apisix") as gateway:
        assert gateway.route(("ip-restricton", "{}")).request().failed
        assert gateway.route(("_shared", "{}")).request().failed
    with pytest.raises(DiscoveryError, match=r"there are: .*ip-restriction"):
        load_shipped("_shared")


def test_a_missing_extra_refuses_that_route_in_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(name: str) -> ModuleType:
        raise ConfigError(f"the plugin needs {name}: pip install 'gatewright[redis]'")

    monkeypatch.setattr("gatewright.runtime.shipped.importlib.import_module", fails)
    with Gateway("apisix") as gateway:
        assert gateway.route(("ip-restriction", DENY)).request().failed
        error = next(iter(gateway.worker.service.confs)).steps[0].error
    assert isinstance(error, ConfigError)
    assert "pip install 'gatewright[redis]'" in str(error)


def kong(*arguments: str) -> str:
    command = [sys.executable, "-m", "gatewright", "kong", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_kong_is_told_of_those_that_are_named() -> None:
    lines = kong("conf", "--plugin", "rate-limit", "--plugin", "gatewright-cors", "-p", "/p")
    assert "pluginserver_gatewright_cors_socket = /p/gatewright-cors.socket" in lines
    assert "--plugin rate-limit --plugin gatewright-cors" in lines
    (info,) = json.loads(kong("dump", "gatewright-cors"))
    assert info["Name"] == "gatewright-cors"
    assert info["Priority"] == 2000


def test_what_kong_has_itself_is_refused_in_words() -> None:
    discovery = load_plugins(None, ["cors", "rate-limit"])
    assert list(discovery.plugins) == ["rate-limit"]
    (error,) = discovery.errors
    assert "Kong has a plugin cors of its own" in str(error)
    assert "gatewright-cors" in str(error)


def test_each_has_a_name_that_is_nobody_elses() -> None:
    with Gateway("apisix") as gateway:
        assert gateway.route(("gatewright-ip-restriction", DENY)).request().status == 403


def test_what_is_kept_in_redis_is_the_same_by_either_name(redis: RedisProcess) -> None:
    key, where = "k-by-either-name-0123", {"servers": [redis.address], "timeout": 5}
    digest = sha256(key.encode()).hexdigest()
    redis.client().set(f"api-key:{digest}", json.dumps({"sha256": digest, "consumer": "ada"}))
    headers = signed(nonce='"by either name"')
    with Gateway("apisix") as gateway:

        def ask(plugin: str, config: dict[str, object], headers: dict[str, str]) -> Outcome:
            route = gateway.route((plugin, {**config, "redis": where}))
            return route.request(headers=headers, variables={"request_uri": "/"})

        for name in ("api-key", "gatewright-api-key"):
            assert ask(name, {}, {"x-api-key": key}).upstream == {"x-consumer": "ada"}
        assert [ask(name, KEYS, headers).status for name in ("hmac-auth", "gatewright-hmac-auth")] == [0, 401]


@pytest.mark.parametrize("name", sorted(shipped_names()))
def test_each_is_one_that_both_gateways_can_take(name: str) -> None:
    plugin = load_shipped(name)
    assert plugin.name == name
    assert plugin.version.count(".") == 2, "Kong wants three numbers"
    assert plugin.phases()
    assert plugin.__doc__
    assert not faults(plugin_info(plugin)["Schema"]["fields"])
    for title, part in config_schema(plugin.Config)["$defs"].items():
        for field, schema in part.get("properties", {}).items():
            assert 10 <= len(schema.get("description", "")) <= 500, f"{title}.{field} doesn't say what it means"


def test_an_installed_plugin_that_looks_at_ctx_is_seen_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "looks_at_ctx.py").write_text(
        "import gatewright\n"
        "class Looks(gatewright.Plugin):\n    def on_response(self, request, response): request.ctx\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("gatewright.runtime.sources._is_installed", lambda file: True)
    module = importlib.import_module("looks_at_ctx")
    assert looks_at_ctx([module.Looks])
    assert not looks_at_ctx([load_shipped("ip-restriction")])
