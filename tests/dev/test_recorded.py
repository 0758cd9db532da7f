"""The development gateway does what a recorded Apache APISIX 3.9.1 did: same frames, same upstream requests, same answer.

Not compared, since a recording can't fix it: ids and key versions; the order of headers and arguments with different
names (Lua's `pairs`); the Date header; whether a body is framed by length or in chunks; the recorded gateway's port.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.gateway import DevGateway
from gatewright.dev.routes import Upstream, build_routes
from gatewright.dev.rpc import Timeouts
from tests.dev.recorded import (
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
TIMEOUTS = Timeouts(read=1.0, lock=0.3, lock_expiry=1.0)

if not CASES:
    pytest.skip("the recorded exchanges are not here (GATEWRIGHT_WIRE names their file)", allow_module_level=True)

# Played by tests of their own in test_gateway.py, since a script of one exchange can't show them.
ELSEWHERE: dict[str, str] = {}


def exchanges(case: dict[str, Any]) -> list[dict[str, Any]]:
    return [case, *case.get("then", [])]


@pytest.mark.parametrize("case", [c for c in CASES if c["case"] not in ELSEWHERE], ids=lambda c: c["case"])
async def test_recorded_case(case: dict[str, Any], tmp_path: Path) -> None:
    differences = await play(case, tmp_path)
    assert not differences, "\n".join(differences)


async def play(case: dict[str, Any], tmp_path: Path) -> list[str]:
    differences: list[str] = []
    socket = tmp_path / "r.sock"
    content = {"routes": case["routes"], **(case.get("shared") or {})}
    tokens: dict[str, int] = {}
    gateway: DevGateway | None = None
    for number, exchange in enumerate(exchanges(case)):
        if "request" not in exchange:
            continue
        seen = Seen()
        runner = ScriptedRunner(exchange["frames"], exchange["conns"], seen)
        if not case["case"].startswith(("error-runner", "resp-runner-absent")):
            socket.unlink(missing_ok=True)
            await runner.start(str(socket))
        expected = [u for u in [exchange.get("upstream"), *(exchange.get("upstream_more") or [])] if u]
        upstream = ScriptedUpstream(exchange["upstream_answer"], seen, expected)
        port = await upstream.start()
        content = with_ports(content, port)
        routes = build_routes(content, default_upstream=Upstream("127.0.0.1", port), version="1")
        if gateway is None:
            gateway = DevGateway(
                routes, f"unix:{socket}", timeouts=TIMEOUTS, upstream_timeout=2.0, server_header="APISIX/3.9.1"
            )
            await gateway.start("127.0.0.1" if not exchange["request"].get("connect_to") else "::1")
        gateway.replace_routes(routes)
        request = exchange["request"]
        send = send_http2 if "2" in str(request.get("version")) and "/2" in request["version"] else send_http1
        answer = await send(gateway.port, request, 3.0)
        differences += [f"exchange {number}: {line}" for line in compare(exchange, seen, answer, expected, gateway.port)]
        await runner.stop()
        await upstream.stop()
    if gateway is not None:
        await gateway.stop()
    tokens.clear()
    return differences


def with_ports(content: dict[str, Any], port: int) -> dict[str, Any]:
    """Point every recorded upstream at the scripted one."""
    upstreams = []
    for upstream in content.get("upstreams") or []:
        upstreams.append({**upstream, "nodes": {f"127.0.0.1:{port}": 1}})
    return {**content, **({"upstreams": upstreams} if upstreams else {})}


def compare(
    exchange: dict[str, Any], seen: Seen, answer: dict[str, Any], expected: list[dict[str, Any]], port: int
) -> list[str]:
    out = []
    wanted = [normal_frame(f) for f in exchange["frames"] if f["from"] == "gateway"]
    got = seen.frames
    for frame in (*wanted, *got):
        if "key" in frame:
            frame["key"] = re.sub(r"\d{5,}|(?<=[#&])1(?=$|[#&])", "V", frame["key"])
    if wanted != got:
        out.append(f"frames\n  want {wanted}\n  got  {got}")
    if len(expected) != len(seen.upstream):
        out.append(f"upstream requests: want {len(expected)}, got {len(seen.upstream)}")
    for want, have in zip(expected, seen.upstream, strict=False):
        headers = sorted((n, re.sub(r"^9180$", str(port), v) if n == "X-Forwarded-Port" else v) for n, v in want["headers"])
        have_headers = sorted(tuple(h) for h in have["headers"])
        if (want["line"], headers, body_of(want)) != (have["line"], have_headers, have["body"]):
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


def stable_headers(headers: Any) -> list[tuple[str, str]]:
    skipped = ("date", "content-length", "transfer-encoding")
    return sorted((n, v) for n, v in headers if n.lower() not in skipped)
