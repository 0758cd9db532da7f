"""A signed token in compact form (RFC 7515, 7.1), taken apart as strictly as can be, before any key is looked at.

There is one spelling of each token and one reading of each JSON text: base64 that another decoder would read otherwise,
names that are there twice and numbers that are none are refused, so that nobody downstream sees other claims than were
checked here. The payload is not read before the signature is verified.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, Final

from gatewright.plugins._shared.strict_json import STRICT_JSON

__all__ = ["InvalidTokenError", "SignedToken", "read_claims", "read_token"]

_LONGEST_KID: Final = 1024
_JWE_PARTS: Final = 5


class InvalidTokenError(Exception):
    """The token is not one to believe. The text is for the client: which rule was broken, and nothing of the token."""


@dataclass(frozen=True, slots=True)
class SignedToken:
    """A token whose signature is still to be verified.

    Attributes:
        alg: what its header says it was signed with; it only ever chooses among what the configuration allows.
        kid: the name of its key, if it has one; for looking up, nothing else.
        typ: its media type, without `application/` and in lower case; empty where it has none.
        signed: the bytes that the signature is for.
        payload: the claims, still encoded.
    """

    alg: str
    kid: str | None
    typ: str
    signed: bytes
    payload: str
    signature: bytes


def read_token(text: str) -> SignedToken:
    """Take a token apart.

    Header parameters that bring a key along (`jwk`, `jku`, `x5u`, `x5c`) are not looked at: keys come from the
    configuration only. Extensions that must be understood (`crit`) are refused, since none is known here.

    Raises:
        InvalidTokenError: it is not a JWS in compact form, or asks for what isn't done.
    """
    parts = text.split(".")
    if len(parts) != 3:
        raise InvalidTokenError(
            "encrypted tokens are not accepted" if len(parts) == _JWE_PARTS else "not a JSON Web Token"
        )
    header = _json_object(_decoded(parts[0]), "header")
    alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ", "")
    if not isinstance(alg, str):
        raise InvalidTokenError("the header names no algorithm")
    if kid is not None and (not isinstance(kid, str) or len(kid) > _LONGEST_KID):
        raise InvalidTokenError("the header's kid is not usable")
    if not isinstance(typ, str):
        raise InvalidTokenError("the header's typ is not usable")
    for parameter, why in _REFUSED.items():
        if parameter in header:
            raise InvalidTokenError(why)
    if header.get("b64", True) is not True:
        raise InvalidTokenError("unencoded payloads are not accepted")
    if str(header.get("cty", "")).lower().removeprefix("application/") == "jwt":
        raise InvalidTokenError("nested tokens are not accepted")
    signed = text[: -len(parts[2]) - 1] if parts[2] else text[:-1]
    return SignedToken(
        alg, kid, typ.lower().removeprefix("application/"), signed.encode("ascii"), parts[1], _decoded(parts[2])
    )


def read_claims(token: SignedToken) -> dict[str, Any]:
    """The claims of a token whose signature was verified.

    Raises:
        InvalidTokenError: the payload is not a JSON object with each name once.
    """
    return _json_object(_decoded(token.payload), "payload")


_REFUSED: Final = {
    "crit": "the header names extensions that must be understood",
    "zip": "compressed tokens are not accepted",
    "enc": "encrypted tokens are not accepted",
}


def _decoded(part: str) -> bytes:
    """Base64url without padding, in its one canonical spelling."""
    try:
        raw = part.encode("ascii")
        decoded = urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    except ValueError:  # UnicodeEncodeError and binascii.Error are some
        raise InvalidTokenError("not a JSON Web Token") from None
    if urlsafe_b64encode(decoded).rstrip(b"=") != raw:  # the decoder skips what it doesn't know, and bits left over
        raise InvalidTokenError("not a JSON Web Token")
    return decoded


def _json_object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        value = STRICT_JSON.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        raise InvalidTokenError(f"the {what} is not a JSON object") from None
    if not isinstance(value, dict):
        raise InvalidTokenError(f"the {what} is not a JSON object")
    return value
