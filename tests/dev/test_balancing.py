"""An upstream's nodes and tries in the development gateway: what a real 3.9.1 was seen to do."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.apisix.balancing import Balanced, Turn
from gatewright.dev.apisix.exchange import Exchange
from gatewright.dev.apisix.gateway import DevGateway
from gatewright.dev.apisix.nodes import balanced
from gatewright.dev.apisix.routes import build_routes
from gatewright.dev.messages import Answer, ClientRequest
from gatewright.dev.target import Upstream
from gatewright.dev.upstream import UpstreamError, send_request
from gatewright.dev.upstream_reader import UpstreamAnswer
from gatewright.errors import ConfigError
from gatewright.gateways.apisix import replies
from gatewright.gateways.apisix.replies import Stop
from tests.dev.test_exchanges import gateway, request


def asked(n: int = 0, method: str = "GET") -> ClientRequest:
    headers = [("Host", "h"), ("X-K", f"v{n}"), ("Cookie", f"s=c{n}")]
    return ClientRequest(method, f"/r/x?a=k{n}", headers, "127.0.0.1")


def first(upstream: Balanced, n: int = 0) -> int:
    return Turn(upstream, Exchange(asked(n))).node.port


def tried(upstream: Balanced, most: int = 9) -> list[int]:
    turn = Turn(upstream, Exchange(asked()))
    ports = [turn.node.port]
    while len(ports) < most and (node := turn.next()) is not None:
        ports.append(node.port)
    return ports


THREE = {"127.0.0.1:19860": 2, "127.0.0.1:19861": 4, "127.0.0.1:19862": 6}
RINGS: list[tuple[dict[str, Any], str]] = [
    ({"hash_on": "vars", "key": "arg_a"}, "122212221021222122120211"),
    ({"hash_on": "header", "key": "X-K"}, "212112222212212211200211"),
    ({"hash_on": "cookie", "key": "s"}, "121211022112221020211221"),
]
"""What is hashed, and the nodes that a real APISIX gave the requests with k0, k1, k2, ..."""


@pytest.mark.parametrize(("how", "nodes"), RINGS)
def test_a_request_has_the_node_that_it_has_in_the_gateway(how: dict[str, Any], nodes: str) -> None:
    upstream = balanced({"type": "chash", "nodes": THREE, **how}, {})
    assert "".join(str(first(upstream, n) - 19860) for n in range(len(nodes))) == nodes


def test_what_is_hashed_and_is_not_there_is_the_clients_address() -> None:
    upstream = balanced({"type": "chash", "nodes": THREE, "hash_on": "consumer"}, {})
    assert len({first(upstream, n) for n in range(20)}) == 1


TRIES: list[tuple[dict[str, Any], list[int]]] = [
    ({"nodes": {"h:1": 1}}, [1] * 9),
    ({"nodes": {"h:1": 1, "h:2": 1, "h:3": 1}}, [1, 2, 3]),
    ({"nodes": {"h:1": 0, "h:2": 1}}, [2, 2]),
    ({"nodes": {"h:1": 1, "h:2": 2}}, [2, 1]),
    ({"nodes": {"h:1": 0, "h:2": 0}}, [1, 2]),
    ({"type": "least_conn", "nodes": {"h:1": 1, "h:2": 2}}, [2, 1]),
    ({"type": "chash", "key": "uri", "nodes": {"h:1": 0}}, [1] * 9),
    ({"type": "chash", "key": "uri", "nodes": {"h:1": 0, "h:2": 0}}, [1, 2]),
    (
        {"nodes": [{"host": "h", "port": 1, "priority": -1}, {"host": "h", "port": 2}, {"host": "h", "port": 3}]},
        [2, 3, 1],
    ),
    ({"nodes": {"h": 1, "[::1]:5": 1}}, [80, 5]),
    ({"nodes": {"h": 1}, "scheme": "https"}, [443] * 9),
]


@pytest.mark.parametrize(("written", "ports"), TRIES)
def test_each_try_has_another_node_as_long_as_there_is_one(written: dict[str, Any], ports: list[int]) -> None:
    assert tried(balanced(written, {})) == ports


def test_nodes_take_turns_by_weight() -> None:
    upstream = balanced({"nodes": {"h:1": 1, "h:2": 3}}, {})
    assert [first(upstream) for _ in range(8)] == [2, 2, 1, 2] * 2


def test_the_one_with_the_fewest_requests_is_next() -> None:
    upstream = balanced({"type": "least_conn", "nodes": {"h:1": 1, "h:2": 1}}, {})
    assert [first(upstream) for _ in range(4)] == [1, 2, 1, 2]


MISTAKES = {
    "needs `nodes`": {"type": "roundrobin"},
    "`type` is one of roundrobin, chash, least_conn, ewma, not odd": {"type": "odd", "nodes": {}},
    "`type: chash` needs a `key`": {"type": "chash", "nodes": {"h:1": 1}},
    "`scheme` grpc is not supported": {"scheme": "grpc", "nodes": {"h:1": 1}},
    "`service_name` is not supported": {"service_name": "x"},
}


@pytest.mark.parametrize("words", MISTAKES)
def test_what_can_not_be_done_is_refused_in_words(words: str) -> None:
    with pytest.raises(ConfigError, match=r"route r: upstream: .*") as told:
        build_routes({"routes": [{"id": "r", "uri": "/*", "upstream": MISTAKES[words]}]})
    assert words in str(told.value)


def test_health_checks_are_said_to_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gatewright.dev"):
        balanced({"nodes": {"h:1": 1}, "checks": {"active": {}}}, {})
    assert "every node counts as healthy" in caplog.text


# --- what comes of tries


class Behind:
    """Nodes that aren't there: by port, what each has to say, one after the other."""

    def __init__(self, **says: list[str]) -> None:
        self.says = {int(port.removeprefix("p")): said for port, said in says.items()}
        self.asked: list[tuple[int, str]] = []

    async def __call__(self, host: str, port: int, **call: Any) -> UpstreamAnswer:
        self.asked.append((port, dict(call["headers"])["Host"]))
        said = self.says[port].pop(0) if len(self.says[port]) > 1 else self.says[port][0]
        if said == "slow":
            await asyncio.sleep(0.02)
        if not said.isdigit():
            raise UpstreamError(
                said, sent=said in ("drop", "slow"), late=said == "slow", invalid=said == "odd", unknown=said == "name"
            )
        return UpstreamAnswer(int(said), "X", [("Content-Length", "2")], b"ok", "content-length")


