"""The codec and the session over every frame recorded from a real APISIX."""

from __future__ import annotations

from typing import Any

import pytest

from gatewright.errors import PluginError, ProtocolError
from gatewright.gateways.apisix import replies
from gatewright.gateways.apisix.frames import FrameType
from gatewright.gateways.apisix.replies import InfoType, RespReply, Rewrite, Stop
from gatewright.gateways.apisix.session import ApisixSession
from gatewright.gateways.events import Prepare
from gatewright.http import Call, Request, RequestCall, Response
from tests.dev.recorded import blob, decode_gateway_frame, frame_bytes, latin, load_cases, normal_frame, payload_of

CASES = load_cases()
if not CASES:
    pytest.skip("the recorded exchanges are not here (GATEWRIGHT_WIRE names their file)", allow_module_level=True)

FRAMES = [
    (f"{case['case']}-{number}-{index}", exchange["frames"], index)
    for case in CASES
    for number, exchange in enumerate([case, *case.get("then", [])])
    for index in range(len(exchange["frames"]))
]
GATEWAY = [(name, frames[i]) for name, frames, i in FRAMES if frames[i]["from"] == "gateway"]
RUNNER = [
    (name, frames[i])
    for name, frames, i in FRAMES
    if frames[i]["from"] == "runner" and frames[i].get("decoded") and "raw_b64" not in frames[i]
]


def entries(value: Any) -> list[tuple[str, str | None]]:
    return [(latin(name) or "", latin(text)) for name, text in value or []]


@pytest.mark.parametrize("frame", [f for _, f in GATEWAY], ids=[n for n, _ in GATEWAY])
def test_gateway_frames_decode_as_recorded(frame: dict[str, Any]) -> None:
    assert decode_gateway_frame(frame_bytes(frame["type"], payload_of(frame))) == normal_frame(frame)


@pytest.mark.parametrize("frame", [f for _, f in RUNNER], ids=[n for n, _ in RUNNER])
def test_runner_frames_decode_as_recorded(frame: dict[str, Any]) -> None:
    data, decoded = frame_bytes(frame["type"], payload_of(frame)), frame["decoded"]
    kind = decoded["kind"]
    if without_names(decoded):
        with pytest.raises(ProtocolError, match="entry without a name"):  # APISIX aborts
            replies.decode_action(data)
        return
    if kind == "PrepareConf.Resp":
        assert replies.decode_conf_token(data) == decoded["conf_token"]
    elif kind == "Err.Resp":
        assert replies.decode_error(data) == decoded["code"]
    elif kind == "ExtraInfo.Req":
        question = replies.decode_info_request(data)
        names = {1: "Var", 2: "ReqBody", 3: "RespBody"}
        assert names.get(question.kind, question.kind) == decoded["info"]
        if question.kind == InfoType.VAR:
            assert question.name == latin(decoded.get("name"))
    elif kind == "HTTPRespCall.Resp":
        body = body_of(decoded)
        reply = replies.decode_resp_reply(data)[1]
        assert (reply.status, reply.headers) == (decoded["status"], entries(decoded["headers"]))
        assert body is None or reply.body == body
    elif kind == "HTTPReqCall.Resp" and decoded.get("action") in ("Stop", "Rewrite"):
        check_action(replies.decode_action(data), decoded)


def without_names(decoded: dict[str, Any]) -> bool:
    """Whether the scripted runner left names out of entries, to see what APISIX does then."""
    parts = [decoded.get(part) or {} for part in ("stop", "rewrite")]
    return any(name is None for part in parts for key in ("headers", "args") for name, _ in part.get(key) or [])


def body_of(part: dict[str, Any]) -> bytes | None:
    """The recorded body; `None` where only its length was kept."""
    body = part.get("body_b64")
    return None if isinstance(body, dict) else blob(body)


def check_action(action: Stop | Rewrite | None, decoded: dict[str, Any]) -> None:
    if isinstance(action, Stop):
        want = decoded["stop"]
        assert (action.status, action.headers) == (want["status"], entries(want["headers"]))
        assert body_of(want) is None or action.body == body_of(want)
    else:
        assert isinstance(action, Rewrite)
        want = decoded["rewrite"]
        assert action.path == latin(want["path"])
        assert (action.headers, action.args) == (entries(want["headers"]), entries(want["args"]))
        assert action.resp_headers == entries(want["resp_headers"])
        assert body_of(want) is None or action.body == body_of(want)


# --- a plugin that does what the recorded reply says gives a reply with the same meaning

REPLIES = [
    (name, frames, i)
    for name, frames, i in FRAMES
    if frames[i]["from"] == "runner"
    and (frames[i].get("decoded") or {}).get("kind") in ("HTTPReqCall.Resp", "HTTPRespCall.Resp")
    and "raw_b64" not in frames[i]
]
# What the API refuses to say, each with the reason why.
REFUSED = {
    "stop-header-crlf": ValueError, "stop-status-100": ValueError, "stop-status-99": ValueError,
    "rewrite-path-crlf": ValueError, "rewrite-path-relative": ValueError, "rewrite-path-empty": ValueError,
    "resp-status-99": ValueError, "resp-upstream-204-status": PluginError,
}  # fmt: skip


def call_before(frames: list[dict[str, Any]], index: int) -> dict[str, Any] | None:
    for frame in reversed(frames[:index]):
        if frame["from"] == "gateway" and frame["type"] in (2, 4) and frame["conn"] == frames[index]["conn"]:
            return frame
    return None


