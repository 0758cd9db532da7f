"""The frames that the load generator and the floor send, built with the official `flatbuffers` runtime.

The runner's own codec is not used, so that a mistake in it can't hide on both sides of a measurement. Slot numbers
follow the order of the fields in the protocol's schema.

`python -m benchmarks.frames FOLDER` writes them, for use with the load generator by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import flatbuffers

__all__ = ["extra_info", "fixed_answer", "main", "prepare_conf", "request"]

PREPARE_CONF = 1
HTTP_REQ_CALL = 2
EXTRA_INFO = 3

GET = 0
REWRITE = 2

ARGS = (("q", "espresso machine"), ("page", "3"), ("sort", "rating-desc"))
HEADERS = (
    ("host", "www.coffee-corner.example"),
    ("user-agent", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0"),
    ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.7,de;q=0.3"),
    ("accept-encoding", "gzip, deflate, br"),
    ("referer", "https://www.coffee-corner.example/search"),
    ("cookie", "sid=0f9d1c5be2a74c3f; consent=necessary; currency=EUR"),
    ("connection", "keep-alive"),
    ("upgrade-insecure-requests", "1"),
    ("cache-control", "max-age=0"),
)


def _frame(kind: int, builder: flatbuffers.Builder, root: int) -> bytes:
    builder.Finish(root)
    payload = bytes(builder.Output())
    return bytes([kind]) + len(payload).to_bytes(3, "big") + payload


def _entries(builder: flatbuffers.Builder, entries: Sequence[tuple[str, str]]) -> int:
    tables = []
    for name, value in entries:
        name_at, value_at = builder.CreateString(name), builder.CreateString(value)
        builder.StartObject(2)
        builder.PrependUOffsetTRelativeSlot(0, name_at, 0)
        builder.PrependUOffsetTRelativeSlot(1, value_at, 0)
        tables.append(builder.EndObject())
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())


def request(
    *,
    path: str = "/shop/search/results",
    args: Sequence[tuple[str, str]] = ARGS,
    headers: Sequence[tuple[str, str]] = HEADERS,
) -> bytes:
    """HTTPReqCall.Req of a browser's GET; its id and conf token are there to be overwritten."""
    builder = flatbuffers.Builder(1024)
    path_at = builder.CreateString(path)
    src_ip = builder.CreateByteVector(bytes([198, 51, 100, 23]))
    args_at, headers_at = _entries(builder, args), _entries(builder, headers)
    builder.StartObject(7)
    builder.PrependUint32Slot(0, 1, 0)
    builder.PrependUOffsetTRelativeSlot(1, src_ip, 0)
    builder.PrependUint8Slot(2, GET, 0)
    builder.PrependUOffsetTRelativeSlot(3, path_at, 0)
    builder.PrependUOffsetTRelativeSlot(4, args_at, 0)
    builder.PrependUOffsetTRelativeSlot(5, headers_at, 0)
    builder.PrependUint32Slot(6, 1, 0)
    return _frame(HTTP_REQ_CALL, builder, builder.EndObject())


def prepare_conf(plugin: str, conf: str = "{}") -> bytes:
    """PrepareConf.Req of a route that has one plugin."""
    builder = flatbuffers.Builder(256)
    key_at, conf_at = builder.CreateString(f"route#bench#{plugin}#1"), _entries(builder, [(plugin, conf)])
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, conf_at, 0)
    builder.PrependUOffsetTRelativeSlot(1, key_at, 0)
    return _frame(PREPARE_CONF, builder, builder.EndObject())


def extra_info(result: bytes = b"198.51.100.23") -> bytes:
    """ExtraInfo.Resp: what a variable holds."""
    builder = flatbuffers.Builder(64)
    result_at = builder.CreateByteVector(result)
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, result_at, 0)
    return _frame(EXTRA_INFO, builder, builder.EndObject())


def fixed_answer() -> bytes:
    """HTTPReqCall.Resp that sets one header, as the plugins do: what the floor says to everything."""
    builder = flatbuffers.Builder(256)
    headers_at = _entries(builder, [("x-runner", "python")])
    builder.StartObject(5)
    builder.PrependUOffsetTRelativeSlot(1, headers_at, 0)
    rewrite = builder.EndObject()
    builder.StartObject(3)
    builder.PrependUint32Slot(0, 1, 0)
    builder.PrependUint8Slot(1, REWRITE, 0)
    builder.PrependUOffsetTRelativeSlot(2, rewrite, 0)
    return _frame(HTTP_REQ_CALL, builder, builder.EndObject())


def main() -> None:
    """Write the frames into a folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frames", description="Write the benchmark's frames.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plugin", default="bench-quiet-sync", help="which plugin PrepareConf names  [%(default)s]")
    parser.add_argument("--conf", default="{}", help="its configuration  [%(default)s]")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (
        ("request", request()),
        ("prepare", prepare_conf(options.plugin, options.conf)),
        ("extra-info", extra_info()),
        ("answer", fixed_answer()),
    ):
        path = options.folder / f"{name}.bin"
        path.write_bytes(frame)
        print(f"{path}  {len(frame)} bytes")


if __name__ == "__main__":
    main()
