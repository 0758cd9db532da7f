"""Keys: each knows which algorithms it is for, so a token's `alg` can never make one kind of key into another.

The cryptography, and the reading of PEM and JWK, is PyJWT's and cryptography's (see docs/decisions).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509 import load_pem_x509_certificate

from gatewright import ConfigError

__all__ = ["ALGORITHMS", "ASYMMETRIC", "SYMMETRIC", "Key", "keys_from_jwks", "keys_from_pem", "secret_key", "select"]

SYMMETRIC: Final = ("HS256", "HS384", "HS512")
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: Final = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",), "secp256k1": ("ES256K",)}
_EDWARDS: Final = {"Ed25519": ("EdDSA", "Ed25519"), "Ed448": ("EdDSA", "Ed448")}
ASYMMETRIC: Final = (*_RSA, "ES256", "ES384", "ES512", "ES256K", "EdDSA", "Ed25519", "Ed448")
ALGORITHMS: Final = (*SYMMETRIC, *ASYMMETRIC)
"""The names of RFC 7518, 8037, 8812 and 9864. `none` is not one of them."""

_IMPLEMENTATIONS: Final[Mapping[str, Any]] = {
    name: jwt.get_algorithm_by_name("EdDSA" if name.startswith("Ed") else name) for name in ALGORITHMS
}
_LENGTHS: Final = {"HS256": 32, "HS384": 48, "HS512": 64}  # bytes: RFC 7518, 3.2
_FEWEST_BITS, _MOST_BITS = 2048, 16384  # of RSA: RFC 7518, 3.3; above it takes milliseconds, and the loop waits
_MOST_KEYS: Final = 200
_MOST_TRIED: Final = 8
"""Keys of one kind tried for a token that doesn't name one."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key for verifying.

    Attributes:
        algorithms: all that it may be used with.
        kid: its name in its set; `None`: it fits tokens with any name.
        material: the public key, or a secret's bytes; not shown.
    """

    algorithms: frozenset[str]
    kid: str | None
    material: Any

    def verifies(self, alg: str, signed: bytes, signature: bytes) -> bool:
        """Whether this key made the signature, by that algorithm; never with one that the key isn't for."""
        if alg not in self.algorithms:
            return False
        return bool(_IMPLEMENTATIONS[alg].verify(signed, self.material, signature))

    def __repr__(self) -> str:
        return f"<Key {self.kid!r} for {', '.join(sorted(self.algorithms))}>"


def select(keys: Iterable[Key], alg: str, kid: str | None) -> Sequence[Key]:
    """The keys that a token may have been signed with: by name where it gives one, and of the right kind always."""
    fitting = [key for key in keys if alg in key.algorithms and (kid is None or key.kid is None or key.kid == kid)]
    return fitting[:_MOST_TRIED]


def secret_key(secret: str | bytes, algorithms: Collection[str], *, kid: str | None = None) -> Key:
    """A shared secret.

    Raises:
        ConfigError: it is empty, too short for one of the algorithms, or a public key by mistake.
    """
    raw = secret.encode() if isinstance(secret, str) else secret
    usable = [name for name in SYMMETRIC if name in algorithms]
    if not usable:
        raise ConfigError(f"a secret is for {', '.join(SYMMETRIC)}, and none of them is in `algorithms`")
    needed = max(_LENGTHS[name] for name in usable)
    if len(raw) < needed:
        raise ConfigError(
            f"the secret has {len(raw)} bytes, and {usable[-1]} wants {needed} at least (RFC 7518, 3.2): whoever has a "
            "token can guess a shorter one. Make one with `openssl rand -base64 48`"
        )
    try:
        material = _IMPLEMENTATIONS[usable[0]].prepare_key(raw)
    except jwt.InvalidKeyError:
        raise ConfigError("the secret is a public key or a certificate: give it as `public_key`") from None
    return Key(frozenset(usable), kid, material)


