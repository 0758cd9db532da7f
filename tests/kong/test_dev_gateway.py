"""The development gateway as Kong: real plugin servers, a real upstream, and every PDK method over both protocols."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import json
import logging
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from aiohttp import ClientSession
from google.protobuf import json_format

from gatewright.dev.echo import EchoUpstream
from gatewright.dev.kong.declarative import parse_declarative
from gatewright.dev.kong.gateway import KongGateway
from gatewright.dev.kong.pdk import FUNCTIONS
from gatewright.dev.kong.plugins import KnownPlugin, Plugins, known_plugins
from gatewright.dev.kong.values import from_protobuf, to_protobuf
from gatewright.errors import ConfigError
from gatewright.gateways.kong.dump import PROTOCOLS
from gatewright.gateways.kong.pdk import METHODS
from tests import launching
from tests.kong.conftest import Server, Start, wait_until
from tests.kong.messages import messages

both = pytest.mark.parametrize("protocol", ["msgpack", "protobuf"])

CONSUMER = {"id": "9a3b7c1e-5d2f-4e80-9b61-0c4d8e7f1a23", "username": "ann", "custom_id": "a1", "tags": ["x"]}

# Calls what its configuration says, phase by phase, and tells what came of it.
CALLER = """
import base64, json
Schema = ({"calls": {"type": "string", "default": "{}"}}, {"tell": {"type": "string", "default": "", "len_min": 0}})
version = "1.0.0"
priority = 10

def plain(value):
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    return value

class Plugin(object):
    def __init__(self, config):
        self.calls = json.loads(config["calls"])
        self.tell = config.get("tell", "")

    def run(self, kong, phase):
        results = []
        for method, args in self.calls.get(phase, []):
            target = kong
            for part in method.split(".")[1:]:
                target = getattr(target, part)
            args = [arg["bytes"].encode() if isinstance(arg, dict) and "bytes" in arg else arg for arg in args]
            results.append(plain(target(*args)[0]))
        return json.dumps(results)

    def rewrite(self, kong): self.run(kong, "rewrite")
    def access(self, kong):
        results = self.run(kong, "access")
        if self.tell == "access":
            kong.response.exit(200, results, {"content-type": "application/json"})
    def response(self, kong):
        results = self.run(kong, "response")
        if self.tell == "response":
            kong.response.exit(200, results, {"content-type": "application/json"})
    def log(self, kong):
        if "log" in self.calls:
            kong.log.notice("results: " + self.run(kong, "log"))
