"""Making tokens: right ones by PyJWT, and wrong ones by hand, byte by byte."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

SECRET = "a secret of which nobody can guess even a part, since it is long enough"

ELLIPTIC = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1, "ES256K": ec.SECP256K1}


def private_key(kind: str, number: int = 0) -> Any:
    """A key for an algorithm; each number is another one."""
    return _made("RS256" if kind.startswith(("RS", "PS")) else kind, number)


@cache
def _made(kind: str, number: int) -> Any:
    if kind == "RS256":
        return rsa.generate_private_key(65537, 2048)
    if kind == "1024 bits":
        return rsa.generate_private_key(65537, 1024)
    if kind in ELLIPTIC:
        return ec.generate_private_key(ELLIPTIC[kind]())
    return ed448.Ed448PrivateKey.generate() if kind == "Ed448" else ed25519.Ed25519PrivateKey.generate()


def public_pem(kind: str, number: int = 0) -> str:
    key = private_key(kind, number).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def public_jwk(kind: str, number: int = 0, **more: Any) -> dict[str, Any]:
    reader = jwt.get_algorithm_by_name("EdDSA" if kind.startswith("Ed") else kind)
    jwk = reader.to_jwk(private_key(kind, number).public_key(), as_dict=True)
    return {"use": "sig", **{name: value for name, value in jwk.items() if name != "key_ops"}, **more}


def claims(**more: Any) -> dict[str, Any]:
    """Claims that are right for the tests' configurations; `None` leaves one out."""
    now = int(time.time())
    all_claims = {"iss": "https://id.example", "sub": "ada", "aud": "shop", "iat": now, "exp": now + 600, **more}
    return {name: value for name, value in all_claims.items() if value is not None}


def sign(
    kind: str = "RS256", number: int = 0, *, kid: str | None = None, typ: str = "JWT", header: Any = None, **more: Any
) -> str:
    """A right token, by PyJWT."""
    headers = {"typ": typ, **({"kid": kid} if kid else {}), **(header or {})}
    key = SECRET if kind.startswith("HS") else private_key(kind, number)
    return jwt.encode(claims(**more), key, "EdDSA" if kind.startswith("Ed") else kind, headers)


def encoded(value: Any) -> str:
    """Base64url of bytes, text or anything as JSON."""
    raw = value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header: Any, payload: Any, kind: str = "", key: Any = None) -> str:
    """A token of any header and payload, signed by an algorithm that the header need not name."""
    return signed_by_hand(f"{encoded(header)}.{encoded(payload)}", kind, key)


def signed_by_hand(signed: str, kind: str = "", key: Any = None) -> str:
    """A token of any text, whatever its spelling."""
    if not kind:
        return f"{signed}."
    key = key if key is not None else SECRET.encode() if kind.startswith("HS") else private_key(kind)
    algorithm = jwt.get_algorithm_by_name("EdDSA" if kind.startswith("Ed") else kind)
    return f"{signed}.{encoded(algorithm.sign(signed.encode(), key))}"
