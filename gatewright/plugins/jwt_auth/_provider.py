"""Speaking with the identity provider: a JWK set, OIDC discovery, token introspection. JSON over HTTPS, with limits."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import quote_plus, urlsplit

import aiohttp

from gatewright import ConfigError
from gatewright.plugins._shared.proxies import proxy_of

__all__ = ["Provider", "ProviderError", "check_url"]

_MOST_BYTES: Final = 1 << 20
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)


class ProviderError(Exception):
    """The provider didn't give a usable answer; says what it did give."""


def check_url(url: str, field: str) -> str:
    """See that a URL is one that may be asked: HTTPS, or HTTP on this machine itself.

    Raises:
        ConfigError: it isn't; names the field.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise ConfigError(f"{field} is not a URL: {url!r}") from None
    if parts.scheme == "https" and host:
        return url
    if parts.scheme == "http" and (host == "localhost" or _is_loopback(host)):
        return url
    raise ConfigError(f"{field} is to be an https:// URL (http:// only on this machine itself), not {url!r}")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Provider:
    """A client of the provider's, for one configuration. It follows no redirects: they would change whom one trusts."""

    def __init__(self, timeout: float) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None

    async def get_json(self, url: str) -> tuple[Any, float | None]:
        """A document, and for how many seconds it may be kept, if that is said.

        Raises:
            ProviderError: there was no answer in time, or another than 200 with JSON.
        """
        return await self._ask("GET", url, None, {"accept": "application/json, application/jwk-set+json"})

    async def post_form(self, url: str, fields: dict[str, str], *, client: tuple[str, str] | None) -> Any:
        """The answer to a form.

        Args:
            url: where it is sent.
            fields: the form.
            client: id and secret, for HTTP Basic (RFC 6749, 2.3.1: both are form-encoded first).

        Raises:
            ProviderError: there was no answer in time, or another than 200 with JSON.
        """
        headers = {"accept": "application/json"}
        if client is not None:
            credentials = f"{quote_plus(client[0])}:{quote_plus(client[1])}".encode()
            headers["authorization"] = f"Basic {b64encode(credentials).decode()}"
        return (await self._ask("POST", url, fields, headers))[0]

    async def discover(self, issuer: str) -> str:
        """The URL of an issuer's keys (OpenID Connect Discovery 1.0, 4).

        Raises:
            ProviderError: it isn't told, or by somebody who isn't that issuer.
        """
        url = issuer.rstrip("/") + "/.well-known/openid-configuration"
        document, _ = await self.get_json(url)
        if not isinstance(document, dict) or document.get("issuer") != issuer:
            raise ProviderError(f"{url} is not about the issuer {issuer!r}")
        keys = document.get("jwks_uri")
        try:
            return check_url(keys if isinstance(keys, str) else "", "jwks_uri")
        except ConfigError as error:
            raise ProviderError(f"{url}: {error}") from None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(
        self, method: str, url: str, form: dict[str, str] | None, headers: dict[str, str]
    ) -> tuple[Any, float | None]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar())
        where = url.partition("?")[0]
        try:
            async with self._session.request(
                method, url, data=form, headers=headers, allow_redirects=False, proxy=proxy_of(url)
            ) as answer:
                if answer.status != 200:
                    raise ProviderError(f"{where} answered {answer.status}")
                raw = await _limited(answer.content)
                max_age = _MAX_AGE.search(answer.headers.get("cache-control", ""))
        except TimeoutError:
            raise ProviderError(f"{where} did not answer in time") from None
        except aiohttp.ClientError as error:
            raise ProviderError(f"{where}: {type(error).__name__}: {error}") from None
        if raw is None:
            raise ProviderError(f"{where} answered with more than {_MOST_BYTES} bytes")
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError):
            raise ProviderError(f"{where} answered with something that is not JSON") from None
        return document, float(max_age[1]) if max_age else None


async def _limited(content: aiohttp.StreamReader) -> bytes | None:
    chunks, size = [], 0
    async for chunk in content.iter_any():
        size += len(chunk)
        if size > _MOST_BYTES:
            return None
        chunks.append(chunk)
    return b"".join(chunks)