"""


@functools.cache
def dump_of(protocol: str, directory: Path, *_sources: str) -> bytes:
    """What `--dump-all-plugins` prints for plugins."""
    command = [sys.executable, "-m", "kong_pdk.cli", "-d", directory, "-p", directory, "--protocol", protocol]
    return subprocess.check_output([*command, "--dump-all-plugins"])


def dumped(server: Server) -> list[KnownPlugin]:
    sources = [file.read_text() for file in sorted(server.plugins.glob("*.py"))]
    return known_plugins(dump_of(server.protocol, server.plugins, *sources), lambda _: str(server.path))


@asynccontextmanager
async def kong_before(
    server: Server | list[KnownPlugin], tmp_path: Path, content: dict[str, Any], **options: Any
) -> AsyncIterator[tuple[ClientSession, str, KongGateway]]:
    """A gateway before a plugin server, and the built-in upstream behind it."""
    known = server if isinstance(server, list) else dumped(server)
    echo = EchoUpstream()
    await echo.start()
    declared = parse_declarative({"_format_version": "3.0", **content})
    plugins = Plugins(known, declared)
    gateway = KongGateway(declared, plugins, default_upstream=("127.0.0.1", echo.port), **options)
    await gateway.start()
    try:
        async with ClientSession() as client:
            yield client, f"http://127.0.0.1:{gateway.port}", gateway
    finally:
        await gateway.stop()
        await echo.stop()


def calling(calls: dict[str, list[Any]], tell: str = "", **more: Any) -> dict[str, Any]:
    service = {
        "name": "s", "url": "http://service.test:8080/base", "tags": ["t"],
        "routes": [{"name": "r", "paths": ["/v1", r"~/users/(?<id>\d+)/(\w+)"], "tags": ["u"]}],
    }  # fmt: skip
    config = {"calls": json.dumps(calls), "tell": tell}
    return {"services": [service], "plugins": [{"name": "caller", "config": config}], **more}


# What each method gives, by phase; `...` stands for anything but None.
SET = None
READ_IN_ACCESS: list[tuple[str, list[Any], Any]] = [
    ("kong.client.get_ip", [], "127.0.0.1"),
    ("kong.client.get_forwarded_ip", [], "127.0.0.1"),
    ("kong.client.get_port", [], ...),
    ("kong.client.get_forwarded_port", [], ...),
    ("kong.client.load_consumer", ["ann", True], {"username": "ann", "id": CONSUMER["id"], "custom_id": "a1"}),
    ("kong.client.load_consumer", [CONSUMER["id"], False], {"username": "ann"}),
    ("kong.client.authenticate", [CONSUMER, {"id": "key-1", "consumer_id": CONSUMER["id"]}], SET),
    ("kong.client.get_consumer", [], {"username": "ann"}),
    ("kong.client.get_credential", [], {"id": "key-1", "consumer_id": CONSUMER["id"]}),
    ("kong.client.get_protocol", [False], "http"),
    ("kong.ctx.shared.set", ["k", {"a": [1, "two", True, None]}], SET),
    ("kong.ctx.shared.get", ["k"], {"a": ...}),
    ("kong.ip.is_trusted", ["10.0.0.1"], True),
    ("kong.ip.is_trusted", ["127.0.0.1"], False),
    ("kong.log.alert", ["a", 1], SET),
    ("kong.log.crit", ["a", {"b": 1}], SET),
    ("kong.log.err", ["a", True], SET),
    ("kong.log.warn", ["a"], SET),
    ("kong.log.notice", ["a"], SET),
    ("kong.log.info", ["a"], SET),
    ("kong.log.debug", ["a"], SET),
    ("kong.log", ["through the table itself"], SET),
    ("kong.log.set_serialize_value", ["mine.deep", 4], SET),
    ("kong.nginx.get_var", ["http_x_one"], "1"),
    ("kong.nginx.get_var", ["no_such_variable"], None),
    ("kong.nginx.get_tls1_version_str", [], None),
    ("kong.nginx.set_ctx", ["mine", "here"], SET),
    ("kong.nginx.get_ctx", ["mine"], "here"),
    ("kong.nginx.req_start_time", [], ...),
    ("kong.nginx.get_subsystem", [], "http"),
    ("kong.node.get_id", [], ...),
    ("kong.node.get_memory_stats", [], {"lua_shared_dicts": ..., "workers_lua_vms": ...}),
    ("kong.request.get_scheme", [], "http"),
    ("kong.request.get_host", [], "example.test"),
    ("kong.request.get_port", [], ...),
    ("kong.request.get_forwarded_scheme", [], "http"),
    ("kong.request.get_forwarded_host", [], "example.test"),
    ("kong.request.get_forwarded_port", [], ...),
    ("kong.request.get_http_version", [], 1.1),
    ("kong.request.get_method", [], "POST"),
    ("kong.request.get_path", [], "/users/7/posts"),
    ("kong.request.get_path_with_query", [], "/users/7/posts?x=1&y=a%20b&y=c&z"),
    ("kong.request.get_raw_query", [], "x=1&y=a%20b&y=c&z"),
    ("kong.request.get_query_arg", ["y"], "a b"),
    ("kong.request.get_query", [10], {"x": ["1"], "y": ["a b", "c"], "z": []}),
    ("kong.request.get_header", ["x-one"], "1"),
    ("kong.request.get_header", ["x-none"], None),
    ("kong.request.get_headers", [100], {"x-one": ["1"], "x-two": ["a", "b"]}),
    ("kong.request.get_raw_body", [], {"bytes": "body \xc3\xa9"}),
    ("kong.request.get_uri_captures", [], {"unnamed": ..., "named": ...}),
    ("kong.response.set_status", [202], SET),
    ("kong.response.set_header", ["x-set", "1"], SET),
    ("kong.response.add_header", ["x-set", "2"], SET),
    ("kong.response.set_header", ["x-gone", "1"], SET),
    ("kong.response.clear_header", ["x-gone"], SET),
    ("kong.response.set_headers", [{"x-many": ["a", "b"], "x-number": "5"}], SET),
    ("kong.router.get_route", [], {"name": "r", "strip_path": True, "tags": ["u"]}),
    ("kong.router.get_service", [], {"name": "s", "host": "service.test", "port": 8080, "path": "/base"}),
    ("kong.service.set_upstream", ["no-such-upstream"], False),
]  # fmt: skip
CHANGES: list[tuple[str, list[Any]]] = [
    ("kong.service.request.set_scheme", ["http"]),
    ("kong.service.request.set_path", ["/other path/\u00e9"]),
    ("kong.service.request.set_raw_query", ["raw=1"]),
    ("kong.service.request.set_query", [{"q": ["1", "2"], "w": "a b", "v": True}]),
    ("kong.service.request.set_method", ["PUT"]),
    ("kong.service.request.set_header", ["x-one", "changed"]),
    ("kong.service.request.add_header", ["x-one", "again"]),
    ("kong.service.request.clear_header", ["x-two"]),
    ("kong.service.request.set_headers", [{"x-three": ["3", "33"], "host": "for.the.service"}]),
    ("kong.service.request.set_raw_body", [{"bytes": "new body"}]),
]
READ_IN_RESPONSE: list[tuple[str, list[Any], Any]] = [
    ("kong.response.get_status", [], 200),
    ("kong.response.get_header", ["x-upstream"], "gatewright-echo"),
    ("kong.response.get_headers", [100], {"x-upstream": ["gatewright-echo"]}),
    ("kong.response.get_source", [], "service"),
    ("kong.service.response.get_status", [], 200),
    ("kong.service.response.get_header", ["x-upstream"], "gatewright-echo"),
    ("kong.service.response.get_headers", [100], {}),
    ("kong.service.response.get_raw_body", [], {"bytes": ...}),
]
MORE_OVER_MSGPACK: list[tuple[str, list[Any], Any]] = [
    ("kong.request.get_body", ["application/json"], None),
    ("kong.request.get_forwarded_path", [], "/users/7/posts"),
    ("kong.request.get_forwarded_prefix", [], "/users/7/posts"),
    ("kong.request.get_raw_path", [], "/users/7/posts"),
    ("kong.request.get_start_time", [], ...),
    ("kong.service.set_retries", [3], SET),
    ("kong.service.set_timeouts", [1000, 1000, 1000], SET),
    ("kong.service.set_tls_verify", [True], True),
    ("kong.service.set_tls_verify_depth", [2], True),
    ("kong.service.request.enable_buffering", [], SET),
    ("kong.service.request.clear_query_arg", ["z"], SET),
    ("kong.client.tls.get_full_client_certificate_chain", [], None),
    ("kong.client.tls.set_client_verify", ["SUCCESS"], SET),
    ("kong.cluster.get_id", [], ...),
    ("kong.plugin.get_id", [], ...),
    ("kong.node.get_hostname", [], ...),
    ("kong.nginx.get_statistics", [], {"total_requests": ...}),
    ("kong.log.deprecation", ["old"], SET),
    ("kong.log.emerg", ["very"], SET),
    ("kong.vault.is_reference", ["{vault://env/some-secret}"], True),
    ("kong.vault.parse_reference", ["{vault://env/some-secret}"], {"name": "env", "resource": "some-secret"}),
    ("kong.vault.get", ["{vault://env/gatewright-test-secret}"], "hush"),
    ("kong.telemetry.log", ["caller", {}, "kind", "words", {}], SET),
]


def suits(found: Any, wanted: Any) -> bool:
    if wanted is ...:
        return found is not None
    if isinstance(wanted, dict):
        return (isinstance(found, dict) or found == []) and all(
            name in found and suits(found[name], value) for name, value in wanted.items()
        )
    return bool(found == wanted)


def check(found: list[Any], table: list[tuple[str, list[Any], Any]]) -> None:
    assert len(found) == len(table)
    for value, (method, args, wanted) in zip(found, table, strict=True):
        if method == "kong.service.set_upstream":
            value = bool(value)  # over MessagePack `nil`, over Protobuf `false`
        assert suits(value, wanted), f"{method}{args} gave {value!r}, not {wanted!r}"


def the_request(client: ClientSession, url: str) -> Any:
    """The request that `READ_IN_ACCESS` is about."""
    headers = [("host", "example.test"), ("x-one", "1"), ("x-two", "a"), ("x-two", "b")]
    return client.post(f"{url}/users/7/posts?x=1&y=a%20b&y=c&z", data="body é".encode(), headers=headers)


@both
async def test_every_method_that_reads_in_the_access_phase(
    serve: Start, tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(protocol, caller=CALLER, environ={"GATEWRIGHT_LOG_LEVEL": "info"})
    table = list(READ_IN_ACCESS)
    monkeypatch.setenv("GATEWRIGHT_TEST_SECRET", "hush")
    if protocol == "msgpack":
        table += MORE_OVER_MSGPACK
    calls = [[method, args] for method, args, _ in table]
    trusted = [ipaddress.ip_network("10.0.0.0/8")]
    content = calling({"access": calls}, "access", consumers=[CONSUMER])
    async with (
        kong_before(server, tmp_path, content, trusted=trusted) as (client, url, _),
        the_request(client, url) as answer,
    ):
        assert answer.status == 200, server.log
        check(await answer.json(), table)
        assert answer.headers.getall("x-set") == ["1", "2"]
        assert answer.headers.getall("x-many") == ["a", "b"]
        assert "x-gone" not in answer.headers


@both
async def test_every_method_that_changes_the_request(serve: Start, tmp_path: Path, protocol: str) -> None:
    server = serve(protocol, caller=CALLER)
    async with (
        kong_before(server, tmp_path, calling({"access": CHANGES})) as (client, url, _),
        client.get(f"{url}/v1/rest", headers={"x-one": "1", "x-two": "2"}) as answer,
    ):
        assert answer.status == 200, server.log
        seen = await answer.json()
    assert seen["method"] == "PUT"
    assert seen["path"] == "/other path/é"
    assert sorted(map(tuple, seen["query"])) == [("q", "1"), ("q", "2"), ("v", ""), ("w", "a b")]
    assert seen["body"] == "new body"
    headers = [(name.lower(), value) for name, value in seen["headers"]]
    assert [value for name, value in headers if name == "x-one"] == ["changed", "again"]
    assert [value for name, value in headers if name == "x-three"] == ["3", "33"]
    assert ("host", "for.the.service") in headers
    assert "x-two" not in dict(headers)


@both
async def test_targets_and_upstreams(start: Start, tmp_path: Path, protocol: str) -> None:
    server = start(protocol, caller=CALLER)
    echo = EchoUpstream()
    await echo.start()
    upstreams = [{"name": "pool", "targets": [{"target": f"127.0.0.1:{echo.port}"}]}]
    for calls in (
        [["kong.service.set_target", ["127.0.0.1", echo.port]]],
        [["kong.service.set_upstream", ["pool"]]],
    ):
        content = calling({"access": calls}, upstreams=upstreams)
        async with kong_before(server, tmp_path, content) as (client, url, gateway):
            gateway._default_upstream = ("127.0.0.1", 1)  # where nobody answers
            async with client.get(f"{url}/v1/rest") as answer:
                assert answer.status == 200, server.log
                assert (await answer.json())["path"] == "/base/rest"
    await echo.stop()


async def test_a_services_certificate_is_checked_if_a_plugin_wants_it(serve: Start, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("service.test").configure_cert(context)  # of an authority that nobody trusts

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
        await writer.drain()
        writer.close()

    service = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    port = service.sockets[0].getsockname()[1]
    server = serve("msgpack", caller=CALLER)
    for verify, status in ((False, 200), (True, 502)):
        calls = [
            ["kong.service.request.set_scheme", ["https"]],
            ["kong.service.set_target", ["127.0.0.1", port]],
            ["kong.service.set_retries", [0]],
            ["kong.service.set_tls_verify", [verify]],
        ]
        async with (
            kong_before(server, tmp_path, calling({"access": calls})) as (client, url, _),
            client.get(f"{url}/v1/rest") as got,
        ):
            assert got.status == status, server.log
    service.close()


@both
async def test_every_method_of_the_response_phase(serve: Start, tmp_path: Path, protocol: str) -> None:
    server = serve(protocol, caller=CALLER)
    calls = {"response": [[method, args] for method, args, _ in READ_IN_RESPONSE]}
    async with (
        kong_before(server, tmp_path, calling(calls, "response")) as (client, url, _),
        client.get(f"{url}/v1/rest") as answer,
    ):
        assert answer.status == 200, server.log
        found = await answer.json()
        check(found, READ_IN_RESPONSE)


@both
async def test_the_log_phase_runs_afterwards_on_saved_data(
    serve: Start, tmp_path: Path, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = serve(protocol, caller=CALLER)
    table: list[tuple[str, list[Any], Any]] = [
        ("kong.ctx.shared.get", ["from"], "access"),
        ("kong.request.get_header", ["x-one"], "1"),
        ("kong.request.get_headers", [10], {"x-one": ["1"]}),
        ("kong.response.get_status", [], 200),
        ("kong.response.get_header", ["x-upstream"], "gatewright-echo"),
        ("kong.response.get_source", [], "service"),
        ("kong.nginx.req_start_time", [], ...),
        ("kong.log.serialize", [], ...),
    ]
    calls = {"access": [["kong.ctx.shared.set", ["from", "access"]]], "log": [[m, args] for m, args, _ in table]}
    async with kong_before(server, tmp_path, calling(calls)) as (client, url, gateway):
        async with client.get(f"{url}/v1/rest", headers={"x-one": "1"}) as answer:
            assert answer.status == 200, server.log
        await gateway.settle()
    (line,) = [record.getMessage() for record in caplog.records if "results: " in record.getMessage()]
    check(json.loads(line.partition("results: ")[2]), table)


@both
async def test_what_cannot_be_asked_in_the_log_phase_is_told(
    serve: Start, tmp_path: Path, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(protocol, caller=CALLER, environ={"GATEWRIGHT_TIMEOUT": "1"})
    caplog.set_level("INFO")
    calls = {"log": [["kong.request.get_method", []], ["kong.request.get_path", []]]}
    async with kong_before(server, tmp_path, calling(calls)) as (client, url, g):
        async with client.get(f"{url}/v1//r%65st?x=1") as answer:
            assert answer.status == 200
        await g.settle()
        assert 'results: [null, "/v1/rest"]' in caplog.text
        assert "API disabled" not in caplog.text  # Kong was not asked
        async with client.get(f"{url}/v1/rest") as answer:  # others go on
            assert answer.status == 200


@both
@pytest.mark.parametrize(
    ("protocols", "forwarded", "terminated", "given"),
    [
        pytest.param(["http", "https"], {}, None, '"http"', id="of-two-the-scheme"),
        pytest.param(["https", "http"], {"x-forwarded-proto": "https"}, None, '"http"', id="not-asked-for-the-header"),
        pytest.param(["http", "https"], {}, True, '"http"', id="no-header"),
        pytest.param(["http", "https"], {"x-forwarded-proto": "https"}, True, "null", id="a-header-that-may-lie"),
        pytest.param(["http"], {"x-forwarded-proto": "https"}, True, '"http"', id="of-one-that"),
    ],
)
async def test_the_log_phase_knows_the_protocol(
    serve: Start,
    tmp_path: Path,
    protocol: str,
    protocols: list[str],
    forwarded: dict[str, str],
    terminated: bool | None,
    given: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = serve(protocol, caller=CALLER)
    caplog.set_level("INFO")
    calls = {"log": [["kong.client.get_protocol", [] if terminated is None else [terminated]]]}
    content = calling(calls)
    content["services"][0]["routes"][0]["protocols"] = protocols
    async with kong_before(server, tmp_path, content) as (client, url, g):
        async with client.get(f"{url}/v1/rest", headers=forwarded) as answer:
            assert answer.status == 200
        await g.settle()
    assert f"results: [{given}]" in caplog.text
    assert "API disabled" not in caplog.text  # Kong was not asked


def test_all_methods_of_the_protocol_are_there_and_tried() -> None:
    assert set(METHODS) <= set(FUNCTIONS)
    tried = {method for method, *_ in (*READ_IN_ACCESS, *CHANGES, *READ_IN_RESPONSE, *MORE_OVER_MSGPACK)}
    elsewhere = {"kong.service.set_target", "kong.response.exit", "kong.log.serialize"}
    assert set(METHODS) <= tried | elsewhere
    # What is left exists in phases that plugin servers have no part in for plain HTTP, or is tried below.
    assert set(FUNCTIONS) - tried - elsewhere == {
        "kong.client.tls.disable_session_reuse", "kong.client.tls.request_client_certificate", "kong.response.error",
        "kong.service.request.disable_tls", "kong.service.request.enable_tls", "kong.service.request.set_body",
        "kong.service.response.get_body",
    }  # fmt: skip


async def test_bodies_as_tables(serve: Start, tmp_path: Path) -> None:
    server = serve("msgpack", caller=CALLER)
    for kind, sent, table in (
        ("application/json", b'{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        ("application/x-www-form-urlencoded", b"a=1&b=x+y&a=2", {"a": ["1", "2"], "b": "x y"}),
        ("multipart/form-data; boundary=B",
         b'--B\r\nContent-Disposition: form-data; name="f"\r\n\r\nvalue\r\n--B--\r\n', {"f": "value"}),
    ):  # fmt: skip
        calls = {
            "access": [["kong.request.get_body", []], ["kong.service.request.set_body", [{"n": "1"}]]],
            "response": [["kong.service.response.get_body", []]],
        }
        async with kong_before(server, tmp_path, calling(calls, "response")) as (client, url, _):
            async with client.post(f"{url}/v1/x", data=sent, headers={"content-type": kind}) as answer:
                (seen,) = await answer.json()
            assert "n" in seen["body"], server.log
        calls = {"access": [["kong.request.get_body", []]]}
        async with (
            kong_before(server, tmp_path, calling(calls, "access")) as (client, url, _),
            client.post(f"{url}/v1/x", data=sent, headers={"content-type": kind}) as answer,
        ):
            assert await answer.json() == [table]


@both
async def test_a_body_longer_than_the_buffer_is_in_a_file(
    serve: Start, tmp_path: Path, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(protocol, caller=CALLER, environ={"GATEWRIGHT_TIMEOUT": "2"})
    content = calling({"access": [["kong.request.get_raw_body", []]]}, "access")
    body = b"x" * 20_000
    async with (
        kong_before(server, tmp_path, content) as (client, url, _),
        client.post(f"{url}/v1/x", data=body) as answer,
    ):
        assert await answer.json() == [{"bytes": body.decode()}]
    assert "bad argument #1 to 'binary'" not in caplog.text  # Kong's code can't pack what it has not
    async with (
        kong_before(server, tmp_path, content, body_buffer_size=100_000) as (client, url, _),
        client.post(f"{url}/v1/x", data=body) as answer,
    ):
        assert await answer.json() == [{"bytes": body.decode()}]


@both
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (["kong.service.request.set_path", ["no-slash"]], "path must start with /"),
        (["kong.service.request.set_method", ["NOPE"]], "invalid method: NOPE"),
        (["kong.response.set_status", [700]], "between 100 and 599"),
        (["kong.service.set_target", ["h", 70000]], "port must be an integer between 0 and 65535"),
        (["kong.client.load_consumer", ["not-a-uuid", False]], "with an id that is not a uuid"),
    ],
)
async def test_lua_errors_refuse_the_request(
    serve: Start, tmp_path: Path, protocol: str, call: list[Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(protocol, caller=CALLER, environ={"GATEWRIGHT_TIMEOUT": "1"})
    async with kong_before(server, tmp_path, calling({"access": [call]})) as (client, url, _):
        async with client.get(f"{url}/v1/x") as answer:
            assert answer.status == 500
            assert (await answer.json())["message"] == "An unexpected error occurred"
        if call[0] in METHODS or protocol == "msgpack":
            assert words in caplog.text


FAILING = """
import os, time
priority = 20
class Plugin(object):
    def __init__(self, config): pass
    def access(self, kong):
        how = kong.request.get_header("x-how")[0]
        if how == "raise": raise RuntimeError("on purpose")
        if how == "slow": time.sleep(0.3)
        if how == "late": time.sleep(10)
        if how == "die": os._exit(9)
        if how == "error": kong.response.error(418, "a teapot", {"x-a": "b"})
        if how == "table": kong.response.exit(201, {"a": 1})
        if how == "empty": kong.response.exit(204)
