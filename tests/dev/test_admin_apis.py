"""The gateways' Admin APIs, as far as guides use them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.apisix.admin import AdminApi
from gatewright.dev.kong.admin import KongAdmin
from gatewright.dev.kong.declarative import Declared
from gatewright.dev.messages import ClientRequest
from gatewright.dev.target import Upstream
from tests.dev.test_what_dev_tells import dev  # noqa: F401 - a fixture

KEY = "edd1c9f034335f136f87ad84b625c8f1"
ROUTE: dict[str, Any] = {
    "uri": "/get",
    "plugins": {"ext-plugin-pre-req": {"conf": [{"name": "greet", "value": "{}"}]}},
    "upstream": {"type": "roundrobin", "nodes": {"127.0.0.1:1980": 1}},
}


class TestApisix:
    @pytest.fixture
    def api(self) -> AdminApi:
        return AdminApi(KEY, Upstream("127.0.0.1", 1))

    @staticmethod
    async def ask(
        api: AdminApi, method: str, path: str, body: object = None, key: str = KEY
    ) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        request = ClientRequest(method, f"/apisix/admin/{path}", [("X-API-KEY", key)], "127.0.0.1", body=data)
        answer = await api.handle(request)
        return answer.status, json.loads(answer.body or b"null")

    async def test_routes_are_made_changed_shown_and_dropped(self, api: AdminApi) -> None:
        told = 0

        def count() -> None:
            nonlocal told
            told += 1

        api.on_change = count
        assert (await self.ask(api, "PUT", "routes/1", ROUTE))[0] == 201
        assert (await self.ask(api, "PUT", "routes/1", ROUTE))[0] == 200
        status, made = await self.ask(api, "POST", "routes", {**ROUTE, "uri": "/other"})
        assert status == 201
        conf = {"conf": [{"name": "greet", "value": '{"greeting": "hi"}'}]}
        status, changed = await self.ask(api, "PATCH", "routes/1", {"plugins": {"ext-plugin-pre-req": conf}})
        assert (status, changed["value"]["uri"]) == (200, "/get")
        (route, _) = api.routes().routes
        assert route.plugins["ext-plugin-pre-req"].entries == [("greet", '{"greeting": "hi"}')]
        assert (await self.ask(api, "GET", "routes"))[1]["total"] == 2
        assert (await self.ask(api, "GET", "routes/1"))[1]["key"] == "/apisix/routes/1"
        own = made["value"]["id"]
        assert (await self.ask(api, "DELETE", f"routes/{own}"))[1]["deleted"] == "1"
        assert (await self.ask(api, "GET", f"routes/{own}"))[0] == 404
        assert told == 5
        before = api.routes().routes[0].plugins["ext-plugin-pre-req"].key
        await self.ask(api, "PATCH", "routes/1", {"uri": "/new"})
        assert api.routes().routes[0].plugins["ext-plugin-pre-req"].key != before, "it is prepared anew"

    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "words"),
        [
            ("PUT", "routes/1", {"plugins": {}}, 400, "needs `uri`"),
            ("PUT", "routes/1", {**ROUTE, "script": "x"}, 400, "`script` is not supported"),
            ("PUT", "routes/1", b"{", 400, "invalid request body"),
            ("PUT", "routes/1", [], 400, "expected an object"),
            ("PUT", "routes", ROUTE, 400, "missing id"),
            ("PATCH", "routes/9", ROUTE, 404, "Key not found"),
            ("GET", "secrets", None, 404, "the development gateway has routes"),
            ("OPTIONS", "routes", None, 405, "not allowed"),
        ],
    )
    async def test_what_cannot_be_changes_nothing(
        self, api: AdminApi, method: str, path: str, body: object, status: int, words: str
    ) -> None:
        got = await self.ask(api, method, path, body)
        assert got[0] == status
        assert words in str(got[1])
        assert not api.routes().routes

    @pytest.mark.parametrize("key", ["", "wrong", "\udcff"])
    async def test_nobody_without_the_key_is_let_in(self, api: AdminApi, key: str) -> None:
        assert (await self.ask(api, "PUT", "routes/1", ROUTE, key=key))[0] == 401


class TestKong:
    @pytest.fixture
    def applied(self) -> list[Declared]:
        return []

    @pytest.fixture
    def api(self, applied: list[Declared]) -> KongAdmin:
        return KongAdmin({}, applied.append)

    @staticmethod
    async def ask(
        api: KongAdmin, method: str, path: str, body: object = None, kind: str = "application/json", **headers: str
    ) -> tuple[int, Any]:
        data = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        named = {"Host": "127.0.0.1:8001", "Content-Type": kind, **headers}
        answer = await api.handle(ClientRequest(method, path, list(named.items()), "127.0.0.1", body=data))
        return answer.status, json.loads(answer.body or b"null")

    async def test_services_routes_and_plugins_as_guides_make_them(
        self, api: KongAdmin, applied: list[Declared]
    ) -> None:
        form = "application/x-www-form-urlencoded"
        assert (await self.ask(api, "POST", "/services", "name=s&url=http://127.0.0.1:5000", form))[0] == 201
        assert (await self.ask(api, "POST", "/services/s/routes", "name=r&paths[]=/a&paths[]=/b", form))[0] == 201
        status, made = await self.ask(
            api, "POST", "/routes/r/plugins", "name=py-hello&config.message=hi&config.most=3&config.on=true", form
        )
        assert status == 201
        (plugin,) = applied[-1].plugins
        assert (plugin.name, plugin.config) == ("py-hello", {"message": "hi", "most": 3, "on": True})
        (route,) = applied[-1].routes.values()
        assert route["paths"] == ["/a", "/b"]
        assert (await self.ask(api, "PATCH", f"/plugins/{made['id']}", {"config": {"message": "bye"}}))[0] == 200
        assert applied[-1].plugins[0].config["message"] == "bye"
        assert applied[-1].plugins[0].config["most"] == 3
        assert (await self.ask(api, "GET", "/plugins"))[1]["data"][0]["name"] == "py-hello"
        assert (await self.ask(api, "PUT", "/services/other", {"url": "http://127.0.0.1:1"}))[1]["name"] == "other"
        assert (await self.ask(api, "DELETE", f"/plugins/{made['id']}"))[0] == 204
        assert not applied[-1].plugins

    @pytest.mark.parametrize("how", ["form", "json", "yaml"])
    async def test_a_whole_configuration_may_be_posted(self, api: KongAdmin, applied: list[Declared], how: str) -> None:
        text = (
            '_format_version: "3.0"\nservices:\n- {name: s, url: http://127.0.0.1, routes: [{name: r, paths: [/]}]}\n'
        )
        bodies: dict[str, tuple[object, str]] = {
            "form": (
                f'--b\r\nContent-Disposition: form-data; name="config"; filename="kong.yml"\r\n\r\n{text}\r\n--b--\r\n',
                "multipart/form-data; boundary=b",
            ),
            "json": ({"config": text}, "application/json"),
            "yaml": (text, "text/yaml"),
        }
        body, kind = bodies[how]
        assert (await self.ask(api, "POST", "/config", body, kind))[0] == 201
        assert [service["name"] for service in applied[-1].services.values()] == ["s"]
        assert "name: s" in (await self.ask(api, "GET", "/config"))[1]["config"]

    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "words"),
        [
            ("POST", "/services", {"name": "s"}, 400, "needs a url"),
            ("POST", "/routes", {"nmae": "r"}, 400, "unknown field"),
            ("POST", "/services/none/routes", {}, 404, "Not found"),
            ("POST", "/config", {"services": []}, 400, "_format_version"),
            ("GET", "/upstreamz", None, 404, "the development gateway has"),
            ("DELETE", "/plugins/none", None, 404, "Not found"),
            ("POST", "/plugins", "[", 400, "Cannot parse"),
        ],
    )
    async def test_what_cannot_be_changes_nothing(
        self, api: KongAdmin, applied: list[Declared], method: str, path: str, body: object, status: int, words: str
    ) -> None:
        got = await self.ask(api, method, path, body)
        assert got[0] == status
        assert words in str(got[1])
        assert not applied

    @pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
    async def test_other_sites_pages_are_turned_away(
        self, api: KongAdmin, applied: list[Declared], headers: dict[str, str]
    ) -> None:
        assert (await self.ask(api, "POST", "/services", {"url": "http://127.0.0.1"}, **headers))[0] == 403
        assert not applied


def _send(method: str, url: str, body: str, headers: dict[str, str]) -> tuple[int, str]:
    asked = urllib.request.Request(url, body.encode() or None, headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


GREET = """
import msgspec
from gatewright import Plugin
class Greet(Plugin):
    class Config(msgspec.Struct):
        greeting: str = "hello"
    def on_request(self, request):
        request.headers["x-greeting"] = self.config.greeting
