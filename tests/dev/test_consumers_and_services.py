"""Which route a request has, and what service, plugin config and consumer add to it, as in a real APISIX 3.9.1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.apisix.routes import build_routes
from gatewright.dev.target import Upstream
from gatewright.errors import ConfigError
from gatewright.gateways.apisix import replies
from gatewright.gateways.apisix.replies import Rewrite
from tests.dev.test_exchanges import PRE, gateway, request

NODE = Upstream("127.0.0.1", 1)
ANN = {"username": "ann", "plugins": {"key-auth": {"key": "k"}}}


def routes(*items: dict[str, Any], **shared: Any) -> Any:
    content = {"routes": [{"id": str(number), **item} for number, item in enumerate(items)], **shared}
    return build_routes(content, default_upstream=NODE, version="7")


def test_a_route_without_hosts_has_its_services() -> None:
    found = routes({"uri": "/*", "service_id": "s"}, services=[{"id": "s", "hosts": ["a.test"]}])
    assert found.find("GET", "A.test:81", "/x") is not None
    assert found.find("GET", "b.test", "/x") is None


def test_hosts_come_before_uris_and_priorities_and_exact_ones_before_wildcards() -> None:
    found = routes(
        {"uri": "/a/b", "priority": 9},
        {"uri": "/*", "hosts": ["*.test"], "priority": 5},
        {"uri": "/*", "hosts": ["*.a.test"]},
        {"uri": "/*", "hosts": ["x.a.test"], "methods": ["POST"]},
    )
    hosts = ("x.a.test", "y.a.test", "z.test", "other")
    assert [found.find("GET", host, "/a/b").id for host in hosts] == ["2", "2", "1", "0"]
    assert found.find("POST", "x.a.test", "/a/b").id == "3"


def test_a_plugin_config_is_joined_before_the_service() -> None:
    def conf(name: str) -> dict[str, Any]:
        return {"conf": [{"name": name, "value": ""}]}

    found = routes(
        {"uri": "/*", "service_id": "s", "plugin_config_id": "c"},
        services=[{"id": "s", "plugins": {"ext-plugin-pre-req": conf("s"), "ext-plugin-post-req": conf("s")}}],
        plugin_configs=[{"id": "c", "plugins": {"ext-plugin-pre-req": conf("c")}}],
    ).routes[0]
    assert found.plugins["ext-plugin-pre-req"].conf == conf("c")
    assert found.plugins["ext-plugin-post-req"].key == "route&service#0&s#ext-plugin-post-req#7#7&7"


@pytest.mark.parametrize(
    ("headers", "query", "says"),
    [
        ((), "", b"Missing API key found in request"),
        (("apikey:",), "?apikey=k", b"Invalid API key in request"),
        (("apikey: k", "apikey: k"), "", b"Invalid API key in request"),
        ((), "?apikey", b"Invalid API key in request"),
        ((), "?apikey=k&apikey=k", b"Invalid API key in request"),
    ],
)
async def test_keys_that_are_none(tmp_path: Path, headers: tuple[str, ...], query: str, says: bytes) -> None:
    async with gateway(tmp_path, plugins={"key-auth": {}}, consumers=[ANN]) as seen:
        answer = await seen.send(request(*headers, path="/r/x" + query))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert says in answer
    assert seen.upstream == []


async def test_a_refusal_has_what_a_runner_set_and_tells_to_go_on(tmp_path: Path) -> None:
    set_one = [replies.encode_rewrite(0, Rewrite(resp_headers=[("X-R", "1")]))]
    async with gateway(tmp_path, set_one, plugins={**PRE, "key-auth": {}}, consumers=[ANN]) as seen:
        answer = await seen.send(request("Expect: 100-continue", "Content-Length: 1", body=b"b", method="POST"))
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 401 Unauthorized\r\n")
    assert b"x-r: 1\r\n" in answer


async def test_without_consumers_nobody_can_have_a_key(tmp_path: Path) -> None:
    async with gateway(tmp_path, plugins={"key-auth": {}}) as seen:
        assert b"Missing related consumer" in await seen.send(request("apikey: k"))


@pytest.mark.parametrize("where", ["header", "query"])
async def test_credentials_may_be_hidden(tmp_path: Path, where: str) -> None:
    async with gateway(tmp_path, plugins={"key-auth": {"hide_credentials": True}}, consumers=[ANN]) as seen:
        if where == "header":
            await seen.send(request("apikey: k", path="/r/x?a=1"))
        else:
            await seen.send(request(path="/r/x?a=1&apikey=k"))
    assert seen.upstream[0].startswith(b"GET /r/x?a=1 HTTP/1.1\r\n")
    assert b"apikey" not in seen.upstream[0]


async def test_pre_req_runs_again_once_the_consumer_is_known(tmp_path: Path) -> None:
    async with gateway(tmp_path, plugins={**PRE, "key-auth": {}}, consumers=[ANN]) as seen:
        await seen.send(request("apikey: k"))
    assert seen.prepared == ["route#r#ext-plugin-pre-req", "route&consumer#r&ann#ext-plugin-pre-req"]
    assert len(seen.calls) == 2


async def test_a_consumers_own_rewriting_is_the_requests(tmp_path: Path) -> None:
    ann = {"username": "ann", "plugins": {**ANN["plugins"], "proxy-rewrite": {"uri": "/anns"}}}  # type: ignore[dict-item]
    async with gateway(tmp_path, plugins={"key-auth": {}}, consumers=[ann]) as seen:
        await seen.send(request("apikey: k"))
    assert seen.upstream[0].startswith(b"GET /anns HTTP/1.1\r\n")


async def test_a_consumers_response_rewrite_is_the_answers(tmp_path: Path) -> None:
    changes = {"response-rewrite": {"headers": {"set": {"X-Ann": "1"}}}}
    ann = {"username": "ann", "plugins": {**ANN["plugins"], **changes}}  # type: ignore[dict-item]
    async with gateway(tmp_path, plugins={"key-auth": {}}, consumers=[ann]) as seen:
        assert b"X-Ann: 1\r\n" in await seen.send(request("apikey: k"))
        assert b"X-Ann" not in await seen.send(request())


def grouped(*plugins: dict[str, Any]) -> dict[str, Any]:
    """Ann in a group, whose plugins come first."""
    of_group, of_ann = plugins
    ann = {"username": "ann", "group_id": "g", "plugins": {"key-auth": {"key": "k"}, **of_ann}}
    return {"consumers": [ann], "consumer_groups": [{"id": "g", "plugins": of_group}]}


async def test_a_consumer_group_s_plugins_are_the_consumer_s(tmp_path: Path) -> None:
    async with gateway(tmp_path, plugins={"key-auth": {}}, **grouped(PRE, {})) as seen:
        await seen.send(request("apikey: k"))
    assert seen.prepared == ["route&consumer&consumer_group#r&ann&g#ext-plugin-pre-req"]


async def test_a_consumer_s_own_plugin_wins_over_its_group_s(tmp_path: Path) -> None:
    to = [{"proxy-rewrite": {"uri": f"/{name}"}} for name in ("group", "ann")]
    async with gateway(tmp_path, plugins={"key-auth": {}}, **grouped(*to)) as seen:
        await seen.send(request("apikey: k"))
    assert seen.upstream[0].startswith(b"GET /ann HTTP/1.1\r\n")


@pytest.mark.parametrize(("way", "status"), [("whitelist", b"200"), ("blacklist", b"403")])
async def test_a_consumer_group_is_known_by_its_id(tmp_path: Path, way: str, status: bytes) -> None:
    by_group = {"consumer-restriction": {"type": "consumer_group_id", way: ["g"]}}
    rewrite = {"proxy-rewrite": {"headers": {"set": {"X-Group": "$consumer_group_id"}}}}
    async with gateway(tmp_path, plugins={"key-auth": {}, **by_group}, **grouped(rewrite, {})) as seen:
        assert (await seen.send(request("apikey: k")))[9:12] == status
    assert all(b"X-Group: g\r\n" in sent for sent in seen.upstream)


def test_a_consumer_group_that_there_is_not_is_told() -> None:
    with pytest.raises(ConfigError, match="consumer ann: there is no consumer group 'g'"):
        build_routes({"routes": [], "consumers": [{"username": "ann", "group_id": "g"}]})


async def test_a_connection_that_ended_is_worth_another_one_only_if_it_was_kept(tmp_path: Path) -> None:
    async with gateway(tmp_path, plugins={}, answer=b"") as seen:
        first, second = await seen.send(request()), await seen.send(request())
    assert b"X-APISIX-Upstream-Status: 502, 502\r\n" in first
    assert b"X-APISIX-Upstream-Status: 502\r\n" in second
