"""The shared conformance table: plugins and requests, and what comes of them, whoever asks and however.

`python -m tests.lean.at_a_gateway` runs it at real gateways.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["CASES", "Case", "Outcome"]


@dataclass
class Outcome:
    """What came of a request: what the client got, and what the upstream saw (nothing if it was not asked)."""

    status: int = 200
    got: dict[str, list[str]] = field(default_factory=dict)
    target: str = ""
    saw: dict[str, list[str]] = field(default_factory=dict)
    body: bytes = b""
    """That the upstream saw."""
    answer: bytes | None = None
    """The client's body, where it isn't the upstream's."""


@dataclass
class Case:
    """A plugin's code, a request, and what has to come of it.

    Attributes:
        code: of the request phase.
        response: of the response phase; then there is no other.
    """

    name: str
    code: str
    outcome: Outcome
    target: str = "/x"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    response: str = ""

    @property
    def plugin(self) -> tuple[str, str]:
        """The plugin's name, and its code."""
        return ("conform-response", self.response) if self.response else ("conform", self.code)


CASES = (
    Case("nothing", "pass", Outcome(target="/x?a=%41&b=1"), target="/x?a=%41&b=1"),
    Case("a header is set", "request.headers['X-New'] = 'ü'", Outcome(target="/x", saw={"x-new": ["ü"]})),
    Case("a header is replaced", "request.headers['x-a'] = '2'", Outcome(target="/x", saw={"x-a": ["2"]}),
         headers=(("x-a", "1"),)),
    Case("a header is deleted", "del request.headers['x-a']", Outcome(target="/x", saw={"x-a": []}),
         headers=(("x-a", "1"),)),
    Case("what is not there is deleted", "request.headers.discard('x-a')", Outcome(target="/x", saw={"x-a": []})),
    Case("another path", "request.path = '/new path/ä'", Outcome(target="/new%20path/%C3%A4?a=1"), target="/x?a=1"),
    Case("an argument is set", "request.query['b'] = '2 3'", Outcome(target="/x?a=1&b=2%203"), target="/x?a=1"),
    Case("the only argument is deleted", "del request.query['a']", Outcome(target="/x"), target="/x?a=1"),
    Case("a body is read", "request.headers['x-size'] = str(len(request.body()))",
         Outcome(target="/x", saw={"x-size": ["5"]}, body=b"12345"), method="POST", body=b"12345"),
    Case("a body is replaced", "request.set_body(b'longer than it was')",
         Outcome(target="/x", saw={"content-length": ["18"]}, body=b"longer than it was"), method="PUT", body=b"short"),
    Case("the client is answered", "return Response(403, {'x-why': 'because'}, b'no')",
         Outcome(status=403, got={"x-why": ["because"]}, answer=b"no")),
    Case("a header for the client", "request.response_headers['x-more'] = '1'",
         Outcome(target="/x", got={"x-more": ["1"]})),
    Case("a variable is asked for", "request.headers['x-uri'] = request.var('request_method')",
         Outcome(target="/x", saw={"x-uri": ["DELETE"]}), method="DELETE"),
    Case("the address and a header are looked at",
         "request.headers['x-facts'] = f\"{request.client_ip} {request.headers['x-a']} {'x-b' in request.headers}\"",
         Outcome(target="/x", saw={"x-facts": ["127.0.0.1 1 False"]}), headers=(("x-a", "1"),)),
    Case("the plugin raises", "1/0", Outcome(status=503)),
    Case("a header of the response is set", "", Outcome(target="/x", got={"x-b": ["2"], "x-upstream": ["echo"]}),
         response="response.headers['x-b'] = '2'"),
    Case("a header of the response is deleted", "", Outcome(target="/x", got={"x-gone": []}),
         response="del response.headers['x-gone']"),
    Case("the status is looked at and changed", "", Outcome(status=418, target="/x", got={"x-was": ["200"]}),
         response="response.headers['x-was'] = str(response.status); response.status = 418"),
    Case("the body of the response is replaced", "", Outcome(target="/x", got={"x-size": ["True"]}, answer=b"other"),
         response="response.headers['x-size'] = str(len(response.body()) > 10); response.set_body(b'other')"),
    Case("the plugin raises in the response phase", "", Outcome(status=503, target="/x"),
         response="1/0"),
)  # fmt: skip
