"""Answers as nginx sends them: its words, its pages, and what it makes of the headers."""

from __future__ import annotations

from email.utils import formatdate

from gatewright.dev.messages import Answer, ClientRequest

__all__ = ["error_page", "reason_of", "response_head"]

_CHARSET_TYPES = (
    "text/html", "text/xml", "text/plain", "text/vnd.wap.wml", "application/javascript", "application/rss+xml",
)  # fmt: skip
_REASONS = {
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content", 301: "Moved Permanently",
    302: "Moved Temporarily", 303: "See Other", 304: "Not Modified", 307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    405: "Not Allowed", 406: "Not Acceptable", 408: "Request Time-out", 409: "Conflict", 410: "Gone",
    411: "Length Required", 412: "Precondition Failed", 413: "Request Entity Too Large", 414: "Request-URI Too Large",
    415: "Unsupported Media Type", 416: "Requested Range Not Satisfiable", 421: "Misdirected Request",
    429: "Too Many Requests", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Temporarily Unavailable", 504: "Gateway Time-out", 505: "HTTP Version Not Supported",
    507: "Insufficient Storage",
}  # fmt: skip
"""nginx's words; it has none for other codes."""
_PAGES = frozenset(
    (
        301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 411, 412, 413, 414, 415, 416, 421,
        429, 494, 500, 501, 502, 503, 504, 505, 507,
    )
)  # fmt: skip
"""Statuses for which nginx has a page; without one, the body is empty (ngx_http_special_response.c)."""
_PAGE_TITLES = {302: "302 Found", 401: "401 Authorization Required", 494: "400 Request Header Or Cookie Too Large"}
"""Where the page's words are not the status line's."""
_TOO_LARGE = "<h1>400 Bad Request</h1></center>\r\n<center>Request Header Or Cookie Too Large</center>"
_ENDS_CONNECTION = frozenset((400, 413, 414, 494, 500, 501))
"""Pages after which nginx closes the connection."""
_PAGE = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n<hr><center>openresty</center>"
    '\r\n<p><em>Powered by <a href="https://apisix.apache.org/">APISIX</a>.</em></p></body>\r\n</html>\r\n'
)


def reason_of(status: int) -> str:
    """Nginx's word for a status; nothing for one that it doesn't know."""
    return _REASONS.get(status, "")


def error_page(status: int) -> bytes:
    """The HTML page that nginx makes for a status without a body."""
    if status not in _PAGES:
        return b""
    page = _PAGE.format(_PAGE_TITLES.get(status, f"{status} {reason_of(status)}".strip()))
    if status == 494:
        said = page.replace(f"<h1>{_PAGE_TITLES[494]}</h1></center>", _TOO_LARGE, 1)
        return said.encode()
    return page.encode()


def response_head(
    answer: Answer, request: ClientRequest, server: str, *, charset: bool = True
) -> tuple[str, list[tuple[str, str]], bytes]:
    """Status line, headers and body as nginx sends them for an answer.

    Args:
        answer: the gateway's answer.
        request: what is answered.
        server: what the gateway calls itself.
        charset: name one for types of text that have none, as APISIX's configuration wants it.
    """
    body = answer.body or b""
    headers = [(n, v) for n, v in answer.headers if n.lower() not in ("content-type", "content-length", "server")]
    types = [v for n, v in answer.headers if n.lower() == "content-type"]
    length = next((v for n, v in answer.headers if n.lower() == "content-length"), None)
    bodiless = answer.status in (204, 304) or answer.status < 200
    framing = answer.framing
    if answer.page and not bodiless:
        body = error_page(answer.status)
        types, framing = (["text/html"], "content-length") if body else ([], "proxied")
        length = str(len(body))
        headers = [(n, v) for n, v in headers if n.lower() != "content-encoding"]
    out: list[tuple[str, str]] = []
    if not (bodiless and framing != "proxied"):
        kind = types[0] if types else ("" if framing == "proxied" or answer.status == 304 else "text/plain")
        if charset and kind and "charset=" not in kind and kind.split(";")[0].strip().lower() in _CHARSET_TYPES:
            kind += "; charset=utf-8"
        if kind:
            out.append(("Content-Type", kind))
    elif types and answer.status not in (204, 304):
        out.append(("Content-Type", types[0]))
    keep = request.keep_alive and not answer.close and not (answer.page and answer.status in _ENDS_CONNECTION)
    if bodiless:
        body = b""
    elif length is not None and (framing in ("content-length", "proxied") or length.isdigit()):
        out.append(("Content-Length", length))
        body = body[: int(length)] if length.isdigit() else body
    elif request.version == "1.1" and request.method != "HEAD":
        out.append(("Transfer-Encoding", "chunked"))
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    elif request.version in ("1.0", "0.9"):
        keep = False
    if request.method == "HEAD":
        body = b""
    if request.version != "2":
        out.append(("Connection", "keep-alive" if keep else "close"))
    if answer.status == 304:
        headers = [(n, v) for n, v in headers if not (n.lower() == "etag" and framing == "stop")]
    out += headers
    out.append(("Date", formatdate(usegmt=True)))
    out.append(("Server", answer.server or server))
    status = 400 if answer.status == 494 else answer.status
    reason = reason_of(status) if answer.reason is None else answer.reason
    return f"HTTP/1.1 {status} {reason}", out, body
