"""Routes for the lean path are tried with the development gateway, as external plugins."""

from __future__ import annotations

import pytest

from gatewright.dev.apisix.routes import build_routes
from gatewright.errors import ConfigError


def plugins_of(**plugins: object) -> dict[str, list[tuple[str, str]] | None]:
    named = {name.replace("_", "-"): conf for name, conf in plugins.items()}
    routes = build_routes({"routes": [{"id": 1, "uri": "/*", "plugins": named}]})
    return {name: conf.entries for name, conf in routes.routes[0].plugins.items()}


def test_each_runs_in_the_place_of_an_external_plugin() -> None:
    assert plugins_of(
        gatewright={"conf": [{"name": "one", "value": {"a": "ü"}}, {"name": "two"}]},
        gatewright_after={"conf": [{"name": "three", "value": '{"b": 1}'}]},
        gatewright_response={"conf": [{"name": "four"}]},
    ) == {
        "ext-plugin-pre-req": [("one", '{"a": "\\u00fc"}'), ("two", "{}")],
        "ext-plugin-post-req": [("three", '{"b": 1}')],
        "ext-plugin-post-resp": [("four", "{}")],
    }


def test_two_in_one_place_are_refused() -> None:
    with pytest.raises(ConfigError, match="same place"):
        plugins_of(
            gatewright={"conf": [{"name": "one"}]}, ext_plugin_pre_req={"conf": [{"name": "two", "value": "{}"}]}
        )