"""


@both
@pytest.mark.long
@pytest.mark.alone
async def test_a_plugin_that_fails_refuses_its_request_and_others_go_on(
    start: Start, tmp_path: Path, protocol: str
) -> None:
    server = start(protocol, failing=FAILING, environ={"GATEWRIGHT_TIMEOUT": "1.5"})
    content = calling({}, plugins=[{"name": "failing"}])
    async with kong_before(server, tmp_path, content) as (client, url, _):

        async def ask(how: str) -> tuple[int, float]:
            began = time.monotonic()
            async with client.get(f"{url}/v1/x", headers={"x-how": how}) as answer:
                return answer.status, time.monotonic() - began

        assert (await ask("fine"))[0] == 200
        assert (await ask("raise"))[0] == 500
        assert (await ask("slow"))[0] == 200  # from now on it runs in threads
        late, *quick = await asyncio.gather(ask("late"), *(ask("fine") for _ in range(20)))
        assert late[0] == 500
        assert 1.4 < late[1] < 5
        assert [status for status, _ in quick] == [200] * 20
        assert max(took for _, took in quick) < 1
        # The worker ends in mid event: Kong sees the connection close, and asks a new one; that must end, too.
        assert (await ask("die"))[0] == 500
        assert (await ask("fine"))[0] == 200


@both
async def test_a_restarted_plugin_server_is_used_again(start: Start, tmp_path: Path, protocol: str) -> None:
    server = start(protocol, caller=CALLER)
    async with kong_before(server, tmp_path, calling({})) as (client, url, _):
        async with client.get(f"{url}/v1/x") as answer:
            assert answer.status == 200
        server.process.terminate()
        server.process.wait(10)
        start(protocol, caller=CALLER)
        async with client.get(f"{url}/v1/x") as answer:  # its instances are gone, and are started anew
            assert answer.status == 200
        async with client.get(f"{url}/v1/x") as answer:
            assert answer.status == 200


async def test_answers_of_plugins(serve: Start, tmp_path: Path) -> None:
    server = serve("msgpack", failing=FAILING)
    async with kong_before(server, tmp_path, calling({}, plugins=[{"name": "failing"}])) as (client, url, _):
        async with client.get(f"{url}/v1/x", headers={"x-how": "error"}) as answer:
            assert answer.status == 418
            assert (await answer.json())["message"] == "a teapot"
            assert answer.headers["x-a"] == "b"
        async with client.get(f"{url}/v1/x", headers={"x-how": "table"}) as answer:
            assert answer.status == 201
            assert await answer.json() == {"a": 1}
        async with client.get(f"{url}/v1/x", headers={"x-how": "empty"}) as answer:
            assert answer.status == 204
            assert await answer.read() == b""


# --- routes and places


MARK = """
Schema = ({"mark": {"type": "string", "required": True}},)
priority = 5
class Plugin(object):
    def __init__(self, config): self.config = config
    def access(self, kong): kong.response.add_header("x-mark", self.config["mark"])