def keys_from_pem(pem: str, algorithms: Collection[str], *, kid: str | None = None) -> list[Key]:
    """A public key (or a certificate's) in PEM.

    Raises:
        ConfigError: it can't be read, is a private key, or is for none of the algorithms.
    """
    raw = pem.strip().encode()
    if b"PRIVATE KEY" in raw:
        raise ConfigError("public_key holds a private key, which verifying doesn't need: give its public half")
    try:
        if b"BEGIN CERTIFICATE" in raw:
            material: Any = load_pem_x509_certificate(raw).public_key()
        else:
            material = serialization.load_pem_public_key(raw)
    except ValueError as error:
        raise ConfigError(f"public_key is not a public key or certificate in PEM: {error}") from None
    return [_asymmetric(material, None, algorithms, kid)]


def keys_from_jwks(document: Any, algorithms: Collection[str], *, secrets: bool) -> tuple[list[Key], list[str]]:
    """The keys of a JWK set (or of one JWK) that are for verifying; what is wrong with others is told, not raised.

    Args:
        document: the decoded JSON.
        algorithms: what the configuration allows.
        secrets: take symmetric keys, too. Not from a URL: whoever can read it could make tokens.

    Raises:
        ConfigError: it is no JWK set, or has no usable key.
    """
    entries = document.get("keys") if isinstance(document, dict) and "keys" in document else [document]
    if not isinstance(entries, list):
        raise ConfigError("not a JWK set: `keys` is to be a list")
    if len(entries) > _MOST_KEYS:
        raise ConfigError(f"a JWK set of {len(entries)} keys; {_MOST_KEYS} are the most")
    keys: list[Key] = []
    left_out: list[str] = []
    for number, entry in enumerate(entries):
        try:
            keys.append(_key_of_jwk(entry, algorithms, secrets=secrets))
        except (ConfigError, jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
            text = str(error) if isinstance(error, ConfigError) else f"not readable ({type(error).__name__})"
            left_out.append(f"key {number}: {text}")
    if not keys:
        raise ConfigError("a JWK set without a usable key: " + ("; ".join(left_out[:5]) or "it is empty"))
    return keys, left_out


def _key_of_jwk(jwk: Any, algorithms: Collection[str], *, secrets: bool) -> Key:
    if not isinstance(jwk, dict):
        raise ConfigError("not a JSON object")
    if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ["verify"]):
        raise ConfigError("not for verifying")
    kid, only = jwk.get("kid"), jwk.get("alg")
    if kid is not None and not isinstance(kid, str):
        raise ConfigError("its kid is not text")
    if only is not None:
        algorithms = [name for name in algorithms if name == only]
        if not algorithms:
            raise ConfigError(f"it is for {str(only)[:20]!r}, which is not in `algorithms`")
    if jwk.get("kty") == "oct":
        if not secrets:
            raise ConfigError("a secret, in a set that is fetched")
        return secret_key(jwt.PyJWK(jwk, "HS256").key, algorithms, kid=kid)
    # The algorithm given here only chooses the reader of this kind of key.
    reader = {"RSA": "RS256", "OKP": "EdDSA"}.get(str(jwk.get("kty")), "ES256")
    public = {name: value for name, value in jwk.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "oth")}
    return _asymmetric(_IMPLEMENTATIONS[reader].from_jwk(public), jwk.get("crv"), algorithms, kid)


def _asymmetric(material: Any, curve: str | None, algorithms: Collection[str], kid: str | None) -> Key:
    if isinstance(material, rsa.RSAPublicKey):
        if not _FEWEST_BITS <= material.key_size <= _MOST_BITS:
            raise ConfigError(f"an RSA key of {material.key_size} bits; {_FEWEST_BITS} to {_MOST_BITS} are accepted")
        fitting: tuple[str, ...] = _RSA
    elif isinstance(material, ec.EllipticCurvePublicKey):
        fitting = _CURVES.get(material.curve.name, ())
    elif isinstance(material, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        fitting = _EDWARDS["Ed448" if isinstance(material, ed448.Ed448PublicKey) else "Ed25519"]
    else:
        raise ConfigError(f"a {type(material).__name__} is not for signatures of tokens")
    usable = frozenset(name for name in fitting if name in algorithms)
    if not usable:
        of_what = f" on {curve}" if curve else ""
        raise ConfigError(
            f"a key{of_what} for {', '.join(fitting) or 'no known algorithm'}, and none of these is in `algorithms`"
        )
    return Key(usable, kid, material)
