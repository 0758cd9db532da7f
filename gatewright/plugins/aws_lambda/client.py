"""Asking Lambda: connections that are kept, time limits, and further tries where they can't run a function twice."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp
import msgspec
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gatewright import PluginError
from gatewright.plugins._shared.proxies import proxy_of
from gatewright.plugins.aws_lambda.signing import Signer

if TYPE_CHECKING:
    from gatewright.plugins.aws_lambda.options import AwsLambdaConfig

__all__ = ["Answer", "LambdaClient", "LambdaDownError", "ThrottledError"]

_MOST_ANSWER: Final = 32 << 20
"""Bytes; Lambda's own limit is 6 MB, or 20 MB from a function's URL."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_THROTTLED: Final = (429, 503)
_FAILED: Final = (500, 502, 504)


class LambdaDownError(PluginError):
    """Lambda can't be reached, or failed itself."""


class ThrottledError(PluginError):
    """Lambda takes no more calls now."""

    def __init__(self, text: str, after: float) -> None:
        super().__init__(text)
        self.after = after


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def why(self) -> str:
        """What Lambda says of an error."""
        kind = self.headers.get("x-amzn-errortype", "").partition(":")[0]
        try:
            document = msgspec.json.decode(self.body)
            text = document.get("Message") or document.get("message") or ""
        except (msgspec.DecodeError, AttributeError):
            text = ""
        return f"{self.status} {kind} {str(text)[:300]}".strip()


class LambdaClient:
    """Asks the Lambda API, or a function's URL."""

    def __init__(self, config: AwsLambdaConfig, signer: Signer) -> None:
        self._config = config
        self._signer = signer
        self._proxy = proxy_of(signer.endpoint)
        self._is_signed = not config.function_url or config.function_url_auth == "iam"
        secure = ssl.create_default_context(cafile=config.ca_file or None)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=config.max_connections, ssl=secure, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("user-agent", "accept", "accept-encoding", "content-type"),
        )

    async def ask(self, method: str, path: str, headers: Mapping[str, str] | CIMultiDict[str], body: bytes) -> Answer:
        """Have an answer, after several tries if need be.

        Args:
            method: of HTTP.
            path: with the query, escaped.
            headers: to be sent; all of them are signed, so they have to be of one value each.
            body: to be sent.

        Raises:
            TimeoutError: it took too long in all.
            ThrottledError: Lambda was throttling to the last.
            LambdaDownError: it can't be reached, or failed.
            CredentialsError: nothing to sign with.
        """
        config, tries = self._config, 0
        async with asyncio.timeout(config.timeout):
            while True:
                problem, answer = await self._try(method, path, headers, body)
                if problem is None and answer is not None:
                    return answer
                if problem is None or tries >= config.retries or not self._may_be_tried_again(answer):
                    raise problem or LambdaDownError("no answer")
                pause = _pause(tries, answer)
                tries += 1
                await asyncio.sleep(pause)

    async def _try(
        self, method: str, path: str, headers: Mapping[str, str] | CIMultiDict[str], body: bytes
    ) -> tuple[PluginError | None, Answer | None]:
        url = self._signer.endpoint + path
        sent = await self._signer.signed(method, url, headers, body) if self._is_signed else headers
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                data=body or None,
                headers=sent,
                allow_redirects=False,
                proxy=self._proxy,
            ) as response:
                answer = Answer(response.status, response.headers, await _bounded(response))
        except aiohttp.ClientConnectorError as error:
            return LambdaDownError(f"Lambda can't be reached: {error}"), None
        except (aiohttp.ClientError, OSError) as error:  # it may have got the request
            raise LambdaDownError(f"Lambda gave no answer: {type(error).__name__}: {error}") from None
        if self._config.function_url:
            return None, answer  # whose status is the function's
        if answer.status in _THROTTLED:
            return ThrottledError(f"Lambda throttles: {answer.why}", _after(answer) or 1.0), answer
        if answer.status in _FAILED:
            return LambdaDownError(f"Lambda failed: {answer.why}"), answer
        return None, answer

    def _may_be_tried_again(self, answer: Answer | None) -> bool:
        return answer is None or answer.status in _THROTTLED or self._config.retry_errors

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > _MOST_ANSWER:
            raise PluginError(f"the function's answer has more than {_MOST_ANSWER} bytes")
    return bytes(body)


def _after(answer: Answer | None) -> float:
    text = answer.headers.get("retry-after", "") if answer is not None else ""
    return float(text) if text.isascii() and text.isdecimal() else 0.0


def _pause(tries: int, answer: Answer | None) -> float:
    """Seconds until the next try: any time up to a limit that doubles, so that not all come back at once."""
    limit = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**tries)
    return max(random.uniform(0, limit), min(_after(answer), _LONGEST_PAUSE))  # noqa: S311 - no secret