"""
AUTH = """
priority = 1000
class Plugin(object):
    def __init__(self, config): pass
    def access(self, kong):
        name, _ = kong.request.get_header("x-user")
        if name:
            consumer, _ = kong.client.load_consumer(name, True)
            kong.client.authenticate(consumer, {"id": "1", "consumer_id": consumer["id"]})
"""


async def test_the_most_specific_configuration_runs(serve: Start, tmp_path: Path) -> None:
    server = serve("msgpack", mark=MARK, auth=AUTH)

    def mark(text: str, **place: str) -> dict[str, Any]:
        return {"name": "mark", "config": {"mark": text}, **place}

    content = {
        "services": [
            {"name": "a", "url": "http://a.test",
             "routes": [{"name": "ra", "paths": ["/a"], "plugins": [mark("route a")]},
                        {"name": "rb", "paths": ["/a/b"]}]},
            {"name": "c", "url": "http://c.test", "plugins": [mark("service c")],
             "routes": [{"name": "rc", "paths": ["/c"], "methods": ["GET"], "strip_path": False}]},
        ],
        "routes": [{"name": "hosted", "hosts": ["*.wild.test"], "service": "c"},
                   {"name": "headed", "headers": {"x-kind": ["one", "two"]}, "service": {"name": "c"}},
                   {"name": "nowhere", "paths": ["/nowhere"]}],
        "consumers": [CONSUMER],
        "plugins": [{"name": "auth"}, mark("everywhere"), mark("ann at a", consumer="ann", route="ra")],
    }  # fmt: skip
    async with kong_before(server, tmp_path, content) as (client, url, _):

        async def get(path: str, **headers: str) -> tuple[str | None, Any]:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            async with client.get(url + path, headers=names) as answer:
                return answer.headers.get("x-mark"), await answer.json()

        assert (await get("/a/x"))[0] == "route a"
        assert (await get("/a/x", x_user="ann"))[0] == "ann at a"
        mark_b, seen = await get("/a/b/rest")
        assert (mark_b, seen["path"]) == ("everywhere", "/rest")
        mark_c, seen = await get("/c/rest")
        assert (mark_c, seen["path"]) == ("service c", "/c/rest")
        assert (await get("/other", host="x.wild.test"))[0] == "service c"
        assert (await get("/other", x_kind="two"))[1]["path"] == "/other"
        assert (await get("/other"))[1]["message"] == "no Route matched with those values"
        assert (await get("/nowhere"))[1]["message"] == "no Service found with those values"


LOGS = """
priority = {priority}
class Plugin(object):
    def __init__(self, config): pass
    def access(self, kong):
        if kong.request.get_path()[0] == "/exit": kong.response.exit(403)
    def log(self, kong): kong.log.notice("log of {name}")
