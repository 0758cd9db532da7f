"""The development gateway does what a recorded Apache APISIX 3.9.1 did: same frames, upstream requests and answers.

Not compared, since a recording can't fix it: ids and key versions; the order of headers and arguments with different
names (Lua's `pairs`); the Date header; whether a body is framed by length or in chunks; the recorded gateway's port.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.apisix.gateway import DevGateway
from gatewright.dev.apisix.routes import Upstream, build_routes
from gatewright.dev.apisix.rpc import Timeouts
from gatewright.dev.front import Handler
from gatewright.dev.messages import Answer, ClientRequest
from tests.dev.recorded import (
    HASTE,
    ScriptedRunner,
    ScriptedUpstream,
    Seen,
    body_of,
    load_cases,
    normal_frame,
    send_http1,
    send_http2,
)

CASES = load_cases()
TIMEOUTS = Timeouts(read=60 / HASTE, lock=5 / HASTE, lock_expiry=30 / HASTE)

if not CASES:
    pytest.skip("the recorded exchanges are not here (GATEWRIGHT_WIRE names their file)", allow_module_level=True)

# Client ports whose connections are two different workers' of a gateway with two.
PORTS = (40000, 40002)


def exchanges(case: dict[str, Any]) -> list[dict[str, Any]]:
    return [case, *case.get("then", [])]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["case"])
async def test_recorded_case(case: dict[str, Any], tmp_path: Path) -> None:
    differences = await (play_parallel if "requests" in case else play)(case, tmp_path)
    assert not differences, "\n".join(differences)


async def play_parallel(case: dict[str, Any], tmp_path: Path) -> list[str]:
    """Requests at once: which of them comes first is not fixed, so frames and answers are compared without order."""
    seen = Seen()
    runner = ScriptedRunner()
    runner.load(case["frames"], case["conns"], seen)
    await runner.start(str(tmp_path / "r.sock"))
    upstream = ScriptedUpstream(
        {"status": 200, "reason": "OK", "headers": [["Content-Type", "text/plain"]], "framing": "content-length",
         "body_b64": "b2sK"}, seen, [],
    )  # fmt: skip
    port = await upstream.start()
    routes = build_routes({"routes": case["routes"]}, default_upstream=Upstream("127.0.0.1", port), version="10000")
    gateway = DevGateway(routes, f"unix:{tmp_path / 'r.sock'}", timeouts=TIMEOUTS, server_header="APISIX/3.9.1")
    await gateway.start()
    answers = await asyncio.gather(*(send_http1(gateway.port, request, 10.0) for request in case["requests"]))
    await gateway.stop()
    await runner.stop()
    await upstream.stop()
    differences = []
    wanted = sorted(frame["decoded"]["kind"] for frame in case["frames"] if frame["from"] == "gateway")
    if wanted != (got := sorted(frame["kind"] for frame in seen.frames)):
        differences.append(f"frames\n  want {wanted}\n  got  {got}")
    wanted = sorted(client["line"] for client in case["clients"])
    if wanted != (got := sorted(answer["line"] for answer in answers)):
        differences.append(f"clients\n  want {wanted}\n  got  {got}")
    if len([u for u in case["upstreams"] if u]) != len(seen.upstream):
        differences.append(f"upstream requests: {len(seen.upstream)}")
    return differences


async def play(case: dict[str, Any], tmp_path: Path) -> list[str]:
    differences: list[str] = []
    socket = tmp_path / "r.sock"
    content = {"routes": case["routes"], **(case.get("shared") or {})}
    reloads = 0
    gateway: DevGateway | None = None
    runner = ScriptedRunner()
    before = str(case.get("before", ""))
    if "not listening" not in before and "nobody listening" not in before:
        await runner.start(str(socket))
    client_port: int | None = None

    def as_recorded(handler: Handler) -> Handler:
        """Connections are the workers' whose they were."""

        async def handle(request: ClientRequest) -> Answer:
            return await handler(request if client_port is None else replace(request, client_port=client_port))

        return handle

    for number, exchange in enumerate(exchanges(case)):
        seen = Seen()
        runner.load(exchange["frames"], exchange["conns"], seen)
        before = str(exchange.get("before", ""))
        if "closed its idle" in before:
            runner.close_connections()
            await asyncio.sleep(0.05)  # nothing tells when the gateway has noticed
        expected = [u for u in [exchange.get("upstream"), *(exchange.get("upstream_more") or [])] if u]
        upstream = ScriptedUpstream(exchange["upstream_answer"], seen, expected)
        port = await upstream.start()
        content = with_ports(content, port)
        reloads += "rewritten" in before
        if "pause" in before:
            await asyncio.sleep(TIMEOUTS.lock_expiry)
        routes = build_routes(content, default_upstream=Upstream("127.0.0.1", port), version=f"1000{reloads}")
        if gateway is None:
            gateway = DevGateway(
                routes, f"unix:{socket}", timeouts=TIMEOUTS, upstream_timeout=2.0, server_header="APISIX/3.9.1",
                workers=case.get("workers", 1), watch=as_recorded,
            )  # fmt: skip
            await gateway.start("127.0.0.1" if not exchange["request"].get("connect_to") else "::1")
        gateway.replace_routes(routes)
        for key, token in (case.get("preset_tokens") or {}).items():
            gateway.know_token(re.sub(r"\d{5,}", f"1000{reloads}", key), token)
        if case.get("workers", 1) > 1:
            client_port = PORTS[worker_of(exchange)]
        request = exchange["request"]
        send = send_http2 if "sent_by" in request else send_http1
        # Some recorded clients waited in vain: here they don't wait as long as those that are answered may.
        answer = await send(gateway.port, request, 0.5 if exchange["client"].get("error") else 3.0)
        differences += [
            f"exchange {number}: {line}"
            for line in compare(exchange, seen, answer, expected, ports=(gateway.port, port))
        ]
        await upstream.stop()
    if gateway is not None:
        await gateway.stop()
    await runner.stop()
    return differences