@pytest.mark.parametrize(("name", "frames", "index"), REPLIES, ids=[n for n, _, _ in REPLIES])
def test_a_plugin_that_does_as_recorded_replies_as_recorded(name: str, frames: list[Any], index: int) -> None:
    asked = call_before(frames, index)
    decoded = frames[index]["decoded"]
    if asked is None or asked["type"] != frames[index]["type"]:
        return  # a reply of the wrong type, on purpose
    if without_names(decoded):
        return  # entries without a name, on purpose
    session = ApisixSession()
    (call,) = session.receive_data(frame_bytes(asked["type"], payload_of(asked)))
    assert not isinstance(call, Prepare)
    assert isinstance(call, Call)
    case = name.rsplit("-", 2)[0]
    if case in REFUSED:
        with pytest.raises(REFUSED[case]):
            carry_out(session, call, decoded)
        return
    reply = carry_out(session, call, decoded)
    if isinstance(call, RequestCall):
        action = replies.decode_action(reply)
        if decoded.get("action") == "Stop":
            check_stop(action, decoded["stop"])
        elif decoded.get("action") == "Rewrite":
            check_rewrite(action, decoded["rewrite"], call)
        else:
            assert action is None
    else:
        check_response(replies.decode_resp_reply(reply)[1], decoded, call)


def carry_out(session: ApisixSession, call: Call, decoded: dict[str, Any]) -> bytes:
    if not isinstance(call, RequestCall):
        response = Response.of_call(call)
        if decoded["status"]:
            response.status = decoded["status"]
        if decoded["headers"]:
            response.headers.replace({})
        for name, value in entries(decoded["headers"]):
            if value is not None:
                response.headers.add(name, value)
        if body_of(decoded):
            response.set_body(body_of(decoded) or b"")
        return session.reply(call, None)
    if decoded.get("action") == "Stop":
        stop = decoded["stop"]
        headers = [(name, value) for name, value in entries(stop["headers"]) if value is not None]
        return session.reply(call, Response(stop["status"] or 200, headers, body_of(stop) or b""))
    if decoded.get("action") == "Rewrite":
        rewrite, request = decoded["rewrite"], Request(call)
        if rewrite["path"] is not None:
            request.path = latin(rewrite["path"]) or ""
        for target, changes in (
            (request.headers, rewrite["headers"]),
            (request.response_headers, rewrite["resp_headers"]),
        ):
            for name, value in entries(changes):
                if value is None:
                    target.discard(name)
                elif target is request.headers:
                    target[name] = value
                else:
                    target.add(name, value)
        seen: set[str] = set()
        for name, value in entries(rewrite["args"]):
            if value is None:
                request.query.discard(name)
            elif name in seen and name in request.query:
                request.query.add(name, value)
            else:
                request.query[name] = value
            seen.add(name)
        if body_of(rewrite) or isinstance(rewrite.get("body_b64"), dict):
            request.set_body(body_of(rewrite) or b"big")
    return session.reply(call, None)


def lowered(recorded: Any) -> list[tuple[str, str | None]]:
    return [(name.lower(), value) for name, value in entries(recorded)]


def check_stop(action: Any, want: dict[str, Any]) -> None:
    assert isinstance(action, Stop)
    assert action.status == (want["status"] or 200)
    framing = ("content-length", "connection", "transfer-encoding", "keep-alive")
    assert action.headers == [(n, v) for n, v in lowered(want["headers"]) if v is not None and n not in framing]
    assert body_of(want) is None or action.body == body_of(want)


def check_rewrite(action: Any, want: dict[str, Any], call: Call) -> None:
    if action is None:
        assert not any(want[key] for key in ("headers", "args", "resp_headers", "path"))
        return
    assert isinstance(action, Rewrite)
    assert action.path == latin(want["path"])
    headers = dict(lowered(want["headers"]))
    if action.body:
        headers["content-length"] = str(len(action.body))
        if call.source.has_header("transfer-encoding"):
            headers["transfer-encoding"] = None
    assert dict(action.headers) == headers
    final: dict[str, list[str] | None] = {}
    for name, value in entries(want["args"]):
        if value is None:
            final[name] = None
        else:
            final[name] = [*(final.get(name) or []), value]
    if action.path is not None and not final and call.source.read_args():
        final = {"-": None}  # keeps the query on 3.9.1
    got: dict[str, list[str] | None] = {}
    for name, value in action.args:
        got[name] = None if value is None else [*(got.get(name) or []), value]
    assert got == final
    assert [e for e in action.resp_headers if e[1] is not None] == [
        e for e in lowered(want["resp_headers"]) if e[1] is not None
    ]


def check_response(reply: RespReply, want: dict[str, Any], call: Call) -> None:
    status = want["status"] or call.response_status
    assert (reply.status or call.response_status) == status
    hop_by_hop = ("connection", "transfer-encoding")
    source = want["headers"] or [(n.encode("utf-8", "surrogateescape").decode("latin-1"), v and v.encode(
        "utf-8", "surrogateescape").decode("latin-1")) for n, v in (call.response_source or list)()]  # fmt: skip
    expected = sorted(
        (n, v) for n, v in lowered(source)
        if v is not None and n not in hop_by_hop and not (n == "content-length" and (body_of(want) or status == 204))
    )  # fmt: skip
    assert sorted((n, v) for n, v in reply.headers if v is not None) == expected
    if body_of(want):
        assert reply.body == body_of(want)
    else:
        assert reply.body == (b"\n" if status in (204, 304) else b"")


def test_every_frame_type_occurs_in_the_recordings() -> None:
    assert {frame["type"] for _, frame in GATEWAY} == {1, 2, 3, 4}
    assert FrameType.ERROR in {frame["type"] for _, frame in RUNNER}
