"""A local identity provider: a JWK set that changes, OIDC discovery and token introspection, over a real socket."""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from tests.plugins.jwt_auth.tokens import public_jwk

__all__ = ["IdentityProvider"]


class IdentityProvider:
    """The provider; its attributes may be changed at any time.

    Attributes:
        keys: the JWK set's.
        active: the claims of opaque tokens.
        fails: every question is answered with 500.
        cache_control: of the JWK set's answer.
        asked: the paths of all questions so far.
        release: questions wait for this.
    """

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [public_jwk("RS256", kid="one")]
        self.active: dict[str, dict[str, Any]] = {}
        self.fails = False
        self.cache_control = ""
        self.issuer_told = ""
        self.answer: bytes | None = None
        self.asked: list[str] = []
        self.forms: list[dict[str, list[str]]] = []
        self.client = "gateway:s:ecret"
        self.release = threading.Event()
        self.release.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def count(self, path: str) -> int:
        return sum(asked == path for asked in self.asked)

    def rotate(self, *numbers: int) -> None:
        """Have these keys: `one` is number 0, `two` is number 1, ..."""
        names = ["one", "two", "three", "four"]
        self.keys = [public_jwk("RS256", number, kid=names[number]) for number in numbers]

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                provider.asked.append(self.path)
                provider.release.wait(10)
                if provider.fails:
                    self._send(500, {"error": "as meant"})
                elif self.path == "/jwks":
                    self._send(200, {"keys": provider.keys})
                elif self.path == "/.well-known/openid-configuration":
                    issuer = provider.issuer_told or provider.url
                    self._send(200, {"issuer": issuer, "jwks_uri": f"{provider.url}/jwks"})
                elif self.path == "/moved":
                    self._send(302, {}, location="/jwks")
                else:
                    self._send(404, {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                provider.asked.append(self.path)
                provider.forms.append(form := parse_qs(body))
                provider.release.wait(10)
                scheme, _, credentials = self.headers.get("authorization", "").partition(" ")
                known = scheme == "Basic" and b64decode(credentials).decode() == "gateway:s%3Aecret"
                known = known or form.get("client_secret") == ["s:ecret"]
                if provider.fails:
                    self._send(500, {"error": "as meant"})
                elif not known:
                    self._send(401, {"error": "invalid_client"})
                else:
                    claims = provider.active.get(form["token"][0])
                    self._send(200, {"active": False} if claims is None else {"active": True, **claims})

            def _send(self, status: int, document: Any, **headers: str) -> None:
                raw = provider.answer if provider.answer is not None else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(raw)))
                if provider.cache_control:
                    self.send_header("cache-control", provider.cache_control)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