async def outcome(
    behind: Behind, method: str = "GET", plugins: dict[str, Any] | None = None, **upstream: Any
) -> tuple[Answer, list[int]]:
    route = {"id": "r", "uri": "/*", "upstream": upstream, "plugins": plugins or {}}
    gateway = DevGateway(build_routes({"routes": [route]}), "unix:/nowhere", send=behind)
    # A connection that was kept from before would be worth another try.
    gateway._ended |= {Upstream("h", port, pass_host=upstream.get("pass_host", "pass")) for port in behind.says}
    answer = await gateway.handle(asked(method=method))
    return answer, [port for port, _ in behind.asked]


def told(answer: Answer) -> str | None:
    return dict(answer.headers).get("X-APISIX-Upstream-Status")


OUTCOMES: list[tuple[dict[str, list[str]], dict[str, Any], int, str | None, list[int]]] = [
    ({"p1": ["refused"], "p2": ["200"]}, {}, 200, None, [1, 2]),
    ({"p1": ["refused"], "p2": ["500"]}, {}, 500, "502, 500", [1, 2]),
    ({"p1": ["refused"], "p2": ["refused"]}, {}, 502, "502, 502", [1, 2]),
    ({"p1": ["refused"], "p2": ["refused"]}, {"retries": 5}, 502, "502, 502 : ", [1, 2]),
    ({"p1": ["refused"]}, {"retries": 3}, 502, "502, 502, 502, 502", [1] * 4),
    ({"p1": ["refused"], "p2": ["200"]}, {"retries": 0}, 502, "502", [1]),
    ({"p1": ["drop"], "p2": ["slow"]}, {}, 504, "502, 504", [1, 2]),
    ({"p1": ["odd"], "p2": ["200"]}, {}, 502, "502", [1]),
    ({"p1": ["500"], "p2": ["200"]}, {}, 500, "500", [1]),
    ({"p1": ["slow"]}, {"retries": 3, "retry_timeout": 0.03}, 502, "504, 504 : ", [1] * 2),
    ({"p1": ["name"], "p2": ["200"]}, {}, 503, None, [1]),
]


