"""Real processes for tests: `gatewright dev` on free ports, and an upstream that notes what it gets."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

from gatewright.datastructures import Headers
from gatewright.errors import GatewrightError
from gatewright.http import Response
from gatewright.testing.messages import UpstreamRequest, response_of

__all__ = ["FakeUpstream", "Gateway", "HttpAnswer"]

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 15.0


class HttpAnswer:
    """An answer over HTTP: `status`, `headers`, `body`, `text`."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status, self.headers, self.body = status, Headers(headers), body

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")


class Gateway:
    """A `gatewright dev` in processes of its own.

    Attributes:
        url: where it listens, without a path.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], log: Path, directory: tempfile.TemporaryDirectory[str]
    ) -> None:
        self._process, self._log, self._directory = process, log, directory
        self.url = ""

    @classmethod
    def start(
        cls,
        *arguments: Any,
        upstream: str = "",
        record: Path | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Gateway:
        """Start one and wait until it listens.

        Args:
            arguments: as for `gatewright dev`: places of plugins, and flags such as `--gateway`, `kong`.
            upstream: a URL; by default the built-in echo.
            record: a file to write each request's record to.
            environ: more for its environment.
            cwd: its working directory.

        Raises:
            GatewrightError: it ended, or didn't listen in time; the message has its log.
        """
        more = ["--upstream", upstream] if upstream else []
        more += ["--record", str(record)] if record is not None else []
        directory = tempfile.TemporaryDirectory(prefix="gatewright-test-")
        log = Path(directory.name) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "gatewright", "dev", "--port", "0", "--no-inspect", *more, *map(str, arguments)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd, env={**os.environ, **(environ or {})},
            )  # fmt: skip
        self = cls(process, log, directory)
        deadline = time.monotonic() + _START_SECONDS
        while "curl -i " not in self.log:
            if process.poll() is not None or time.monotonic() > deadline:
                said = self.log
                self.stop()
                raise GatewrightError(f"gatewright dev does not listen:\n{said}")
            time.sleep(0.02)
        self.url = "/".join(self.log.partition("curl -i ")[2].split()[0].split("/")[:3])
        return self

    @property
    def log(self) -> str:
        """What gateway and runner have said so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: bytes | str | None = None
    ) -> HttpAnswer:
        """Send a request; redirects are not followed."""
        data = body.encode() if isinstance(body, str) else body
        asked = urllib.request.Request(self.url + path, data, dict(headers or {}), method=method)  # noqa: S310 - ours
        try:
            with _OPENER.open(asked, timeout=30) as answer:
                return HttpAnswer(answer.status, answer.headers.items(), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return HttpAnswer(error.code, list(error.headers.items()), error.read())

    def get(self, path: str, **how: Any) -> HttpAnswer:
        """Send a GET; see `request`."""
        return self.request("GET", path, **how)

    def post(self, path: str, **how: Any) -> HttpAnswer:
        """Send a POST; see `request`."""
        return self.request("POST", path, **how)

    def stop(self) -> None:
        """Stop it and its runner."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._directory.cleanup()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))


class FakeUpstream:
    """An HTTP server on loopback.

    Attributes:
        url: where it listens.
        requests: what it got, in order.
    """

    def __init__(self) -> None:
        self.requests: list[UpstreamRequest] = []
        self._answer: Callable[[UpstreamRequest], Any] = lambda _: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                super().handle_one_request()

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self._serve
                raise AttributeError(name)

            def _serve(self) -> None:
                outer._serve(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def answer(self, answer: Callable[[UpstreamRequest], Any] | Response | Any) -> None:
        """Say what it answers from now on: a function of the request, or what such a function would return."""
        self._answer = answer if callable(answer) and not isinstance(answer, Response) else lambda _: answer

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        request = UpstreamRequest(handler.command, handler.path, Headers(handler.headers.items()), body)
        self.requests.append(request)
        response = response_of(self._answer(request))
        handler.send_response_only(response.status)
        for name, value in response.headers.multi_items():
            handler.send_header(name, value)
        content = b"" if response.status in (204, 304) or handler.command == "HEAD" else response.content
        if "content-length" not in response.headers and response.status not in (204, 304):
            handler.send_header("content-length", str(len(response.content)))
        handler.end_headers()
        handler.wfile.write(content)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
