"""Requests as API Gateway's HTTP APIs hand them to functions: payload formats 2.0 and 1.0.

The formats are those of Amazon's "Working with AWS Lambda proxy integrations for HTTP APIs". What an HTTP API would
know and a gateway of one's own doesn't (accounts, authorizers, certificates) is left out, or `null` where the format
says so.

`rawPath` is as the client sent it, as functions get it behind their own URLs; an HTTP API decodes it, so that `/a%2Fb`
can't be told from `/a/b` there. `path` of format 1.0 is decoded, and `rawQueryString` as it was sent, behind all.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gatewright import Request

__all__ = ["as_text", "event_v1", "event_v2", "is_text"]

_TEXT_TYPES: Final = tuple(f"application/{kind}" for kind in ("json", "javascript", "xml", "x-www-form-urlencoded"))
_DAYS: Final = "%d/%b/%Y:%H:%M:%S +0000"


def as_text(value: str) -> str:
    """Text that JSON can hold: bytes that are no UTF-8 as Latin-1, which is what HTTP once meant them to be."""
    raw = value.encode("utf-8", "surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def is_text(content_type: str, content_encoding: str) -> bool:
    """Whether a body of this type goes as text, if it is UTF-8."""
    kind = content_type.partition(";")[0].strip().lower()
    is_textual = not kind or kind.startswith("text/") or kind in _TEXT_TYPES or kind.endswith(("+json", "+xml"))
    return is_textual and content_encoding.lower() in ("", "identity")


def _body(request: Request, body: bytes) -> tuple[str | None, bool]:
    if not body:
        return None, False
    if is_text(request.headers.get("content-type", ""), request.headers.get("content-encoding", "")):
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            pass  # whatever its type says: it goes as base64
    return base64.b64encode(body).decode(), True


def _grouped(items: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, value in items:
        groups.setdefault(as_text(name), []).append(as_text(value))
    return groups


def _forwarded(headers: dict[str, list[str]], request: Request, scheme: str) -> None:
    """Say who asks, and how, as Amazon's gateway and the one that this runs in do for what is behind them."""
    _, _, port = headers.get("host", [""])[0].rpartition(":")
    headers["x-forwarded-for"] = [", ".join([*headers.get("x-forwarded-for", ()), request.client_ip])]
    headers["x-forwarded-proto"] = [scheme]
    headers.setdefault("x-forwarded-port", [port if port.isdecimal() else "443" if scheme == "https" else "80"])


def _encoded(event: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(event)


def event_v2(
    request: Request, body: bytes, target: tuple[str, str], *, scheme: str, request_id: str, stage: str, api: str
) -> bytes:
    """The event of payload format 2.0; `target` is path and query as they were sent."""
    headers, query = _grouped(request.headers.multi_items()), _grouped(request.query.multi_items())
    _forwarded(headers, request, scheme)
    cookies = [cookie.strip() for line in headers.pop("cookie", ()) for cookie in line.split(";") if cookie.strip()]
    content, is_base64 = _body(request, body)
    now, (path, raw_query), domain = time.time(), target, headers.get("host", [""])[0]
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": raw_query,
        "cookies": cookies,
        "headers": {name: ",".join(values) for name, values in headers.items()},
        "queryStringParameters": {name: ",".join(values) for name, values in query.items()},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": api,
            "domainName": domain,
            "domainPrefix": domain.partition(".")[0],
            "http": {
                "method": request.method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": request.client_ip,
                "userAgent": headers.get("user-agent", [""])[0],
            },
            "requestId": request_id,
            "routeKey": "$default",
            "stage": stage,
            "time": time.strftime(_DAYS, time.gmtime(now)),
            "timeEpoch": int(now * 1000),
        },
        "body": content,
        "isBase64Encoded": is_base64,
    }
    for name in ("cookies", "queryStringParameters", "body"):  # which aren't there where they'd be empty
        if not event[name]:
            del event[name]
    return _encoded(event)


def event_v1(request: Request, body: bytes, *, scheme: str, request_id: str, stage: str, api: str) -> bytes:
    """The event of payload format 1.0."""
    headers, query = _grouped(request.headers.multi_items()), _grouped(request.query.multi_items())
    _forwarded(headers, request, scheme)
    content, is_base64 = _body(request, body)
    now, path, domain = time.time(), as_text(request.path), headers.get("host", [""])[0]
    identity = dict.fromkeys(
        ("accessKey", "accountId", "caller", "cognitoAmr", "cognitoAuthenticationProvider", "cognitoAuthenticationType",
         "cognitoIdentityId", "cognitoIdentityPoolId", "principalOrgId", "user", "userArn")
    )  # fmt: skip
    return _encoded(
        {
            "version": "1.0",
            "resource": "$default",
            "path": path,
            "httpMethod": request.method,
            "headers": {name: values[-1] for name, values in headers.items()},
            "multiValueHeaders": headers,
            "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
            "multiValueQueryStringParameters": query or None,
            "requestContext": {
                "accountId": "anonymous",
                "apiId": api,
                "authorizer": {"claims": None, "scopes": None},
                "domainName": domain,
                "domainPrefix": domain.partition(".")[0],
                "extendedRequestId": request_id,
                "httpMethod": request.method,
                "identity": {
                    **identity,
                    "sourceIp": request.client_ip,
                    "userAgent": headers.get("user-agent", [""])[0],
                },
                "path": path,
                "protocol": "HTTP/1.1",
                "requestId": request_id,
                "requestTime": time.strftime(_DAYS, time.gmtime(now)),
                "requestTimeEpoch": int(now * 1000),
                "resourceId": "$default",
                "resourcePath": "$default",
                "stage": stage,
            },
            "pathParameters": None,
            "stageVariables": None,
            "body": content,
            "isBase64Encoded": is_base64,
        }
    )
