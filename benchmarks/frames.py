"""The frames that the load generator sends: a browser's request as APISIX passes it on, made by the oracle."""

from __future__ import annotations

from pathlib import Path

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


def request() -> bytes:
    """An HTTPReqCall of about 900 bytes."""
    return oracle.http_req_call(
        id=1, conf_token=1, src_ip=bytes((192, 0, 2, 7)), method=0, path="/catalogue/items", args=ARGS, headers=HEADERS
    )


def write(directory: Path, plugins: list[str]) -> dict[str, Path]:
    """Write the request, an ExtraInfo answer, and a PrepareConf for each plugin."""
    directory.mkdir(parents=True, exist_ok=True)
    frames = {"request": request(), "answer": oracle.extra_info_result(b"192.0.2.7")}
    for plugin in plugins:
        frames[plugin] = oracle.prepare_conf(f"route#{plugin}#ext-plugin-pre-req#1", [(plugin, "{}")])
    paths = {}
    for name, frame in frames.items():
        paths[name] = directory / f"{name}.bin"
        paths[name].write_bytes(frame)
    return paths
