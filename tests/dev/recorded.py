"""Playing the recorded cases: a scripted runner and upstream on real sockets, and a client that sends raw bytes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events

from gatewright.gateways.apisix import calls
from gatewright.gateways.apisix.frames import FrameType
from gatewright.gateways.apisix.replies import decode_info_request

HASTE = 20
"""How much faster than recorded the tests wait."""

WIRE = Path(__file__).resolve().parents[2].parent / "shared" / "wire" / "apisix-3.9.1.jsonl"


def load_cases() -> list[dict[str, Any]]:
    path = Path(os.environ.get("GATEWRIGHT_WIRE", WIRE))
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def blob(value: Any) -> bytes:
    """A recorded payload or body, which may be given as a recipe."""
    if value is None:
        return b""
    if isinstance(value, str):
        return base64.b64decode(value)
    if "fill" in value:
        return blob(value["prefix_b64"]) + blob_repeat(value["fill"]) + blob(value.get("suffix_b64"))
    return blob_repeat(value)


def blob_repeat(value: dict[str, Any]) -> bytes:
    return blob(value["repeat_b64"]) * value["count"] + blob(value.get("tail_b64"))


def payload_of(frame: dict[str, Any]) -> bytes:
    return blob(frame) if "fill" in frame else blob(frame["payload_b64"])


def body_of(message: dict[str, Any]) -> bytes:
    if "fill" in message:
        return blob(message)
    return blob(message.get("body_b64", message.get("body")))


@dataclass
class Seen:
    frames: list[dict[str, Any]] = field(default_factory=list)
    upstream: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0


class ScriptedRunner:
    """Answers each gateway frame with what the recorded runner answered next on that kind of RPC."""

    def __init__(self) -> None:
        self._seen = Seen()
        self._script: dict[int, list[list[dict[str, Any]]]] = {}
        self._open: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    def load(self, frames: list[dict[str, Any]], conns: list[dict[str, Any]], seen: Seen) -> None:
        """Take the next exchange's script."""
        self._seen = seen
        self._script = {}
        last: dict[int, list[dict[str, Any]]] = {}
        asked: dict[int, float] = {}
        for frame in frames:
            if frame["from"] == "runner" and "ms" in frame:
                # A runner that took its time does so here, too, a bit faster.
                frame = {**frame, "delay": (frame["ms"] - asked.get(frame["conn"], frame["ms"])) / 1000 / HASTE}
            if frame["from"] == "gateway":
                asked[frame["conn"]] = frame["ms"]
                answers: list[dict[str, Any]] = []
                self._script.setdefault(frame["type"], []).append(answers)
                last[frame["conn"]] = answers
            elif frame["conn"] in last:
                last[frame["conn"]].append(frame)
        for event in conns:
            if event["event"] == "closed_by_runner" and event["conn"] in last:
                last[event["conn"]].append({"close": True})

    async def start(self, path: str) -> None:
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.close_connections()

    def close_connections(self) -> None:
        for writer in self._open:
            writer.close()
        self._open.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._seen.connections += 1
        self._open.append(writer)
        try:
            while True:
                head = await reader.readexactly(4)
                frame = head + await reader.readexactly(int.from_bytes(head[1:], "big"))
                self._seen.frames.append(decode_gateway_frame(frame))
                rounds = self._script.get(frame[0], [])
                answers = rounds.pop(0) if rounds else []
                for answer in answers:
                    if answer.get("close"):
                        writer.close()
                        return
                    if answer.get("delay", 0) > 0.1 / HASTE:
                        await asyncio.sleep(answer["delay"])
                    await self._write(writer, answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _write(self, writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
        if "raw_b64" in answer:
            data = blob(answer["raw_b64"])
        else:
            payload = payload_of(answer)
            data = bytes([answer["type"]]) + len(payload).to_bytes(3, "big") + payload
        for size in answer.get("written_in_pieces", [])[:-1]:
            writer.write(data[:size])
            await writer.drain()
            await asyncio.sleep(0)
            data = data[size:]
        writer.write(data)
        await writer.drain()


def decode_gateway_frame(frame: bytes) -> dict[str, Any]:
    """As `normal_frame` of the recorded one."""
    kind = frame[0]
    if kind == FrameType.PREPARE_CONF:
        prepare = calls.PrepareConf(frame)
        return {"kind": "PrepareConf.Req", "key": prepare.key, "conf": prepare.conf}
    if kind == FrameType.HTTP_REQ_CALL:
        call = calls.HttpReqCall(frame)
        return {
            "kind": "HTTPReqCall.Req", "token": call.conf_token, "src_ip": call.src_ip.hex(), "method": call.method,
            "path": call.path, "args": stable(call.read_args()), "headers": stable(call.read_headers()),
        }  # fmt: skip
    if kind == FrameType.HTTP_RESP_CALL:
        response = calls.HttpRespCall(frame)
        return {
            "kind": "HTTPRespCall.Req", "token": response.conf_token, "status": response.status,
            "headers": stable(response.read_headers()),
        }  # fmt: skip
    if kind == FrameType.EXTRA_INFO:
        return {"kind": "ExtraInfo.Resp", "result": calls.decode_extra_info_result(frame)}
    return {"kind": kind}


def stable(entries: Any) -> list[tuple[str, str | None]]:
    """Entries with the order between different names (Lua's `pairs`) taken out."""
    return sorted(((name, value) for name, value in entries), key=lambda entry: entry[0])


def latin(text: str | None) -> str | None:
    return None if text is None else text.encode("latin-1").decode("utf-8", "surrogateescape")


def normal_frame(frame: dict[str, Any]) -> dict[str, Any]:
    """A recorded gateway frame in the form of `decode_gateway_frame`."""
    decoded = frame["decoded"]
    kind = decoded["kind"]

    def entries(name: str) -> list[tuple[str, str | None]]:
        return stable((latin(k), latin(v)) for k, v in decoded.get(name) or [])

    if kind == "PrepareConf.Req":
        conf = [(latin(k), latin(v)) for k, v in decoded.get("conf") or []]
        return {"kind": kind, "key": latin(decoded["key"]), "conf": conf}
    if kind == "HTTPReqCall.Req":
        return {
            "kind": kind, "token": decoded["conf_token"], "src_ip": decoded["src_ip"], "method": decoded["method"],
            "path": latin(decoded["path"]), "args": entries("args"), "headers": entries("headers"),
        }  # fmt: skip
    if kind == "HTTPRespCall.Req":
        return {
            "kind": kind, "token": decoded["conf_token"], "status": decoded["status"], "headers": entries("headers")
        }  # fmt: skip
    payload = payload_of(frame)
    return {"kind": kind, "result": calls.decode_extra_info_result(frame_bytes(frame["type"], payload))}


def frame_bytes(kind: int, payload: bytes) -> bytes:
    return bytes([kind]) + len(payload).to_bytes(3, "big") + payload


class ScriptedUpstream:
    """Records each request as it came and gives the recorded answer."""

    def __init__(self, answer: dict[str, Any], seen: Seen, expected: list[dict[str, Any]]) -> None:
        self._answer = answer
        self._seen = seen
        self._expected = expected
        self._server: asyncio.Server

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        line, *rest = head[:-4].split("\r\n")
        headers = [tuple(item.split(": ", 1)) if ": " in item else (item.rstrip(":"), "") for item in rest]
        names = {name.lower(): value for name, value in headers}
        body = b""
        number = len(self._seen.upstream)
        if "chunked" in names.get("transfer-encoding", ""):
            wanted = body_of(self._expected[number]) if number < len(self._expected) else b""
            body = await reader.readexactly(len(wanted)) if wanted else b""
        elif "content-length" in names:
            try:
                body = await asyncio.wait_for(reader.readexactly(int(names["content-length"])), 1)
            except (TimeoutError, asyncio.IncompleteReadError) as error:
                body = getattr(error, "partial", b"")
        self._seen.upstream.append({"line": line, "headers": headers, "body": body})
        if self._answer["framing"] == "connection closed without an answer":
            writer.close()
            return
        writer.write(self._answer_bytes(line.split()[0], number))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    def _answer_bytes(self, method: str, number: int) -> bytes:
        answer = self._answer
        headers = [tuple(entry) for entry in answer["headers"]]
        if number:
            headers.append(("X-Answer-No", str(number + 1)))
        body = body_of(answer)
        if answer["framing"] == "chunked":
            headers.append(("Transfer-Encoding", "chunked"))
            body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        elif (answer["framing"] == "content-length" and answer["status"] not in (204, 304)) or (
            answer["framing"] == "content-length" and answer["status"] == 304
        ):
            headers.append(("Content-Length", str(len(body))))
        if method == "HEAD" or answer["status"] in (204, 304):
            body = b""
        head = f"HTTP/1.1 {answer['status']} {answer.get('reason', '')}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers)
        if answer["framing"] == "close":
            head += "Connection: close\r\n"
        return (head + "\r\n").encode("latin-1") + body


async def send_http1(port: int, request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Send a recorded request; gives status line, headers, body, or an error."""
    host = request.get("connect_to") or "127.0.0.1"
    reader, writer = await asyncio.open_connection(host if host != "::1" else "::1", port)
    try:
        body = body_of(request)
        head = f"{request['method']} {request['target']} {request['version']}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in request["headers"])
        if request.get("chunked"):
            body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        writer.write((head + "\r\n").encode("latin-1") + body)
        async with asyncio.timeout(timeout):
            return await _read_response(reader, request["method"])
    except TimeoutError:
        return {"error": "client timeout"}
    finally:
        writer.close()


async def _read_response(reader: asyncio.StreamReader, method: str) -> dict[str, Any]:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return {"error": "closed without a response"}
    line, *rest = head[:-4].split("\r\n")
    headers = [tuple(item.split(": ", 1)) if ": " in item else (item.rstrip(":"), "") for item in rest]
    names = {name.lower(): value for name, value in headers}
    status = int(line.split()[1])
    body, framing = b"", "none"
    if method != "HEAD" and status not in (204, 304):
        if "transfer-encoding" in names:
            framing = "chunked"
            while size := int((await reader.readline()).strip() or b"0", 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        elif "content-length" in names:
            framing = "content-length"
            body = await reader.readexactly(int(names["content-length"]))
        else:
            framing = "close"
            body = await reader.read()
    return {"line": line, "headers": headers, "body": body, "framing": framing}


async def send_http2(port: int, request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Send a recorded request over HTTP/2 with prior knowledge."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    # What a client sends and a runner sets goes out as it is, be it a header that HTTP/2 has no place for.
    config = h2.config.H2Configuration(
        validate_inbound_headers=False, validate_outbound_headers=False, normalize_outbound_headers=False
    )
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    left_out = {"host", "connection"} | ({"content-length"} if request["sent_by"] == "curl-h2-stream" else set())
    headers = [(n.lower(), v) for n, v in request["headers"] if n.lower() not in left_out]
    headers += [("user-agent", "curl/7.88.1"), ("accept", "*/*")]  # as curl sent them
    if request["method"] == "POST" and request["sent_by"] == "curl-h2":
        headers.append(("content-type", "application/x-www-form-urlencoded"))
    authority = next((v for n, v in request["headers"] if n.lower() in ("host", ":authority")), "gw.test")
    body = body_of(request)
    connection.send_headers(
        1,
        [
            (":method", request["method"]), (":scheme", "http"), (":authority", authority),
            (":path", request["target"]), *headers,
        ],
        end_stream=not body,
    )  # fmt: skip
    if body:
        connection.send_data(1, body, end_stream=True)
    writer.write(connection.data_to_send())
    answer: dict[str, Any] = {"headers": [], "body": b"", "framing": "h2"}
    try:
        async with asyncio.timeout(timeout):
            while True:
                for event in connection.receive_data(await reader.read(65536)):
                    if isinstance(event, h2.events.ResponseReceived):
                        fields = [(bytes(n).decode("latin-1"), bytes(v).decode("latin-1")) for n, v in event.headers]
                        answer["line"] = "HTTP/2 " + dict(fields)[":status"]
                        answer["headers"] = [(n, v) for n, v in fields if n != ":status"]
                    elif isinstance(event, h2.events.DataReceived):
                        answer["body"] += event.data
                        connection.acknowledge_received_data(event.flow_controlled_length, 1)
                    elif isinstance(event, h2.events.StreamEnded):
                        return answer
                writer.write(connection.data_to_send())
    finally:
        writer.close()


__all__ = [
    "ScriptedRunner",
    "ScriptedUpstream",
    "Seen",
    "body_of",
    "decode_info_request",
    "frame_bytes",
    "load_cases",
    "normal_frame",
    "send_http1",
    "send_http2",
]