"""


async def test_the_log_phase_runs_whoever_answered(
    serve: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plugins = {name: LOGS.format(name=name, priority=priority) for name, priority in (("first", 9), ("second", 8))}
    server = serve("msgpack", **plugins)
    content = {
        "services": [{"url": "http://s.test", "routes": [{"paths": ["/exit", "/ok"], "strip_path": False}]}],
        "plugins": [{"name": name} for name in plugins],
    }
    async with kong_before(server, tmp_path, content) as (client, url, gateway):
        for path, status in (("/ok", 200), ("/exit", 403), ("/nowhere", 404)):
            caplog.clear()
            async with client.get(url + path) as answer:
                assert answer.status == status
            await gateway.settle()
            assert "log of first" in caplog.text
            assert "log of second" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "at the top"),
        ({}, "_format_version"),
        ({"_format_version": "3.0", "vaults": []}, "vaults: not known here"),
        ({"_format_version": "3.0", "services": "x"}, "services: expected an array"),
        ({"_format_version": "3.0", "services": [{"name": "a"}]}, "services[0]: needs a url"),
        ({"_format_version": "3.0", "services": [{"url": "ftp://x"}]}, "services[0].url"),
        ({"_format_version": "3.0", "services": [{"url": "http://x", "nmae": "a"}]}, "services[0].nmae: unknown field"),
        ({"_format_version": "3.0", "services": [{"url": "http://[::1"}]}, "services[0].url: Invalid"),
        (
            {"_format_version": "3.0", "services": [{"url": "http://x", "path": 1.5}]},
            "path: expected a string",
        ),
        ({"_format_version": "3.0", "services": [{"url": "http://x", "name": "a\ud800"}]}, "its name is not a text"),
        ({"_format_version": "3.0", "routes": [{"headers": "abc"}]}, "routes[0].headers: expected a map"),
        ({"_format_version": "3.0", "routes": [{"headers": {"x": 1}}]}, "headers.x: expected an array of strings"),
        ({"_format_version": "3.0", "routes": [{"strip_path": 1}]}, "routes[0].strip_path: expected a boolean"),
        ({"_format_version": "3.0", "routes": [{"paths": ["x"]}]}, "should start with /"),
        ({"_format_version": "3.0", "routes": [{"service": "gone"}]}, "there is no service 'gone'"),
        ({"_format_version": "3.0", "plugins": [{"config": {}}]}, "plugins[0].name: required field missing"),
        ({"_format_version": "3.0", "plugins": [{"name": "x"}, {"name": "x"}]}, "twice for the same place"),
        ({"_format_version": "3.0", "consumers": [{}]}, "needs a username or a custom_id"),
    ],
)
def test_a_file_that_is_not_valid_is_told_where(content: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("[", r"\[").replace("]", r"\]")):
        parse_declarative(content)


KINDS = [
    {"word": {"type": "string", "required": True, "len_min": 2, "one_of": ["aa", "bb"]}},
    {"count": {"type": "integer", "default": 3, "between": [1, 5]}},
    {"names": {"type": "array", "elements": {"type": "string"}, "len_max": 2}},
    {"inner": {"type": "record", "required": True, "fields": [{"on": {"type": "boolean", "default": True}}]}},
    {"table": {"type": "map", "keys": {"type": "string"}, "values": {"type": "number"}}},
]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "config.word: required field missing"),
        ({"word": 1}, "config.word: expected a string"),
        ({"word": "cc"}, "config.word: expected one of: aa, bb"),
        ({"word": "aa", "count": 9}, "config.count: value should be between 1 and 5"),
        ({"word": "aa", "count": "3"}, "config.count: expected an integer"),
        ({"word": "aa", "names": ["a", "b", "c"]}, "config.names: length must be at most 2"),
        ({"word": "aa", "names": [1]}, "config.names[1]: expected a string"),
        ({"word": "aa", "inner": {"off": 1}}, "config.inner.off: unknown field"),
        ({"word": "aa", "table": {"x": "y"}}, "config.table.x: expected a number"),
        ({"word": "aa", "wrod": "aa"}, "config.wrod: unknown field"),
    ],
)
def test_configurations_are_checked_as_kong_checks_them(config: dict[str, Any], words: str) -> None:
    plugin = KnownPlugin("p", 0, "1.0.0", ("access",), KINDS, PROTOCOLS["msgpack"], "/nowhere")
    declared = parse_declarative({"_format_version": "3.0", "plugins": [{"name": "p", "config": config}]})
    with pytest.raises(ConfigError) as caught:
        Plugins([plugin], declared)
    assert words in str(caught.value)


def test_defaults_are_filled_in() -> None:
    plugin = KnownPlugin("p", 0, "1.0.0", ("access",), KINDS, PROTOCOLS["msgpack"], "/nowhere")
    declared = parse_declarative({"_format_version": "3.0", "plugins": [{"name": "p", "config": {"word": "aa"}}]})
    configured = next(Plugins([plugin], declared).everywhere())
    own = {name: value for name, value in configured.instance.config.items() if not name.startswith("__")}
    assert own == {"word": "aa", "count": 3, "inner": {"on": True}}


# --- the command


@contextmanager
def dev(tmp_path: Path, *arguments: str | Path) -> Iterator[tuple[str, Path]]:
    """`gatewright dev`; gives the URL and the file with what it printed."""
    out = tmp_path / "out"
    with out.open("w") as file:
        command = [sys.executable, "-m", "gatewright", "dev", "--port", "0", *arguments]
        process = launching.launch(command, env=os.environ, output=file)
    try:
        wait_until(lambda: "Listening on" in out.read_text() or process.poll() is not None, 30)
        assert process.poll() is None, out.read_text()
        yield out.read_text().partition("Listening on ")[2].partition(",")[0], out
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0, out.read_text()


async def fetch(url: str, **headers: str) -> tuple[int, str | None]:
    async with ClientSession() as client, client.get(url, headers=headers) as answer:
        return answer.status, answer.headers.get("x-mark")


@both
@pytest.mark.long
async def test_dev_with_a_declarative_file_and_reload(tmp_path: Path, protocol: str) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mark.py").write_text(MARK)
    file = tmp_path / "kong.yml"
    content = {
        "_format_version": "3.0",
        "services": [{"url": "http://service.test", "routes": [{"paths": ["/here"]}]}],
        "plugins": [{"name": "mark", "config": {"mark": "one"}}, {"name": "rate-limiting"}],
    }
    file.write_text(yaml.safe_dump(content))
    arguments = (tmp_path / "plugins", "--routes", file, "--upstream", "echo", "--protocol", protocol)
    with dev(tmp_path, *arguments) as (url, out):
        assert await fetch(f"{url}/here") == (200, "one")
        assert "the plugin rate-limiting is left out" in out.read_text()
        (tmp_path / "plugins" / "mark.py").write_text(
            MARK.replace('self.config["mark"]', '"new " + self.config["mark"]')
        )
        wait_until(lambda: "reloaded: mark" in out.read_text(), 30)
        assert await fetch(f"{url}/here") == (200, "new one")
        content["plugins"][0]["config"] = {"mark": 5}  # type: ignore[index]
        file.write_text(yaml.safe_dump(content))
        wait_until(lambda: "config.mark: expected a string" in out.read_text(), 30)
        assert await fetch(f"{url}/here") == (200, "new one")


LEAN = """
from gatewright import Plugin

