"""**aws-lambda**: a function of AWS Lambda answers the request."""

from __future__ import annotations

import asyncio
import secrets
from typing import Final
from urllib.parse import quote

from gatewright import NotAvailableError, Plugin, PluginError, Request, Response
from gatewright.plugins._shared.breaker import CircuitBreaker
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.extras import extra
from gatewright.plugins._shared.targets import target_to_pass_on
from gatewright.plugins.aws_lambda.answers import HOP_BY_HOP, BadAnswerError, answer_of
from gatewright.plugins.aws_lambda.events import as_text, event_v1, event_v2
from gatewright.plugins.aws_lambda.options import AwsLambdaConfig

with extra("aws-lambda", plugin="aws-lambda"):
    from gatewright.plugins.aws_lambda.client import Answer, LambdaClient, LambdaDownError, ThrottledError
    from gatewright.plugins.aws_lambda.signing import CredentialsError, Signer, signable

__all__ = ["AwsLambda"]

_NOT_PASSED_ON: Final = HOP_BY_HOP | {"host", "content-length", "expect", "x-forwarded-host"}
"""What is not sent to a function's URL."""


class AwsLambda(Plugin[AwsLambdaConfig]):
    """Has functions of AWS Lambda answer requests."""

    name = "aws-lambda"
    version = "1.0.0"
    priority = 750

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        self._breaker = CircuitBreaker()
        self._calls = counter("aws_lambda_calls", "Calls of functions, by what came of them.", ["result"])
        self._signer = Signer(self.config)
        self._client: LambdaClient | None = None

    async def setup(self) -> None:
        """Find region and keys, and make the connection pool."""
        await asyncio.to_thread(self._signer.find)
        self._client = LambdaClient(self.config, self._signer)

    async def teardown(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def on_request(self, request: Request) -> Response:
        """Ask the function."""
        try:
            body = await request.body()
        except NotAvailableError as error:
            return self._refused(413, "Content Too Large", "too large", error)
        if len(body) > self.config.max_body:
            return self._refused(413, "Content Too Large", "too large")
        if not self._breaker.allows():
            return self._refused(503, "Service Unavailable", "left alone", after=self._breaker.retry_after)
        try:
            answer = await (self._pass_on(request, body) if self.config.function_url else self._invoke(request, body))
        except TimeoutError:
            self._breaker.failed()
            return self._refused(504, "Endpoint request timed out", "timeout", "no answer in time")
        except LambdaDownError as error:
            self._breaker.failed()
            return self._refused(502, "Bad Gateway", "down", error)
        except PluginError as error:
            self._breaker.succeeded()  # it is there, whatever it says
            if isinstance(error, ThrottledError):
                return self._refused(503, "Service Unavailable", "throttled", error, after=error.after)
            if isinstance(error, BadAnswerError):
                return self._refused(502, "Bad Gateway", "bad answer", error)
            if isinstance(error, CredentialsError):
                return self._refused(502, "Bad Gateway", "no credentials", error)
            raise
        self._breaker.succeeded()
        return answer

    async def _invoke(self, request: Request, body: bytes) -> Response:
        own = self.config
        is_event = own.invocation == "event"
        path = f"/2015-03-31/functions/{quote(own.function, safe='')}/invocations"
        if own.qualifier:
            path += f"?Qualifier={quote(own.qualifier, safe='')}"
        headers = {
            "content-type": "application/json",
            "x-amz-invocation-type": "Event" if is_event else "RequestResponse",
            "x-amz-log-type": "None",
        }
        answer = await self._ask("POST", path, headers, await self._event(request, body))
        if answer.status not in (200, 202, 204):
            # What is wrong is wrong here (name, rights, form), and of no use to the client.
            return self._refused(413 if answer.status == 413 else 502, "Bad Gateway", "refused", answer.why)
        failed = answer.headers.get("x-amz-function-error")
        if failed:
            return self._refused(502, "Internal Server Error", "function failed", f"{failed}: {answer.body[:500]!r}")
        self._calls.add("taken" if is_event else "answered")
        return Response(202) if is_event else answer_of(answer.body, own.payload)

    async def _event(self, request: Request, body: bytes) -> bytes:
        if self.config.payload == "body":
            return body
        said = request.headers.get("x-forwarded-proto", "")
        scheme = said if said in ("http", "https") else await request.var("scheme") or "http"
        request_id = request.headers.get("x-request-id") or secrets.token_hex(16)
        facts = {"scheme": scheme, "request_id": request_id, "stage": self.config.stage, "api": request.route}
        if self.config.payload == "v1":
            return event_v1(request, body, **facts)
        return event_v2(request, body, await target_to_pass_on(request), **facts)

    async def _pass_on(self, request: Request, body: bytes) -> Response:
        path, query = await target_to_pass_on(request)
        if self.config.function_url_auth == "iam":
            query = signable(query)
        path += f"?{query}" if query else ""
        answer = await self._ask(request.method, path, self._headers(request), body)
        kind = answer.headers.get("x-amzn-errortype")
        if kind is not None and answer.status == 429:
            return self._refused(503, "Service Unavailable", "throttled", answer.why, after=1.0)
        if kind is not None and answer.status >= 400:  # not the function's own: it failed, or we may not call it
            return self._refused(502, "Internal Server Error", "refused", answer.why)
        self._calls.add("answered")
        sent = [(name.lower(), value) for name, value in answer.headers.items()]
        own = HOP_BY_HOP | {"content-length"}
        return Response(answer.status, [pair for pair in sent if pair[0] not in own], answer.body)

    def _headers(self, request: Request) -> dict[str, str]:
        """What goes on to a function's URL: one value a name, since all are signed."""
        left_out = _NOT_PASSED_ON | {
            name.strip().lower() for line in request.headers.get_all("connection") for name in line.split(",")
        }
        if self.config.function_url_auth == "iam":
            left_out |= {"authorization"}  # that is the signature's place
        headers: dict[str, str] = {}
        for name, value in request.headers.multi_items():
            if name not in left_out:
                joint = "; " if name == "cookie" else ", "
                headers[name] = f"{headers[name]}{joint}{as_text(value)}" if name in headers else as_text(value)
        before = headers.get("x-forwarded-for")
        headers["x-forwarded-for"] = f"{before}, {request.client_ip}" if before else request.client_ip
        return headers

    async def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        client = self._client
        assert client is not None  # noqa: S101 - it's set up before it's called
        return await client.ask(method, path, headers, body)

    def _refused(
        self, status: int, text: str, result: str, why: PluginError | str | None = None, *, after: float | None = None
    ) -> Response:
        """An answer that tells nothing of the inside; the log does."""
        self._calls.add(result)
        if why is not None:
            self.log.error("%s: %s", result, why)
        headers = {} if after is None else {"retry-after": str(max(1, round(after)))}
        return Response.json({"message": text}, status, headers)
