"""Cookies and Basic credentials as nginx and APISIX read them, each in its own way."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Final

__all__ = ["basic_user", "lua_cookie", "nginx_cookie"]

_LUA_COOKIE: Final = re.compile(r"[ \t]*([^=]*)=([^; \t]*)[; \t]?")
_NGINX_COOKIE: Final = re.compile(r"[^;,]*[;,]? *")


def lua_cookie(text: str, name: str) -> str | None:
    """A cookie as lua-resty-cookie finds it: a value ends at a blank, too; what comes after that begins a name."""
    found = None
    for match in _LUA_COOKIE.finditer(text):
        if match[1] == name:
            found = match[2]  # the last one counts
    return found


def nginx_cookie(text: str, name: str) -> str | None:
    """A cookie as nginx itself finds it: the first one, its name in any case, its value up to the next semicolon."""
    at = 0
    while at < len(text):
        if text[at : at + len(name)].lower() == name.lower():
            rest = text[at + len(name) :].lstrip(" ")
            if rest.startswith("="):
                return rest[1:].lstrip(" ").partition(";")[0]
        match = _NGINX_COOKIE.match(text, at)
        at = match.end() if match is not None and match.end() > at else len(text)
    return None


def basic_user(authorization: str | None) -> str | None:
    """The name in Basic credentials; `None` where there are none, or they can't be read."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, _ = b64decode(encoded.strip(" "), validate=True).decode("utf-8", "surrogateescape").partition(":")
    except (binascii.Error, ValueError):
        return None
    return (name or None) if colon else None