def worker_of(exchange: dict[str, Any]) -> int:
    """The worker that made an exchange's calls: it counts them from its own number on."""
    return int(next(f["decoded"]["id"] for f in exchange["frames"] if f["decoded"].get("id")) >> 22)


def with_ports(content: dict[str, Any], port: int) -> dict[str, Any]:
    """Point every recorded upstream at the scripted one."""
    upstreams = []
    for upstream in content.get("upstreams") or []:
        upstreams.append({**upstream, "nodes": {f"127.0.0.1:{port}": 1}})
    return {**content, **({"upstreams": upstreams} if upstreams else {})}


def compare(
    exchange: dict[str, Any],
    seen: Seen,
    answer: dict[str, Any],
    expected: list[dict[str, Any]],
    *,
    ports: tuple[int, int],
) -> list[str]:
    port, upstream_port = ports
    out = []
    wanted = [normal_frame(f) for f in exchange["frames"] if f["from"] == "gateway"]
    got = seen.frames
    for frame in got:
        if frame.get("result") == str(port).encode():  # `$server_port`
            frame["result"] = b"9180"
    for frame in (*wanted, *got):
        if "key" in frame:
            frame["key"] = re.sub(r"\d{5,}", "V", frame["key"])
    if wanted != got:
        out.append(f"frames\n  want {wanted}\n  got  {got}")
    opened = sum(event["event"] == "open" for event in exchange["conns"])
    if opened != seen.connections:
        out.append(f"connections opened to the runner: want {opened}, got {seen.connections}")
    if len(expected) != len(seen.upstream):
        out.append(f"upstream requests: want {len(expected)}, got {len(seen.upstream)}")
    for want, have in zip(expected, seen.upstream, strict=False):
        headers = sorted(
            (n, re.sub(r"^9180$", str(port), v) if n == "X-Forwarded-Port" else v) for n, v in want["headers"]
        )
        have_headers = sorted(tuple(h) for h in have["headers"])
        have_headers = [(n, v.replace(f":{upstream_port}", ":1981") if n == "Host" else v) for n, v in have_headers]
        if (stable_line(want["line"]), headers, body_of(want)) != (
            stable_line(have["line"]), have_headers, have["body"],
        ):  # fmt: skip
            out.append(
                f"upstream\n  want {want['line']} {headers} {body_of(want)[:80]!r}\n"
                f"  got  {have['line']} {have_headers} {have['body'][:80]!r}"
            )
    client = exchange["client"]
    if client.get("error") or answer.get("error"):
        if bool(client.get("error")) != bool(answer.get("error")):
            out.append(f"client\n  want {client.get('error')} {client.get('line')}\n  got  {answer}")
        return out
    want_line = client["line"].strip()
    if want_line.startswith("HTTP/2"):
        want_line = "HTTP/2 " + want_line.split()[1]
    want = (want_line, stable_headers(client["headers"]), body_of(client))
    have = (answer["line"].strip(), stable_headers(answer["headers"]), answer["body"])
    if want != have:
        out.append(f"client\n  want {want[0]} {want[1]} {want[2][:60]!r}\n  got  {have[0]} {have[1]} {have[2][:60]!r}")
    return out


def stable_line(line: str) -> str:
    """The request line with arguments of different names in a stable order."""
    method, target, version = line.split(" ")
    path, question, query = target.partition("?")
    parts = sorted(query.split("&"), key=lambda part: part.partition("=")[0])
    return f"{method} {path}{question}{'&'.join(parts)} {version}"


def stable_headers(headers: Any) -> list[tuple[str, str]]:
    skipped = ("date", "content-length", "transfer-encoding")
    return sorted((n, v) for n, v in headers if n.lower() not in skipped)
