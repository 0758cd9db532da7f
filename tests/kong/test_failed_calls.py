"""Calls that Kong can't carry out: over MessagePack its Lua code ends the phase, and nobody tells the plugin server."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest

from gatewright.gateways.kong.log_phase import host_of, normalise
from gatewright.gateways.kong.pdk import METHODS
from gatewright.gateways.kong.phases import PROMPT, refused_in
from tests.kong.conftest import Server, Start, wait_until
from tests.kong.peer import connect

CALLS = """
class Plugin(object):
    timeout = 20
    def __init__(self, config):
        self.method = config.get("method", "")

    def access(self, kong):
        if self.method == "body":
            raw, err = kong.request.get_raw_body()
            kong.response.set_header("x-body", repr(raw) if err is None else err)
        elif self.method == "status":
            kong.response.set_header("x-status", str(kong.response.get_status()))
        else:
            kong.response.set_header("x-sent", "1")

    def log(self, kong):
        kong.log.notice(*(f() for f in (kong.request.get_path, kong.request.get_host, kong.request.get_method)))
"""

both = pytest.mark.parametrize("protocol", ["msgpack", "protobuf"])


class Raw:
    """One connection, message by message."""

    def __init__(self, server: Server) -> None:
        self.sock = connect(server.path)
        self.unpacker = msgpack.Unpacker()
        self.number = 0

    def __call__(self, method: str, argument: Any) -> Any:
        self.number += 1
        self.sock.sendall(msgpack.packb([0, self.number, method, [argument]]))
        while True:
            for _, number, error, result in self.unpacker:
                assert (number, error) == (self.number, None)
                return result
            self.unpacker.feed(self.sock.recv(65536))

    def start(self, **config: Any) -> int:
        return self("plugin.StartInstance", {"Name": "calls", "Config": json.dumps(config)})["Id"]

    def access(self, instance: int) -> Any:
        return self("plugin.HandleEvent", {"InstanceId": instance, "EventName": "access"})

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def failures(server: Server) -> int:
    return server.log.count("a PDK call failed in Kong")


def test_an_event_ends_when_kong_goes_on_without_its_step(start: Start) -> None:
    server = start("msgpack", calls=CALLS)
    kong = Raw(server)
    instance = kong.start()
    first = kong.access(instance)
    assert first["Data"]["Method"] == "kong.response.set_header"
    second = kong.access(instance)  # the connection that the step would have come on: so the call has failed
    wait_until(lambda: failures(server) == 1, 2)
    assert "method=kong.response.set_header" in server.log
    assert kong("plugin.Step", {"EventId": second["EventId"]})["Data"] == "ret"
    late = kong("plugin.Step", {"EventId": first["EventId"]})  # a request is never let through for it
    assert late["Data"]["Method"] == "kong.response.exit"
    kong.close()


@pytest.mark.parametrize("closed_first", [True, False])
def test_a_worker_of_kongs_that_exits_closes_each_connection_and_asks_on(start: Start, closed_first: bool) -> None:
    """In a reload; it pools none any more (ngx_http_lua_socket_tcp.c, `setkeepalive`)."""
    server = start("msgpack", calls=CALLS)
    kong = Raw(server)
    step = kong.access(kong.start(method="body"))
    event = step["EventId"]
    for method in ("kong.request..get_raw_body", "kong.response.set_header"):
        assert step["Data"]["Method"] == method
        before, kong = kong, Raw(server)
        if closed_first:
            before.close()
            other = Raw(server)
            other.start()  # by now that was seen
            other.close()
        step = kong("plugin.Step", {"EventId": event, "Data": "body"})
        if not closed_first:
            before.close()
    assert step["Data"] == "ret"
    assert failures(server) == 0
    kong.close()


def test_an_event_ends_when_kong_does_not_ask_for_its_step(start: Start) -> None:
    server = start("msgpack", calls=CALLS)
    kong = Raw(server)
    kong.access(kong.start())
    began = time.monotonic()
    wait_until(lambda: failures(server) == 1, 12)
    assert time.monotonic() - began > 2
    kong.close()


def test_a_body_may_take_its_time(start: Start) -> None:
    server = start("msgpack", calls=CALLS)
    kong, others = Raw(server), Raw(server)
    event = kong.access(kong.start(method="body"))
    other = kong.access(others.start())  # while the body comes, others use the connection
    assert kong("plugin.Step", {"EventId": other["EventId"]})["Data"] == "ret"
    step = kong("plugin.Step", {"EventId": event["EventId"], "Data": "late"})
    assert step["Data"]["Args"] == ["x-body", "b'late'"]
    assert failures(server) == 0
    kong.close()
    others.close()


def test_a_thousand_failed_calls_refuse_nothing_else(start: Start) -> None:
    server = start("msgpack", calls=CALLS, environ={"GATEWRIGHT_MAX_CALLS": "50"})
    kong = Raw(server)
    instance = kong.start()
    for _ in range(1000):
        assert kong.access(instance)["Data"]["Method"] == "kong.response.set_header"
    kong.close()


@both
def test_a_body_in_a_file_is_read_from_there(start: Start, tmp_path: Path, protocol: str) -> None:
    """What nginx's buffer has no room for; asked for by its usual name, Kong's code would raise an error."""
    server = start(protocol, calls=CALLS)
    file = tmp_path / "0000000001"
    file.write_bytes(b"long\xff")
    with server.kong() as kong:
        instance = kong.start("calls", {"method": "body"})
        if protocol == "msgpack":
            kong.event(
                instance, "access", {"kong.nginx.get_var": lambda name: name == "request_body_file" and str(file)}
            )
            assert kong.calls[-1] == ("kong.response.set_header", ["x-body", "b'long\\xff'"])
            kong.event(instance, "access", {})
            assert "has no body to give" in kong.calls[-1][1][1]
        kong.event(instance, "access", {"kong.request.get_raw_body": lambda: b""})
        assert kong.calls[-1] == ("kong.response.set_header", ["x-body", "b''"])


@both
def test_what_a_phase_forbids_is_refused_before_kong_is_asked(start: Start, protocol: str) -> None:
    server = start(protocol, calls=CALLS)
    with server.kong() as kong:
        kong.event(kong.start("calls", {"method": "status"}), "access", {})
        assert [method for method, _ in kong.calls] == ["kong.response.set_header"]
        assert "can't be called in the phase access; Kong has it in: response, log" in kong.calls[0][1][1]


@both
def test_the_log_phase_tells_the_request_from_what_kong_kept(start: Start, protocol: str) -> None:
    server = start(protocol, calls=CALLS)
    kept = {"request_uri": "/a/../%62%2f//c?x=1"}
    pdk = {"kong.nginx.get_ctx": kept.get, "kong.request.get_header": lambda _: "Example.com:8000"}
    with server.kong() as kong:
        kong.event(kong.start("calls", {}), "log", pdk)
        method, args = kong.calls[-1]
    assert method == "kong.log.notice"
    assert args[:2] == ["('/b%2F/c', None)", "('example.com', None)"]
    assert "can't be called in the phase log" in args[2]


@both
def test_an_exit_in_the_log_phase_is_refused_in_words(start: Start, protocol: str) -> None:
    source = CALLS.replace("kong.log.notice(*", "kong.log.err(kong.response.exit(500)[1]) or kong.log.notice(*")
    server = start(protocol, calls=source)
    with server.kong() as kong:
        kong.event(kong.start("calls", {}), "log", {"kong.nginx.get_ctx": lambda _: "/"})
        assert kong.calls[0][0] == "kong.log.err"
        assert "can't be called in the phase log" in kong.calls[0][1][0]


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/a//b", "/a/b"), ("/a/./b/../c", "/a/c"), ("/a/..", "/"), ("/a/.", "/a/"), ("/..", "/"), ("", ""),
        ("/%7eb%2fc%3", "/~b%2Fc%3"), ("/%C3%A9", "/é"), ("/a%ff", "/a\udcff"), ("/%2e%2e/x", "/x"), ("/a///", "/a/"),
        ("/a/..//b", "/b"), ("/a..b/.c", "/a..b/.c"),
    ],
)  # fmt: skip
def test_paths_are_normalised_as_kong_does(path: str, normal: str) -> None:
    assert normalise(path) == normal


def test_hosts_are_those_of_nginx() -> None:
    assert [host_of(h) for h in ("A.b", "a:80", "[::1]:80", "[::1]")] == ["a.b", "a", "[::1]", "[::1]"]


def test_what_is_prompt_or_refused_exists() -> None:
    assert "kong.request.get_raw_body" not in PROMPT
    before_the_log = [refused_in(phase) for phase in ("rewrite", "access", "response")]
    assert {name for name in METHODS if all(name in refused for refused in before_the_log)} == {"kong.log.serialize"}
    assert "kong.log.serialize" not in refused_in("log")
    assert refused_in("nothing") == {}
