"""A real nginx with the lean plugin in it, and an upstream that tells what came."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatewright.lua_files import lua_directory

MODULES = Path("/usr/share/nginx/modules")

CONFIG = """
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
daemon off;
pid {directory}/pid;
error_log {directory}/error.log info;
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
    client_max_body_size 100m;
    large_client_header_buffers 16 32k;
    lua_package_path "{lua}/?.lua;;";
    {init}
    upstream echo {{ server unix:{directory}/echo.sock; keepalive 64; }}
    server {{
        listen unix:{directory}/front.sock;
        listen 127.0.0.1:{port};
        keepalive_requests 1000000;
        {locations}
    }}
    server {{
        listen unix:{directory}/echo.sock;
        keepalive_requests 1000000;
        location / {{
            client_body_buffer_size 64m;
            content_by_lua_block {{
                ngx.req.read_body()
                local body = ngx.req.get_body_data() or ""
                ngx.header["x-upstream"] = "echo"
                ngx.header["x-gone"] = "1"
                if ngx.var.http_x_status then
                    ngx.status = tonumber(ngx.var.http_x_status)
                end
                if ngx.var.http_x_body then
                    return ngx.print(ngx.var.http_x_body)
                end
                ngx.print(ngx.req.raw_header(), "\\0", body)
            }}
        }}
    }}
}}
"""

INIT = """
    init_by_lua_block {{
        local nginx = require("gatewright.nginx")
        local ways = {{
            pool = nginx.new({{ address = "unix:{socket}", threshold = false }}),
            mux = nginx.new({{ address = "unix:{socket}", threshold = 0 }}),
            usual = nginx.new({{ address = "unix:{socket}" }}),
            early = nginx.new({{ address = "unix:{socket}" }}),
            answer = nginx.new({{ address = "unix:{socket}" }}),
        }}
        local options = {{
            early = {{ header_filter = true, log = true }},
            answer = {{ upstream = "/upstream/", log = true }},
        }}
        local chains = {{}}
        function chain()
            local way, key = ngx.var.way, ngx.var.way .. (ngx.var.http_x_chain or "")
            if not chains[key] then
                local conf = {{}}
                for name, text in (ngx.var.http_x_chain or ""):gmatch("([^;=]+)=([^;]*)") do
                    conf[#conf + 1] = {{ name, ngx.unescape_uri(text) }}
                end
                chains[key] = ways[way]:chain("route of " .. (conf[1] and conf[1][1] or "none"), conf, options[way])
            end
            return chains[key]
        end
    }}
"""

IDLE = """
        location /idle {{
            content_by_lua_block {{
                local sock = ngx.socket.tcp()
                assert(sock:connect("unix:{socket}"))
                assert(sock:setkeepalive(60000, 64)) -- as whoever speaks another protocol at that socket
                ngx.say("left")
            }}
        }}
"""

LOCATION = """
        location /{way}/ {{
            set $way {way};
            access_by_lua_block {{ chain():access() }}
            header_filter_by_lua_block {{ chain():header_filter() }}
            log_by_lua_block {{ if ngx.var.way == "early" or ngx.var.way == "answer" then chain():log() end }}
            proxy_pass http://echo;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
        }}
"""


@dataclass
class Answer:
    """What the client got, and, in it, what the upstream saw."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    line: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)
    seen_body: bytes = b""

    def header(self, name: str) -> list[str]:
        return [value for given, value in self.headers if given.lower() == name]

    def saw(self, name: str) -> list[str]:
        return [value for given, value in self.seen if given.lower() == name]


class Nginx:
    """A running nginx."""

    def __init__(self, directory: Path, runner: Path, *, workers: int = 1, locations: str = "", init: str = "") -> None:
        assert shutil.which("nginx"), "nginx is needed: make for-tests"
        assert (MODULES / "ngx_http_lua_module.so").exists(), "libnginx-mod-http-lua is needed: make for-tests"
        self.directory = directory
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        ways = "".join(LOCATION.format(way=way) for way in ("pool", "mux", "usual", "early", "answer"))
        ways += "location /upstream/ { internal; proxy_pass http://echo/; proxy_http_version 1.1; }"
        ways += IDLE.format(socket=runner)
        config = directory / "nginx.conf"
        config.write_text(
            CONFIG.format(
                modules=MODULES, directory=directory, lua=lua_directory(), workers=workers, port=self.port,
                user="user root;" if os.getuid() == 0 else "", init=init or INIT.format(socket=runner),
                locations=locations or ways,
            )
        )  # fmt: skip
        self.output = directory / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                ["nginx", "-p", str(directory), "-c", str(config)], stdout=output, stderr=output
            )
        deadline = time.monotonic() + 10
        while not (directory / "pid").exists() or not (directory / "front.sock").exists():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    @property
    def log(self) -> str:
        return (self.directory / "error.log").read_text(errors="replace")

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.connect()
        return connection

    def ask(
        self,
        path: str,
        *plugins: str | tuple[str, Any],
        method: str = "GET",
        headers: list[tuple[str, str]] | None = None,
        body: bytes | None = None,
        connection: http.client.HTTPConnection | None = None,
    ) -> Answer:
        """Send a request through a chain of plugins; each a name, or a name and its configuration."""
        own = connection or self.connect()
        own.putrequest(method, path, skip_accept_encoding=True)
        pairs = [(plugin, {}) if isinstance(plugin, str) else plugin for plugin in plugins]
        chain = ";".join(f"{name}={_escaped(json.dumps(conf))}" for name, conf in pairs)
        own.putheader("X-Chain", chain)
        for name, value in headers or []:
            own.putheader(name, value)
        if body is not None:
            own.putheader("Content-Length", str(len(body)))
        own.endheaders(body)
        response = own.getresponse()
        content = response.read()
        if connection is None:
            own.close()
        answer = Answer(response.status, response.getheaders(), content)
        head, nul, answer.seen_body = content.partition(b"\0")
        if nul and answer.header("x-upstream"):
            answer.line, *lines = head.decode("utf-8", "surrogateescape").rstrip().split("\r\n")
            answer.seen = [(line.partition(": ")[0], line.partition(": ")[2]) for line in lines]
        return answer

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)


def _escaped(text: str) -> str:
    return "".join(char if char.isalnum() else "".join(f"%{byte:02x}" for byte in char.encode()) for char in text)
