"""`python -m benchmarks.gateway`: the lean path in Debian's nginx, beside no plugin and the same in Lua.

Contestants take turns in each round, so that a machine's moods hit all of them; medians are shown. nginx, the runner
and wrk share the machine, as gateway and runner do in life: what counts is processor time on both sides, and the share.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from gatewright.lua_files import lua_directory

HERE = Path(__file__).resolve().parent
MODULES = Path("/usr/share/nginx/modules")
BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: text/html,application/xhtml+xml,*/*;q=0.8", "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br", "Cookie: session=8f14e45fceea167a; theme=dark",
    "Referer: https://shop.example.com/catalog", "Cache-Control: max-age=0", "X-Request-Id: 6f1c2a70-2b5e",
)  # fmt: skip
CONTESTANTS = {
    "plain": "no plugin",
    "lua": "one header, in Lua",
    "pool": "one header, a connection per call",
    "mux": "one header, calls share connections",
    "usual": "one header, as it comes",
    "all": "all headers looked at",
    "waits": "an async handler that waits 1 ms",
    "body": "a body of 1 KiB read (POST)",
    "plain-response": "no plugin, header set by add_header",
    "early": "response header, decided early",
    "capture": "the answer passed through Lua",
    "answer": "response header, answer in hand",
}
CONFIG = """
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
daemon off;
pid {directory}/pid;
error_log {directory}/error.log error;
worker_processes {workers};
worker_rlimit_nofile 4096;
{user}
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    lua_package_path "{lua}/?.lua;;";
    init_by_lua_block {{
        local new = require("gatewright.nginx").new
        local usual = new({{ address = "unix:{socket}" }})
        chains = {{
            pool = new({{ address = "unix:{socket}", threshold = false }}):chain("pool", {{ {{ "lean-one-header" }} }}),
            mux = new({{ address = "unix:{socket}", threshold = 0 }}):chain("mux", {{ {{ "lean-one-header" }} }}),
            usual = usual:chain("usual", {{ {{ "lean-one-header" }} }}),
            all = usual:chain("all", {{ {{ "lean-all-headers" }} }}),
            waits = usual:chain("waits", {{ {{ "lean-waits" }} }}),
            body = usual:chain("body", {{ {{ "lean-body" }} }}),
            early = usual:chain("early", {{ {{ "lean-early" }} }}, {{ header_filter = true }}),
            answer = usual:chain("answer", {{ {{ "lean-answer" }} }}, {{ upstream = "/upstream/" }}),
        }}
    }}
    upstream backend {{ server unix:{directory}/backend.sock; keepalive 256; keepalive_requests 100000000; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    server {{
        listen unix:{directory}/front.sock;
        listen 127.0.0.1:{port};
        keepalive_requests 100000000;
        location /plain {{ proxy_pass http://backend; }}
        location /plain-response {{ add_header x-runner nginx; proxy_pass http://backend; }}
        location /lua {{
            access_by_lua_block {{
                if ngx.req.get_headers(0)["user-agent"] then
                    ngx.req.set_header("x-runner", "lua")
                end
            }}
            proxy_pass http://backend;
        }}
        location /upstream/ {{ internal; proxy_pass http://backend/; }}
        location /capture {{
            content_by_lua_block {{
                local got = ngx.location.capture("/upstream/capture")
                for name, value in pairs(got.header) do ngx.header[name] = value end
                ngx.print(got.body)
            }}
        }}
        {locations}
    }}
    server {{
        listen unix:{directory}/backend.sock;
        keepalive_requests 100000000;
        location / {{ return 200 "ok"; }}
    }}
}}
"""
LOCATION = """
        location /{name} {{
            access_by_lua_block {{ chains["{name}"]:access() }}
            {filter}
            proxy_pass http://backend;
        }}
"""
FILTER = 'header_filter_by_lua_block { chains["early"]:header_filter() }'
CHAINS = ("pool", "mux", "usual", "all", "waits", "body", "early", "answer")


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(other for child in children for other in family(int(child)))]


def processor_seconds(pids: list[int]) -> float:
    """Processor time of all threads so far."""
    nanoseconds = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def start(stack: ExitStack, command: list[str], ready: Path) -> subprocess.Popen[bytes]:
    """Start a server, and wait until its file is there."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    deadline = time.monotonic() + 30
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{' '.join(command)} did not start")
        time.sleep(0.05)
    return process


def turn(url: str, connections: int, seconds: int, script: Path | None) -> tuple[int, float, str, str, int]:
    """Requests, requests a second, p50, p99, failures."""
    headers = [part for header in BROWSER for part in ("-H", header)]
    command = ["wrk", "-c", str(connections), "-t", "1", "-d", f"{seconds}s", "--latency", *headers]
    command += ["-s", str(script)] if script is not None else []
    said = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    total, rate = re.search(r"(\d+) requests in", said), re.search(r"Requests/sec:\s+([\d.]+)", said)
    half, most = re.search(r"50%\s+(\S+)", said), re.search(r"99%\s+(\S+)", said)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    if total is None or rate is None or half is None or most is None:
        sys.exit(f"wrk said:\n{said}")
    return int(total[1]), float(rate[1]), half[1], most[1], int(failed[1]) if failed else 0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--workers", default="1", help="of the runner")
    parser.add_argument("--nginx-workers", type=int, default=1)
    parser.add_argument("--port", type=int, default=18790)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    args = parser.parse_args()
    for needed, package in (("wrk", "wrk"), ("nginx", "nginx libnginx-mod-http-lua")):
        if shutil.which(needed) is None:
            sys.exit(f"{needed} is needed (Debian: apt-get install {package})")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o755)
        socket = directory / "runner.sock"
        command = [sys.executable, "-m", "gatewright", "run", "--listen", f"unix:{socket}", "--no-installed-plugins"]
        command += ["-p", str(HERE / "plugins" / "lean.py"), "--workers", args.workers, "--log-level", "error"]
        runner = start(stack, command, socket)
        post = directory / "post.lua"
        post.write_text('wrk.method = "POST"\nwrk.body = string.rep("x", 1024)\n')
        config = directory / "nginx.conf"
        locations = "".join(LOCATION.format(name=name, filter=FILTER if name == "early" else "") for name in CHAINS)
        config.write_text(
            CONFIG.format(
                modules=MODULES, directory=directory, lua=lua_directory(), socket=socket, port=args.port,
                workers=args.nginx_workers, locations=locations, user="user root;" if os.getuid() == 0 else "",
            )
        )  # fmt: skip
        nginx = start(stack, ["nginx", "-p", str(directory), "-c", str(config)], directory / "front.sock")
        time.sleep(1)
        for connections in args.connections:
            measure(args, connections, nginx.pid, runner.pid, post)


def measure(args: argparse.Namespace, connections: int, nginx: int, runner: int, post: Path) -> None:
    """All contestants with so many connections."""
    results: dict[str, list[tuple[float, float, float, str, str]]] = {name: [] for name in args.only}
    failures = 0
    for name in args.only:  # warm: what calls bring has been learnt
        turn(f"http://127.0.0.1:{args.port}/{name}", connections, 1, post if name == "body" else None)
    for _ in range(args.rounds):
        for name in args.only:
            before = processor_seconds(family(nginx)), processor_seconds(family(runner))
            script = post if name == "body" else None
            total, rate, half, most, failed = turn(
                f"http://127.0.0.1:{args.port}/{name}", connections, args.seconds, script
            )
            after = processor_seconds(family(nginx)), processor_seconds(family(runner))
            spent = [(late - early) / total * 1e6 for early, late in zip(before, after, strict=True)]
            results[name].append((rate, spent[0], spent[1], half, most))
            failures += failed
    print(f"\n{connections} connections, {args.workers} runner worker(s), {args.nginx_workers} of nginx's")
    print(f"{'':42}{'req/s':>8}{'of plain':>9}{'nginx us':>9}{'runner us':>10}{'p50':>9}{'p99':>9}")
    plain = [rate for rate, *_ in results.get("plain", [])]
    for name, rounds in results.items():
        rates = [rate for rate, *_ in rounds]
        share = statistics.median(a / b for a, b in zip(rates, plain, strict=True)) if plain else float("nan")
        middle = sorted(rounds)[len(rounds) // 2]
        print(
            f"{CONTESTANTS[name]:42}{statistics.median(rates):8.0f}{share:9.2f}"
            f"{statistics.median(each[1] for each in rounds):9.1f}{statistics.median(each[2] for each in rounds):10.1f}"
            f"{middle[3]:>9}{middle[4]:>9}"
        )
    if failures:
        sys.exit(f"{failures} requests failed")


if __name__ == "__main__":
    main()
