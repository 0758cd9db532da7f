"""What versions of APISIX do differently: seen on 3.9.1 and 3.18.0, read in the sources between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.apisix.behaviour import BEHAVIOURS
from gatewright.dev.apisix.exchange import Exchange, LuaError
from gatewright.dev.apisix.proxying import forwarded_headers
from gatewright.dev.apisix.rewriting import proxy_rewrite
from gatewright.dev.apisix.variables import variable
from gatewright.dev.messages import ClientRequest
from gatewright.dev.upstream import UpstreamError
from gatewright.gateways.apisix.replies import Rewrite
from tests.dev.test_apisix_plugins import CONSUMERS, Behind, ask
from tests.dev.test_exchanges import PRE, gateway, request

FORGED = [(f"X-Forwarded-{name}", "9") for name in ("For", "Proto", "Host", "Port")]


def sent_by(version: str, *headers: tuple[str, str], host: str = "Gw.Test:81", **more: Any) -> Exchange:
    came = ClientRequest("GET", "/", [("Host", host), *headers], "127.0.0.1", server_port=9080, **more)
    return Exchange(came, BEHAVIOURS[version])


@pytest.mark.parametrize(
    ("version", "told", "upstream"),
    [
        ("3.13", ["9", "9", "9", "9"], ["9, 127.0.0.1", "9", "9", "9"]),
        ("3.14", [None, "http", "gw.test", "9080"], ["127.0.0.1", "http", "gw.test", "9080"]),
        ("3.18", ["9", "http", "Gw.Test:81", "81"], ["9, 127.0.0.1", "http", "Gw.Test:81", "81"]),
    ],
)
def test_what_a_client_says_of_proxies(version: str, told: list[str | None], upstream: list[str]) -> None:
    seen = sent_by(version, *FORGED, ("Forwarded", "for=9"))
    headers, sent = dict(seen.call_headers()), dict(forwarded_headers(seen))
    names = [name for name, _ in FORGED]
    assert [headers.get(name.lower()) for name in names] == told
    assert [sent[name] for name in names] == upstream
    assert ("forwarded" in headers) == (version == "3.13")


def test_what_nginx_puts_in_is_a_header_like_others_from_3_18_on() -> None:
    seen = sent_by("3.18", host="h")
    assert ("x-forwarded-port", "9080") in seen.call_headers()
    seen.apply_rewrite(Rewrite(headers=[("x-forwarded-host", "other"), ("X-Forwarded-Proto", None)]))
    sent = dict(forwarded_headers(seen))
    assert (sent["X-Forwarded-Host"], "X-Forwarded-Proto" in sent) == ("other", False)


def test_names_are_lower_from_3_18_on() -> None:
    for version, name in (("3.17", "X-A"), ("3.18", "x-a")):
        seen = sent_by(version, ("X-A", "1"))
        seen.call_headers()
        seen.set_header("X-A", "2")
        assert (name, "2") in seen.call_headers()
        assert ("x-a", "1") not in seen.call_headers() or version == "3.17"


def test_a_changed_header_s_variable_is_looked_up_again_from_3_10_on() -> None:
    for version, value in (("3.9", b"a=1"), ("3.10", b"b=2")):
        seen = sent_by(version, ("Cookie", "a=1"))
        assert [variable(seen, name) for name in ("http_host", "http_cookie")] == [b"Gw.Test:81", b"a=1"]
        seen.apply_rewrite(Rewrite(headers=[("host", "other"), ("cookie", "b=2")]))
        assert [variable(seen, name) for name in ("http_host", "http_cookie")] == [b"Gw.Test:81", value]


@pytest.mark.parametrize(
    ("version", "values"), [("3.17", [b"gw.test", b"9080", b"http"]), ("3.18", [b"Gw.Test:81", b"81", None])]
)
def test_variables_of_what_proxies_are_told(version: str, values: list[bytes | None]) -> None:
    seen = sent_by(version)
    assert [variable(seen, f"var_x_forwarded_{name}") for name in ("host", "port", "proto")] == values


def test_more_than_one_challenge_goes_out_from_3_17_on() -> None:
    for version, count in (("3.16", 1), ("3.17", 2)):
        seen = sent_by(version)
        seen.add_response_headers([("WWW-Authenticate", "a"), ("WWW-Authenticate", "b")], frozenset())
        assert len(seen.response_headers) == count


async def test_a_request_that_a_kept_connection_lost_is_sent_again_before_3_17() -> None:
    for version, tries in (("3.16", 2), ("3.17", 1)):
        sent: list[str] = []

        async def lose(host: str, port: int, *, version: str = version, sent: list[str] = sent, **_: Any) -> Any:
            sent.append(version)
            raise UpstreamError("closed", sent=True)

        status, headers, _ = await ask({}, version=version, behind=lose)  # type: ignore[arg-type]
        assert (status, headers["X-APISIX-Upstream-Status"]) == (502, ", ".join(["502"] * tries))
        assert len(sent) == tries


def test_control_characters_of_a_rewritten_query_are_escaped_from_3_18_on() -> None:
    conf = {"regex_uri": ["^/([^/]*)$", "/n?c=$1"]}
    for version in ("3.17", "3.18"):
        seen = Exchange(ClientRequest("GET", "/a%0Ab", [("Host", "h")], "127.0.0.1"), BEHAVIOURS[version])
        if version == "3.17":
            with pytest.raises(LuaError):
                proxy_rewrite(seen, conf)
        else:
            proxy_rewrite(seen, conf)
            assert seen.proxy_target() == "/n?c=a%0Ab"


@pytest.mark.parametrize(
    ("version", "nobody", "nothing", "challenge"),
    [
        ("3.9", b"Missing related consumer", b"Missing API key found in request", None),
        ("3.11", b"Missing related consumer", b"Missing API key in request", None),
        ("3.12", b"Invalid API key in request", b"Missing API key in request", None),
        ("3.15", b"Invalid API key in request", b"Missing API key in request", 'apikey realm="key"'),
    ],
)
async def test_words_of_key_auth(version: str, nobody: bytes, nothing: bytes, challenge: str | None) -> None:
    for headers, words in (([("apikey", "x")], nobody), ([], nothing)):
        _, out, body = await ask({"key-auth": {}}, *headers, version=version)
        assert body == b'{"message":"%s"}\n' % words
        assert out.get("WWW-Authenticate") == challenge


async def test_of_a_key_that_comes_twice_later_versions_take_the_first() -> None:
    twice = [("apikey", "k"), ("apikey", "z")]
    for version, status in (("3.9", 401), ("3.10", 200)):
        assert (await ask({"key-auth": {}}, *twice, version=version, consumers=CONSUMERS))[0] == status


async def test_the_upstream_hears_who_calls_from_3_11_on() -> None:
    forged = [("apikey", "k"), ("X-Consumer-Username", "eve"), ("X-Credential-Identifier", "e")]
    for version, name in (("3.10", "eve"), ("3.11", "ann")):
        behind = Behind()
        await ask({"key-auth": {}}, *forged, version=version, consumers=CONSUMERS, behind=behind)
        sent = dict(behind.sent[0][2])
        assert sent["X-Consumer-Username"] == name
        assert ("X-Credential-Identifier" in sent) == (name == "eve")
    labelled = [{**CONSUMERS[0], "labels": {"custom_id": "7"}}]
    await ask({"key-auth": {}}, ("apikey", "k"), version="3.18", consumers=labelled, behind=behind)
    assert dict(behind.sent[-1][2])["X-Consumer-Custom-ID"] == "7"


@pytest.mark.parametrize(("version", "calls"), [("3.12", 2), ("3.13", 1)])
async def test_plugins_of_a_route_run_again_once_the_consumer_is_known(
    tmp_path: Path, version: str, calls: int
) -> None:
    plugins = {**PRE, "key-auth": {}}
    behaviour = BEHAVIOURS[version]
    async with gateway(tmp_path, plugins=plugins, behaviour=behaviour, consumers=CONSUMERS) as seen:
        await seen.send(request("apikey: k"))
    assert len(seen.calls) == calls


@pytest.mark.parametrize(
    ("version", "order"),
    [
        ("3.14", ["g1 pre-req", "g1 post-req", "g2 post-req", "r pre-req"]),
        ("3.16", ["1 pre-req", "r pre-req"]),
        ("3.17", ["1 pre-req", "r pre-req"]),
    ],
)
async def test_global_rules_are_one_from_3_15_on(tmp_path: Path, version: str, order: list[str]) -> None:
    post = {"ext-plugin-post-req": PRE["ext-plugin-pre-req"]}
    rules = [{"id": "g1", "plugins": {**PRE, **post}}, {"id": "g2", "plugins": post}]
    async with gateway(tmp_path, plugins=PRE, behaviour=BEHAVIOURS[version], global_rules=rules) as seen:
        await seen.send(request())
    assert [f"{n.split('#')[1]} {n.split('#')[2].removeprefix('ext-plugin-')}" for n in seen.prepared] == order


async def test_the_access_phase_of_global_rules_is_later_from_3_17_on(tmp_path: Path) -> None:
    for version, first in (("3.16", "ext-plugin-post-req"), ("3.17", "ext-plugin-pre-req")):
        rules = [{"id": "g", "plugins": {"ext-plugin-post-req": PRE["ext-plugin-pre-req"]}}]
        async with gateway(tmp_path, plugins=PRE, behaviour=BEHAVIOURS[version], global_rules=rules) as seen:
            await seen.send(request())
        assert seen.prepared[0].endswith(first)