class Greet(Plugin):
    def on_request(self, request):
        request.response_headers["x-mark"] = "lean"
"""


@pytest.mark.long
async def test_dev_starts_a_runner_once_the_file_names_plugins_over_the_lean_path(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "greet.py").write_text(LEAN)
    file = tmp_path / "kong.yml"
    content: dict[str, Any] = {
        "_format_version": "3.0",
        "services": [{"url": "http://service.test", "routes": [{"paths": ["/here"]}]}],
        "plugins": [{"name": "greet"}],
    }
    file.write_text(yaml.safe_dump(content))
    with dev(tmp_path, tmp_path / "plugins", "--routes", file, "--upstream", "echo") as (url, out):
        assert await fetch(f"{url}/here") == (200, "lean")
        content["plugins"] = [{"name": "gatewright", "config": {"chain": [{"name": "greet"}]}}]
        file.write_text(yaml.safe_dump(content))
        wait_until(lambda: "reloaded: greet" in out.read_text(), 30)
        assert await fetch(f"{url}/here") == (200, "lean")
        (tmp_path / "plugins" / "greet.py").write_text(LEAN.replace('"lean"', '"new"'))
        wait_until(lambda: out.read_text().count("reloaded: greet") == 2, 30)
        assert await fetch(f"{url}/here") == (200, "new")


@pytest.mark.long
async def test_dev_with_a_kong_conf_starts_its_plugin_servers(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    for name in ("mark", "mark-two"):
        (tmp_path / "plugins" / f"{name}.py").write_text(MARK.replace('"required": True', '"default": "conf"'))
    command = [sys.executable, "-m", "gatewright", "kong", "conf", "-d", tmp_path / "plugins", "-p", tmp_path]
    (tmp_path / "kong.conf").write_text("# a comment\n" + subprocess.check_output(command, text=True))
    with dev(tmp_path, "--kong-conf", tmp_path / "kong.conf") as (url, _):
        async with ClientSession() as client, client.get(f"{url}/x") as answer:
            assert answer.headers.getall("x-mark") == ["conf", "conf"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gateway", "kong", "nowhere"], "nowhere does not exist"),
        (["--kong-conf", "nowhere.conf"], "nowhere.conf: No such file"),
        (["--gateway", "kong", "--routes", "nowhere.yml", "."], "nowhere.yml: No such file"),
        (["--kong-conf", "empty.conf"], "pluginserver_names is missing"),
        (["--kong-conf", "empty.conf", "--protocol", "lean"], "--kong-conf starts plugin servers"),
        (["--kong-conf", "noquery.conf"], "pluginserver_a_b_query_cmd is missing"),
        (["--kong-conf", "garbage.conf"], "failed decoding plugin info"),
    ],
)
def test_dev_says_what_is_wrong(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "empty.conf").write_text("")
    (tmp_path / "noquery.conf").write_text("pluginserver_names = a-b\n")
    (tmp_path / "garbage.conf").write_text("pluginserver_names = a\npluginserver_a_query_cmd = echo hello\n")
    run = launching.run([sys.executable, "-m", "gatewright", "dev", *arguments], cwd=tmp_path)
    assert run.returncode == 2
    assert words in run.stderr


SAMPLES: dict[str, Any] = {
    "": None, "string": "text é", "text": "text é", "int": 7, "number": 1.5, "bool": True, "bytes": b"\xff",
    "struct": {"a": "1", "b": ["2", "3"], "c": True}, "value": {"a": [1.5, "x", None, True, {"b": 2.0}]},
    "raw_body": b"\x00body", "uri_captures": {"unnamed": ["1"], "named": {"id": "7"}},
    "route": {"id": "r", "paths": ["/a"], "strip_path": True, "regex_priority": 3, "service": {"id": "s"}},
    "service": {"id": "s", "port": 80, "host": "h", "tags": ["t"]}, "consumer": {"id": "c", "username": "u"},
    "credential": {"id": "k", "consumer_id": "c"},
    "memory_stats": {"lua_shared_dicts": {"kong": {"capacity": 5}}, "workers_lua_vms": [{"pid": 1}]},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_the_gateway_sends_over_protobuf_is_what_googles_library_reads(name: str) -> None:
    method, library = METHODS[name], messages()
    given, wanted = library.methods[name]
    value = SAMPLES[method.gives]
    data = to_protobuf(method, value)
    message = wanted.FromString(data)
    if method.gives in ("struct", "value"):
        assert library.plain(message) == value
    elif method.gives == "raw_body":
        assert message.content == value
    elif method.gives == "uri_captures":
        assert (list(message.unnamed), dict(message.named)) == ([b"1"], {"id": b"7"})
    elif method.gives in ("string", "text", "int", "number", "bool", "bytes"):
        assert message.v == value
    elif method.gives:
        assert message == json_format.ParseDict(value, wanted())
    arguments = {
        "string": ["a"], "int": [3], "most": [3], "bool": [True], "bytes": [b"\xff"], "kv": ["k", ["v", 1.5]],
        "list": ["a", 2.0],
        "struct": [{"a": ["1"]}], "exit": [418, b"no", {"a": "b"}], "target": ["h", 80],
        "consumer_spec": ["u", True], "authenticate": [{"id": "c"}, {"id": "k"}], "": [],
    }[method.takes]  # fmt: skip
    again = given.FromString(method.encode(arguments)).SerializeToString()
    found = from_protobuf(method, again)
    if method.takes == "authenticate":
        assert [item["id"] for item in found] == ["c", "k"]
    else:
        assert found == arguments
