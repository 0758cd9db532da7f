"""Answers as nginx sends them: its words, its pages, and what it makes of the headers."""

from __future__ import annotations

from email.utils import formatdate
from typing import Final

from gatewright.dev.messages import Answer, ClientRequest

__all__ = ["error_page", "keeps_back", "reason_of", "response_head", "with_page"]

_CHARSET_TYPES = (
    "text/html", "text/xml", "text/plain", "text/vnd.wap.wml", "application/javascript", "application/rss+xml",
)  # fmt: skip
_REASONS = {
    101: "Switching Protocols",
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
        429, 500, 501, 502, 503, 504, 505, 507,
    )
)  # fmt: skip
"""Statuses for which nginx has a page; without one, the body is empty (ngx_http_special_response.c)."""
_PAGE_TITLES = {302: "302 Found", 401: "401 Authorization Required"}
"""Where the page's words are not the status line's."""
_BAD_REQUESTS = {
    494: "Request Header Or Cookie Too Large",
    495: "The SSL certificate error",
    496: "No required SSL certificate was sent",
    497: "The plain HTTP request was sent to HTTPS port",
}
"""Nginx's own codes, whose pages come as 400."""
_ENDS_CONNECTION = frozenset((400, 413, 414, 495, 496, 497, 500, 501))
"""Pages after which nginx closes the connection."""
_POSTPONED: Final = 1460
"""Bytes that nginx sends at once, be there more to come or not."""
_NOT_OF_PAGES = frozenset(("etag", "last-modified", "accept-ranges"))
"""What nginx clears before it sends one of its pages."""
_PAGE = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n<hr><center>openresty</center>"
    '\r\n<p><em>Powered by <a href="https://apisix.apache.org/">APISIX</a>.</em></p></body>\r\n</html>\r\n'
)


def reason_of(status: int) -> str:
    """Nginx's word for a status; nothing for one that it doesn't know."""
    return _REASONS.get(status, "")


def error_page(status: int) -> bytes:
    """The HTML page that nginx makes for a status without a body; empty where it has none."""
    if status in _BAD_REQUESTS:
        said = _BAD_REQUESTS[status]
        page = _PAGE.format(f"400 {said}")
        return page.replace(
            f"<h1>400 {said}</h1></center>", f"<h1>400 Bad Request</h1></center>\r\n<center>{said}</center>"
        ).encode()
    if status == 498:  # nginx counts its pages, and has a gap there
        status = 404
    if status not in _PAGES:
        return b""
    return _PAGE.format(_PAGE_TITLES.get(status, f"{status} {reason_of(status)}")).encode()


def with_page(answer: Answer) -> Answer:
    """An answer whose page, if it has one, is its body like any other."""
    if not answer.page:
        return answer
    page = error_page(answer.status)
    gone = {"content-type", "content-length", *_NOT_OF_PAGES}
    headers = [(name, value) for name, value in answer.headers if name.lower() not in gone]
    headers += [*([("Content-Type", "text/html")] if page else []), ("Content-Length", str(len(page)))]
    close = answer.close or answer.status in _ENDS_CONNECTION
    return Answer(
        answer.status, headers, page, framing="content-length", close=close, untyped=True, server=answer.server
    )


def keeps_back(answer: Answer, size: int) -> bool:
    """Whether nginx waits for more before it sends so many bytes of an answer (`postpone_output`); none will come."""
    return answer.unended and answer.status not in (204, 304) and size < _POSTPONED


def _with_charset(kind: str, status: int) -> str:
    """Nginx's charset filter; redirects are left alone (ngx_http_charset_filter_module.c)."""
    media_type = kind.partition(";")[0].strip().lower()
    if status in (301, 302) or "charset=" in kind or media_type not in _CHARSET_TYPES:
        return kind
    return kind + "; charset=utf-8"


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
    taken = {"content-type", "server"} if answer.unframed else {"content-type", "content-length", "server"}
    headers = [(n, v) for n, v in answer.headers if n.lower() not in taken]
    types = [v for n, v in answer.headers if n.lower() == "content-type"]
    length = next((v for n, v in answer.headers if n.lower() == "content-length" and n.lower() in taken), None)
    method = answer.method or request.method
    bodiless = answer.status in (204, 304) or answer.status < 200
    framing = answer.framing
    if answer.page and not bodiless:
        body = error_page(answer.status)
        types, framing = (["text/html"], "content-length") if body else ([], "proxied")
        length = str(len(body))
    elif answer.page and answer.status == 304:
        types, length = [], "0"
    if answer.page or (answer.status == 204 and answer.framing == "stop" and not answer.body):
        # nginx takes these away, even where it has no text for the status
        headers = [(n, v) for n, v in headers if n.lower() not in _NOT_OF_PAGES]
    out: list[tuple[str, str]] = []
    if types:
        kind = types[-1]
    else:  # what Lua prints has nginx's default_type
        began = answer.began or answer.status
        without = framing == "proxied" or answer.untyped or began == 304
        kind = "" if without else "text/plain"
    if kind and (answer.status != 204 or answer.status_line is not None):
        out.append(("Content-Type", _with_charset(kind, answer.status) if charset and answer.names_charset else kind))
    keep = request.keep_alive and not answer.close and not (answer.page and answer.status in _ENDS_CONNECTION)
    if bodiless:
        if length is not None and (framing == "chunked" or (framing == "stop" and body)) and not answer.page:
            out.append((next(n for n, _ in answer.headers if n.lower() == "content-length"), length))
        elif length is not None and (
            answer.status_line is not None
            or (answer.status == 304 and (framing in ("proxied", "content-length") or answer.page))
        ):
            out.append(("Content-Length", length))
        body = body if answer.status < 200 or (answer.rewritten and answer.status_line is not None) else b""
    elif length is not None and (framing in ("content-length", "proxied") or length.isdigit()):
        given = next((n for n, _ in answer.headers if n.lower() == "content-length"), "Content-Length")
        # What Lua sets keeps its name; nginx's own, and the upstream's, is written anew.
        out.append((given if framing in ("stop", "chunked") else "Content-Length", length))
    elif answer.unframed == "sized" or method == "HEAD":
        pass
    elif request.version == "1.1":
        out.append(("Transfer-Encoding", "chunked"))
        breaks = answer.cut and answer.framing != "stop" and not answer.rewritten
        end = b"" if breaks or answer.unended else b"0\r\n\r\n"
        body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + end
    elif request.version in ("1.0", "0.9"):
        keep = False
    if method == "HEAD":
        body = b""
    if request.version != "2":
        stays = "keep-alive" if keep else "close"
        out.append(("Connection", "upgrade" if answer.status == 101 else stays))
    out += [(n, v) for n, v in headers if v or n.lower() != "date"]
    has_date = any(name.lower() == "date" for name, _ in headers)
    if not has_date and (framing != "proxied" or answer.page):  # what's proxied has the upstream's or none
        out.append(("Date", formatdate(usegmt=True)))
    if answer.server != "":
        out.append(("Server", answer.server or server))
    status = 400 if answer.page and answer.status in _BAD_REQUESTS else answer.status
    return f"HTTP/1.1 {answer.status_line or f'{status:03d} {reason_of(status)}'}", out, body