@pytest.mark.parametrize(("says", "upstream", "status", "header", "ports"), OUTCOMES)
async def test_tries(
    says: dict[str, list[str]], upstream: dict[str, Any], status: int, header: str | None, ports: list[int]
) -> None:
    nodes = {f"h:{port.removeprefix('p')}": 1 for port in says}
    answer, asked_ports = await outcome(Behind(**says), nodes=nodes, **upstream)
    assert (answer.status, told(answer), asked_ports) == (status, header, ports)


@pytest.mark.parametrize(("said", "ports"), [("drop", [1]), ("slow", [1]), ("refused", [1, 2])])
async def test_a_post_that_a_node_may_have_is_not_sent_again(said: str, ports: list[int]) -> None:
    _, asked_ports = await outcome(Behind(p1=[said], p2=["200"]), "POST", nodes={"h:1": 1, "h:2": 1})
    assert asked_ports == ports


async def test_with_pass_host_node_each_node_gets_its_own() -> None:
    behind = Behind(p1=["refused"], p2=["200"])
    await outcome(behind, nodes={"h:1": 1, "h:2": 1}, pass_host="node")
    assert behind.asked == [(1, "h:1"), (2, "h:2")]


async def test_an_upstream_without_nodes_is_not_available() -> None:
    answer, _ = await outcome(Behind(), nodes=[])
    assert (answer.status, told(answer)) == (503, None)


async def test_a_rules_response_plugin_runs_only_where_its_condition_holds() -> None:
    conf = {"conf": [{"name": "p", "value": "{}"}], "_meta": {"filter": [["arg_a", "==", "2"]]}}
    answer, _ = await outcome(Behind(p1=["200"]), plugins={"ext-plugin-post-resp": conf}, nodes={"h:1": 1})
    assert answer.framing == "proxied"


# --- over sockets


async def test_a_node_that_falls_silent_in_the_middle_leaves_nothing_that_fills_no_buffer() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + b"x" * 5000)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(half, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    got = await send_request(
        "127.0.0.1", port, tls=False, method="GET", target="/", headers=[("Host", "h")], body=b"", timeout=0.05
    )
    server.close()
    assert (got.complete, len(got.body)) == (False, 4096 - len("HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"))


@pytest.mark.parametrize("wants", [True, False])
async def test_after_a_101_client_and_upstream_go_on_by_themselves(tmp_path: Path, wants: bool) -> None:
    async def echoing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nX-Up: 1\r\n\r\n+")
        writer.write(b"<" + await reader.readexactly(2) + b">")
        writer.close()

    heads: list[bytes] = []
    server = await asyncio.start_server(echoing, "127.0.0.1", 0)
    node = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    route = {"id": "r", "uri": "/*", "enable_websocket": wants, "upstream": {"nodes": {node: 1}}}
    dev = DevGateway(build_routes({"routes": [route]}), f"unix:{tmp_path}/none")
    await dev.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", dev.port)
    writer.write(request("Upgrade: websocket").replace(b"Connection: close", b"Connection: Upgrade"))
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"hi")
    rest = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await dev.stop()
    server.close()
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n")
    assert rest == b"+<hi>"
    # The upstream hears of the wish only on a route that lets websockets pass.
    assert (b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" in heads[0]) is wants


LATE = [b"Content-Length: 5\r\n\r\nab", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\n"]


@pytest.mark.parametrize("head", LATE)
async def test_what_comes_of_the_body_of_an_answered_head_is_the_next_request(tmp_path: Path, head: bytes) -> None:
    async with gateway(tmp_path, [replies.encode_stop(0, Stop(403, [], b"no"))]) as seen:
        answer = await seen.send_for(b"HEAD /r/x HTTP/1.1\r\nHost: h\r\n" + head)
    assert [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/")] == [
        b"HTTP/1.1 403 Forbidden", b"HTTP/1.1 400 Bad Request",
    ]  # fmt: skip
