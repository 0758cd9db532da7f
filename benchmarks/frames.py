"""The frames that the load generator sends: a browser's request as APISIX passes it on, made by the oracle."""

from __future__ import annotations

from pathlib import Path

import flatbuffers  # type: ignore[import-untyped]

from tests.gateways import oracle

HEADERS = [
    ("host", "shop.example.org"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "de,en-GB;q=0.7,en;q=0.3"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("cookie", "sid=c4ca4238a0b923820dcc509a6f75849b; seen=1"),
    ("referer", "https://shop.example.org/catalogue/garden"),
    ("sec-fetch-mode", "navigate"),
    ("x-request-id", "d3b07384d113edec49eaa6238ad5ff00"),
    ("cache-control", "no-cache"),
]
ARGS = [("category", "garden"), ("page", "3"), ("order", "price")]


def request(conf_token: int = 1) -> bytes:
    """An HTTPReqCall of about 900 bytes."""
    return oracle.http_req_call(
        id=1,
        conf_token=conf_token,
        src_ip=bytes((192, 0, 2, 7)),
        method=0,
        path="/catalogue/items",
        args=ARGS,
        headers=HEADERS,
    )


def floor_answer() -> bytes:
    """What the floor answers: as much as a runner says that sets one header."""
    builder = flatbuffers.Builder(128)
    name, value = builder.CreateString("x-runner"), builder.CreateString("python")
    builder.StartObject(2)  # TextEntry: name, value
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUOffsetTRelativeSlot(1, value, 0)
    entry = builder.EndObject()
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(entry)
    headers = builder.EndVector()
    builder.StartObject(5)  # Rewrite: path, headers, args, resp_headers, body
    builder.PrependUOffsetTRelativeSlot(1, headers, 0)
    rewrite = builder.EndObject()
    builder.StartObject(3)  # HTTPReqCall.Resp: id, action's type, action
    builder.PrependUint32Slot(0, 1, 0)
    builder.PrependUOffsetTRelativeSlot(2, rewrite, 0)
    builder.PrependUint8Slot(1, 2, 0)
    builder.Finish(builder.EndObject())
    payload = bytes(builder.Output())
    return b"\x02" + len(payload).to_bytes(3, "big") + payload


def write(directory: Path, plugins: list[str]) -> dict[str, Path]:
    """Write the request, an ExtraInfo answer, the floor's answer, and a PrepareConf for each plugin."""
    directory.mkdir(parents=True, exist_ok=True)
    frames = {"request": request(), "answer": oracle.extra_info_result(b"192.0.2.7"), "floor": floor_answer()}
    for plugin in plugins:
        frames[plugin] = oracle.prepare_conf(f"route#{plugin}#ext-plugin-pre-req#1", [(plugin, "{}")])
    paths = {}
    for name, frame in frames.items():
        paths[name] = directory / f"{name}.bin"
        paths[name].write_bytes(frame)
    return paths