"""


@pytest.mark.parametrize("gateway", ["apisix", pytest.param("kong", marks=pytest.mark.long)])
def test_a_route_that_is_made_while_it_runs_is_served(
    dev: Callable[..., Any],  # noqa: F811
    plugin_dir: Callable[..., Path],
    gateway: str,
) -> None:
    directory = plugin_dir(greet=GREET)
    admin = ["--admin-key", KEY] if gateway == "apisix" else ["--admin"]  # Kong's asks for none
    with dev(directory, "--gateway", gateway, *admin, "--admin-port", "0", "--no-inspect") as running:
        base = running.url.rpartition("/")[0]
        assert _send("GET", f"{base}/get", "", {})[0] == 404
        running.wait_for("  admin ")
        admin = running.output.partition("  admin ")[2].split()[0].rstrip(",")
        if gateway == "apisix":
            route = {name: value for name, value in ROUTE.items() if name != "upstream"}  # the echo, then
            made = _send("PUT", f"{admin}routes/1", json.dumps(route), {"X-API-KEY": KEY})
            assert _send("GET", f"{base}/apisix/admin/routes/1", "", {"X-API-KEY": KEY})[0] == 200
        else:
            for kind, form in (
                ("services", "name=s&url=http://127.0.0.1:1"), ("services/s/routes", "paths[]=/get&name=r"),
                ("plugins", "name=greet&config.greeting=hello"),
            ):  # fmt: skip
                made = _send("POST", f"{admin}{kind}", form, {})
            for form, why in (
                ("name=gret", "plugin 'gret' not enabled; did you mean greet?"),
                ("name=greet&config.wrod=a", "plugins[1].config.wrod: unknown field)"),
            ):
                code, refused = _send("POST", f"{admin}plugins", f"{form}&route=r", {})
                assert (code, why in refused) == (400, True), refused
            assert "routes    none yet" in running.output
        assert made[0] == 201, made
        status, text = _send("GET", f"{base}/get", "", {})
        assert (status, "hello" in text) == (200, True), text
