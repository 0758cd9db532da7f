"""What stands in for Lambda where functions do something: its Invoke API, function URLs and credential services.

Functions are Python, and what the API does around them (statuses, headers, error documents) is what Amazon documents of
Invoke. Signatures are not checked here; moto's server does that.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["LambdaServer"]

Headers = dict[str, str]
Reply = tuple[int, Headers, bytes]


class LambdaServer(ThreadingHTTPServer):
    """Serves until it's closed; `functions` gets an event and returns what a function would."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.functions: dict[str, Callable[[Any], Any]] = {}
        self.replies: list[Reply] = []
        """Answers to be given before any function is run."""
        self.seen: list[tuple[str, str, Headers, bytes]] = []
        self.connections = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LambdaServer

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def reply(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.command, self.path, headers, body))
        status, headers, content = self.server.replies.pop(0) if self.server.replies else self.answer(body)
        self.send_response(status)
        for name, value in headers.items():
            for each in value.split("\n"):
                self.send_header(name, each)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = reply

    def answer(self, body: bytes) -> Reply:
        path = urlsplit(self.path).path
        if path.startswith("/2015-03-31/functions/"):
            return self.invoke(unquote(path.split("/")[3]).partition(":")[0], body)
        if path in self.server.functions:  # credentials, or what else is got
            found = self.server.functions[path](body)
            return 200, {}, found.encode() if isinstance(found, str) else json.dumps(found).encode()
        return self.url(body)

    def invoke(self, name: str, body: bytes) -> Reply:
        function = self.server.functions.get(name)
        if function is None:
            why = {"Type": "User", "Message": f"Function not found: arn:aws:lambda:eu-west-1:1:function:{name}"}
            return 404, {"x-amzn-errortype": "ResourceNotFoundException"}, json.dumps(why).encode()
        if self.headers["x-amz-invocation-type"] == "Event":
            return 202, {}, b""
        headers = {"x-amz-executed-version": "$LATEST"}
        try:
            result = function(json.loads(body or b"null"))
        except Exception as error:
            result = {"errorMessage": str(error), "errorType": type(error).__name__, "stackTrace": ["/var/secret.py"]}
            headers["x-amz-function-error"] = "Unhandled"
        return 200, headers, json.dumps(result).encode()

    def url(self, body: bytes) -> Reply:
        result = self.server.functions["url"](
            {"path": self.path, "method": self.command, "body": body.decode("latin-1")}
        )
        headers = {
            "content-type": "text/plain",
            "x-amzn-requestid": "r",
            "set-cookie": "a=1\nb=2",
            "connection": "keep-alive",
        }
        return result["status"], headers, result["body"].encode()

    def log_message(self, *_: object) -> None:
        pass


def slow(seconds: float) -> Callable[[Any], Any]:
    def function(event: Any) -> Any:
        time.sleep(seconds)
        return "late"

    return function
