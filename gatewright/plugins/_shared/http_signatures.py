"""HTTP Message Signatures (RFC 9421) with shared secrets, and the digests of bodies that they cover (RFC 9530).

A client lists what of its message it signs (`Signature-Input`), and signs a text made of that (the *signature base*).
Only what is asked for here is read of the two structured fields; anything else in them is refused rather than skipped.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256, sha512
from typing import Any, Final

__all__ = [
    "DERIVED",
    "Message",
    "Signature",
    "SignatureError",
    "has_digest",
    "read_signature",
    "signature_base",
    "verify",
]

DERIVED: Final = ("@method", "@authority", "@scheme", "@target-uri", "@request-target", "@path", "@query")
"""Derived components that are known (RFC 9421, 2.2)."""
_LABEL: Final = re.compile(r"[a-z*][a-z0-9_.*-]*")
_INNER: Final = re.compile(
    r'\((?P<items> *(?:"[^"\\]*"(?: +"[^"\\]*")*)? *)\)(?P<parameters>(?:;[^,;"]*(?:"(?:[^"\\]|\\.)*")?)*)'
)
_ITEM: Final = re.compile(r'"([^"\\]*)"')
_PARAMETER: Final = re.compile(r';\s*([a-z*][a-z0-9_.*-]*)=(?:"((?:[^"\\]|\\["\\])*)"|(-?\d{1,15}))')
_VALUE: Final = re.compile(r":([A-Za-z0-9+/=]*):")
_NUMBERS: Final = ("created", "expires")
_DIGESTS: Final = {"sha-256": sha256, "sha-512": sha512}
_MOST_COMPONENTS: Final = 50


class SignatureError(Exception):
    """The message's signature is absent, malformed or wrong; the text is for the client."""


@dataclass(frozen=True, slots=True)
class Message:
    """What of a request may be signed.

    Attributes:
        method: as it was sent.
        target: path and query as they were sent.
        authority: the header Host.
        scheme: `http` or `https`.
        headers: all values of a name, in lower case.
    """

    method: str
    target: str
    authority: str
    scheme: str
    headers: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature and what it is for.

    Attributes:
        components: what was signed, in order.
        parameters: `created`, `keyid` and so on.
        input: what stands in Signature-Input behind the label.
        value: the signature.
    """

    components: tuple[str, ...]
    parameters: Mapping[str, Any]
    input: str
    value: bytes


def read_signature(signature_input: str, signature: str, label: str) -> Signature:
    """The signature of a label; the only one, where no label is given.

    Raises:
        SignatureError: the fields can't be read, or there is no such signature.
    """
    inputs = _members(signature_input, _INNER)
    values = _members(signature, _VALUE)
    if not label:
        if len(inputs) != 1:
            raise SignatureError("there is more than one signature")
        label = next(iter(inputs))
    if label not in inputs or label not in values:
        raise SignatureError(f"there is no signature {label}")
    found = inputs[label]
    components = tuple(_ITEM.findall(found["items"]))
    if len(set(components)) != len(components) or len(components) > _MOST_COMPONENTS:
        raise SignatureError("a component is signed twice, or there are too many")
    try:
        value = b64decode(values[label][1], validate=True)
    except ValueError:
        raise SignatureError("the signature is not base64") from None
    return Signature(components, _parameters(found["parameters"]), found[0], value)


def _members(field: str, pattern: re.Pattern[str]) -> dict[str, re.Match[str]]:
    """The members of a structured dictionary (RFC 8941, 3.2) whose values are of one form."""
    members: dict[str, re.Match[str]] = {}
    at = 0
    while True:
        label = _LABEL.match(field, at)
        found = pattern.match(field, label.end() + 1) if label and field[label.end() : label.end() + 1] == "=" else None
        if label is None or found is None or label[0] in members:
            raise SignatureError("Signature or Signature-Input can't be read")
        members[label[0]] = found
        rest = field[found.end() :].lstrip(" \t")
        if not rest:
            return members
        if not rest.startswith(","):
            raise SignatureError("Signature or Signature-Input can't be read")
        at = len(field) - len(rest[1:].lstrip(" \t"))


def _parameters(text: str) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    at = 0
    while at < len(text):
        found = _PARAMETER.match(text, at)
        if found is None or found[1] in parameters or (found[1] in _NUMBERS) != (found[3] is not None):
            raise SignatureError("the signature's parameters can't be read")
        parameters[found[1]] = int(found[3]) if found[3] is not None else re.sub(r"\\(.)", r"\1", found[2])
        at = found.end()
    return parameters


def signature_base(message: Message, signature: Signature) -> bytes:
    """The text that is signed (RFC 9421, 2.5).

    Raises:
        SignatureError: something was signed that isn't there, or isn't known.
    """
    lines = [f'"{name}": {_component(message, name)}' for name in signature.components]
    lines.append(f'"@signature-params": {signature.input}')
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _component(message: Message, name: str) -> str:
    if not name.startswith("@"):
        values = message.headers.get(name) if name == name.lower() else None
        if not values:
            raise SignatureError(f"the header {name} is signed, but not there")
        return ", ".join(re.sub(r"\s*\n\s*", " ", value.strip()) for value in values)
    path, question, query = message.target.partition("?")
    if name == "@method":
        return message.method
    if name == "@authority":
        return _authority(message)
    if name == "@scheme":
        return message.scheme.lower()
    if name == "@target-uri":
        return f"{message.scheme.lower()}://{_authority(message)}{message.target}"
    if name == "@request-target":
        return message.target
    if name == "@path":
        return path or "/"
    if name == "@query":
        return f"?{query}" if question else "?"
    raise SignatureError(f"{name} is not known")


def _authority(message: Message) -> str:
    """In lower case, and without a port that goes without saying."""
    authority = message.authority.lower()
    usual = {"http": ":80", "https": ":443"}.get(message.scheme.lower())
    return authority.removesuffix(usual) if usual else authority


def verify(base: bytes, signature: Signature, secret: bytes) -> bool:
    """Whether HMAC-SHA256 of the base is the signature (RFC 9421, 3.3.3), in constant time."""
    return hmac.compare_digest(hmac.digest(secret, base, sha256), signature.value)


def has_digest(field: str, body: bytes) -> bool:
    """Whether a Content-Digest is the body's (RFC 9530, 2): each that is known is right, and one is known."""
    known = 0
    for name, found in _members(field, _VALUE).items():
        if name not in _DIGESTS:
            continue
        if not hmac.compare_digest(b64encode(_DIGESTS[name](body).digest()).decode(), found[1]):
            return False
        known += 1
    return known > 0
