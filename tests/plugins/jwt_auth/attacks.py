"""Tokens that must be refused, each with what would happen if it weren't.

RFC 7515 (10), 7518 (8), 7519 (11), 7797, 8725 (2 and 3), and what was found in libraries since. The configuration takes
RS256, ES256 and EdDSA tokens of the keys `rsa`, `ec` and `ed`, for the audience `shop`, from one issuer.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode, urlsafe_b64decode
from hashlib import sha256
from hmac import digest as hmac_digest

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

from tests.plugins.jwt_auth.tokens import (
    by_hand,
    claims,
    encoded,
    private_key,
    public_jwk,
    public_pem,
    sign,
    signed_by_hand,
)

__all__ = ["attacks"]


def _hmac(header: object, payload: object, key: bytes) -> str:
    """PyJWT won't use a public key as a secret, so by hand."""
    signed = f"{encoded(header)}.{encoded(payload)}"
    return f"{signed}.{encoded(hmac_digest(key, signed.encode(), sha256))}"


def _raw(header: str, payload: str) -> str:
    """Header and payload as JSON text, in which names may be there twice; signed by the right key."""
    return by_hand(header, payload, "RS256")


def _with(token: str, *, header: str | None = None, payload: str | None = None, signature: str | None = None) -> str:
    parts = token.split(".")
    given = (header, payload, signature)
    return ".".join(part if new is None else new for part, new in zip(parts, given, strict=True))


def _foreign(kid: str | None = "rsa", **header: object) -> str:
    """A token signed by the attacker's own key, 1."""
    return sign("RS256", 1, kid=kid, header=header)


def _other_last_bits(token: str) -> str:
    """The same signature, spelled otherwise: bits that decoders drop are set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


def _der_signature() -> str:
    signed = f"{encoded({'alg': 'ES256', 'kid': 'ec'})}.{encoded(claims())}"
    return f"{signed}.{encoded(private_key('ES256').sign(signed.encode(), ECDSA(hashes.SHA256())))}"


def _number(name: str, text: str) -> str:
    """Rightly signed, with a number in the claims that no encoder would write."""
    return by_hand(
        {"alg": "RS256"}, json.dumps(claims(**{name: 0})).replace(f'"{name}": 0', f'"{name}": {text}'), "RS256"
    )


def attacks() -> dict[str, str]:
    """The tokens by name."""
    right = sign(kid="rsa")
    rsa, ec, now = {"alg": "RS256", "kid": "rsa"}, {"alg": "ES256", "kid": "ec"}, int(time.time())
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    pem, jwk = public_pem("RS256").encode(), public_jwk("RS256", 1)
    der = urlsafe_b64decode(b"".join(pem.splitlines()[1:-1]).replace(b"+", b"-").replace(b"/", b"_"))
    found = {
        # no signature at all (RFC 8725, 2.1)
        "alg none": by_hand({"alg": "none"}, claims()),
        "alg None": by_hand({"alg": "None"}, claims()),
        "alg nOnE with a kid": by_hand({"alg": "nOnE", "kid": "rsa"}, claims()),
        "alg none with the signature of another": _with(right, header=encoded({"alg": "none"})),
        "alg empty": by_hand({"alg": "", "kid": "rsa"}, claims()),
        "alg absent": by_hand({"kid": "rsa"}, claims(), "RS256"),
        "alg null": by_hand({"alg": None, "kid": "rsa"}, claims(), "RS256"),
        "alg a list": by_hand({"alg": ["RS256"], "kid": "rsa"}, claims(), "RS256"),
        "alg a number": by_hand({"alg": 256, "kid": "rsa"}, claims(), "RS256"),
        "alg in lower case": by_hand({"alg": "rs256", "kid": "rsa"}, claims(), "RS256"),
        "alg with a space": by_hand({"alg": "RS256 ", "kid": "rsa"}, claims(), "RS256"),
        "alg unknown": by_hand({"alg": "XS999", "kid": "rsa"}, claims(), "RS256"),
        "signature empty": _with(right, signature=""),
        "signature left out": right.rpartition(".")[0],
        "signature cut": right[:-8],
        # one kind of key for another (RFC 8725, 2.1)
        "HS256 with the public key in PEM as secret": _hmac({"alg": "HS256", "kid": "rsa"}, claims(), pem),
        "the same, without the last newline": _hmac({"alg": "HS256", "kid": "rsa"}, claims(), pem.strip()),
        "HS256 with the public key in DER as secret": _hmac({"alg": "HS256", "kid": "rsa"}, claims(), der),
        "HS256 with the modulus as secret": _hmac(
            {"alg": "HS256", "kid": "rsa"}, claims(), urlsafe_b64decode(public_jwk("RS256")["n"] + "==")
        ),
        "HS256 with the JWK as secret": _hmac(
            {"alg": "HS256", "kid": "rsa"}, claims(), json.dumps(public_jwk("RS256")).encode()
        ),
        "HS256 with an empty secret": _hmac({"alg": "HS256"}, claims(), b""),
        "HS256 with a known secret": _hmac({"alg": "HS256"}, claims(), b"secret"),
        "ES256 by the name of the RSA key": by_hand({"alg": "ES256", "kid": "rsa"}, claims(), "ES256"),
        "RS256 said, PS256 done": by_hand(rsa, claims(), "PS256"),
        "PS256 with the right key, but not allowed": sign("PS256", kid="rsa"),
        "RS512 with the right key, but not allowed": sign("RS512", kid="rsa"),
        "ES256 with a key on another curve": by_hand(ec, claims(), "ES256K"),
        # keys that the token brings along (RFC 7515, 4.1; RFC 8725, 2.2 and 3.10)
        "jwk in the header": _foreign(jwk=jwk),
        "jwk in the header, without kid": _foreign(None, jwk=jwk),
        "jwk in the header, a secret": _hmac(
            {"alg": "HS256", "jwk": {"kty": "oct", "k": encoded(b"k" * 32)}}, claims(), b"k" * 32
        ),
        "jku to the attacker": _foreign("evil", jku="https://evil.example/jwks.json"),
        "jku to a file": _foreign("evil", jku="file:///etc/passwd"),
        "jku to the cloud's metadata": _foreign("evil", jku="http://169.254.169.254/latest/meta-data"),
        "x5u to the attacker": _foreign("evil", x5u="https://evil.example/cert.pem"),
        "x5c in the header": _foreign("evil", x5c=["MIIB"]),
        "x5t of no key": _foreign("evil", x5t="AAAA"),
        # the key's name (RFC 8725, 3.10)
        "kid a path": _hmac({"alg": "HS256", "kid": "../../../../dev/null"}, claims(), b""),
        "kid of SQL": _hmac({"alg": "HS256", "kid": "x' UNION SELECT 'key';--"}, claims(), b"key"),
        "kid a command": _foreign("|sleep 5"),
        "kid a number": by_hand({"alg": "RS256", "kid": 0}, claims(), "RS256"),
        "kid an object": by_hand({"alg": "RS256", "kid": {"$ne": ""}}, claims(), "RS256"),
        "kid of another key": sign("RS256", kid="ec"),
        "kid unknown": sign("RS256", kid="rsa2"),
        "kid of a kilobyte": sign("RS256", kid="k" * 1025),
        # what must be understood (RFC 7515, 4.1.11; RFC 7797)
        "crit of something unknown": by_hand({**rsa, "crit": ["x.example"], "x.example": 1}, claims(), "RS256"),
        "crit empty": by_hand({**rsa, "crit": []}, claims(), "RS256"),
        "crit null": by_hand({**rsa, "crit": None}, claims(), "RS256"),
        "b64 false": by_hand({**rsa, "b64": False, "crit": ["b64"]}, claims(), "RS256"),
        "b64 false without crit": by_hand({**rsa, "b64": False}, claims(), "RS256"),
        "zip": by_hand({**rsa, "zip": "DEF"}, claims(), "RS256"),
        # another kind of token (RFC 8725, 2.8 and 3.11)
        "typ of a logout token": sign(kid="rsa", typ="logout+jwt"),
        "typ of a DPoP proof": sign(kid="rsa", typ="dpop+jwt"),
        "typ of a security event": sign(kid="rsa", typ="application/secevent+jwt"),
        "typ a list": by_hand({**rsa, "typ": ["JWT"]}, claims(), "RS256"),
        "nested": by_hand({**rsa, "cty": "JWT"}, right, "RS256"),
        "encrypted": f"{encoded({'alg': 'RSA-OAEP', 'enc': 'A256GCM'})}.AA.AA.AA.AA",
        "enc in a signed token's header": by_hand({**rsa, "enc": "A256GCM"}, claims(), "RS256"),
        "JSON serialization": json.dumps(
            {"payload": right.split(".")[1], "protected": right.split(".")[0], "signature": right.split(".")[2]}
        ),
        # two readings of one text (RFC 7515, 4 and 10.12; RFC 8725, 2.7)
        "claim twice": _raw('{"alg":"RS256","kid":"rsa"}', json.dumps(claims())[:-1] + ',"sub":"root"}'),
        "claim twice, escaped": _raw('{"alg":"RS256","kid":"rsa"}', json.dumps(claims())[:-1] + ',"s\\u0075b":"root"}'),
        "claim twice, deep": _raw('{"alg":"RS256","kid":"rsa"}', json.dumps(claims())[:-1] + ',"a":{"b":1,"b":2}}'),
        "alg twice": _raw('{"alg":"none","kid":"rsa","alg":"RS256"}', json.dumps(claims())),
        "alg twice, the other way": _raw('{"alg":"RS256","kid":"rsa","alg":"none"}', json.dumps(claims())),
        "payload not an object": by_hand(rsa, [claims()], "RS256"),
        "payload text": by_hand(rsa, '"ada"', "RS256"),
        "payload empty": by_hand(rsa, b"", "RS256"),
        "payload not UTF-8": by_hand(rsa, b'{"sub":"\xff","exp":99999999999}', "RS256"),
        "payload in UTF-16": by_hand(rsa, json.dumps(claims()).encode("utf-16"), "RS256"),
        "payload with a byte order mark": by_hand(rsa, b"\xef\xbb\xbf" + json.dumps(claims()).encode(), "RS256"),
        "payload with NaN": _raw('{"alg":"RS256","kid":"rsa"}', json.dumps(claims())[:-1] + ',"x":NaN}'),
        "payload with something behind it": by_hand(rsa, json.dumps(claims()) + "{}", "RS256"),
        "payload nested a thousand times": by_hand(rsa, '{"a":' + "[" * 2000 + "]" * 2000 + "}", "RS256"),
        "header nested a thousand times": f"{encoded('[' * 3000)}.{right.split('.')[1]}.AA",
        "header not an object": f"{encoded('[]')}.{right.split('.')[1]}.AA",
        # base64 in another spelling (RFC 7515, 2; RFC 4648, 3)
        "padding": right + "==",
        "signature in ordinary base64": _with(right, signature=b64encode(bytes(256)).decode()),
        "signature with bits that are dropped": _other_last_bits(right),
        "payload with a newline": signed_by_hand(f"{encoded(rsa)}.{encoded(claims())}\n", "RS256"),
        "payload with a space": signed_by_hand(f"{encoded(rsa)}. {encoded(claims())}", "RS256"),
        "payload with padding": signed_by_hand(f"{encoded(rsa)}.{encoded(json.dumps(claims()) + ' ' * 2)}==", "RS256"),
        "header with a character that decoders skip": "!" + right,
        "letters that look alike": right.replace("e", "\u0435", 1),
        "a dot more": right + ".",
        "a dot in front": "." + right,
        "dots alone": "..",
        "nothing of a token": "AAAA",
        # signatures that hold for everything, or in another form (CVE-2022-21449; RFC 7518, 3.4)
        "r and s zero": by_hand(ec, claims()) + encoded(bytes(64)),
        "r zero": by_hand(ec, claims()) + encoded(bytes(32) + b"\1" * 32),
        "r and s the order": by_hand(ec, claims()) + encoded(order.to_bytes(32, "big") * 2),
        "r and s one": by_hand(ec, claims()) + encoded((1).to_bytes(32, "big") * 2),
        "ES256 in DER": _der_signature(),
        "ES256 too short": sign("ES256", kid="ec")[:-2],
        "ES256 too long": sign("ES256", kid="ec") + "AAAA",
        "EdDSA of zeros": by_hand({"alg": "EdDSA", "kid": "ed"}, claims()) + encoded(bytes(64)),
        "EdDSA with S beyond the order": by_hand({"alg": "EdDSA", "kid": "ed"}, claims()) + encoded(b"\xff" * 64),
        "RSA signature of zeros": by_hand(rsa, claims()) + encoded(bytes(256)),
        "RSA signature one": by_hand(rsa, claims()) + encoded((1).to_bytes(256, "big")),
        # changed after signing
        "another payload": _with(right, payload=encoded(claims(sub="root"))),
        "the signature of another token": _with(right, signature=sign(kid="rsa", sub="eve").split(".")[2]),
        "signed by another key": _foreign(),
        "signed by another key, without kid": _foreign(None),
        "another header": _with(right, header=encoded({"alg": "RS256", "kid": "rsa", "x": 1})),
        # times (RFC 7519, 2 and 4.1)
        "expired": sign(kid="rsa", exp=now - 60),
        "exp as text": by_hand(rsa, claims(exp=str(now + 600)), "RS256"),
        "exp null": by_hand(rsa, {**claims(), "exp": None}, "RS256"),
        "exp true": by_hand(rsa, claims(exp=True), "RS256"),
        "exp a list": by_hand(rsa, claims(exp=[now + 600]), "RS256"),
        "exp NaN": _number("exp", "NaN"),
        "exp Infinity": _number("exp", "Infinity"),
        "exp 1e999": _number("exp", "1e999"),
        "exp of 400 digits": _number("exp", "9" * 400),
        "exp of 5000 digits": _number("exp", "9" * 5000),
        "exp negative": by_hand(rsa, claims(exp=-1), "RS256"),
        "exp in milliseconds, negative": by_hand(rsa, claims(exp=-now * 1000), "RS256"),
        "exp absent": sign(kid="rsa", exp=None),
        "Exp in capitals": by_hand(rsa, {**claims(exp=None), "Exp": now + 600}, "RS256"),
        "not valid yet": sign(kid="rsa", nbf=now + 600),
        "nbf as text": by_hand(rsa, claims(nbf="0"), "RS256"),
        "made in the future": sign(kid="rsa", iat=now + 600),
        "iat as text": by_hand(rsa, claims(iat=str(now)), "RS256"),
        # for whom, by whom (RFC 8725, 2.6, 3.8 and 3.9)
        "another audience": sign(kid="rsa", aud="bank"),
        "no audience": sign(kid="rsa", aud=None),
        "audience a part of ours": sign(kid="rsa", aud="sho"),
        "audience in other letters": sign(kid="rsa", aud="Shop"),
        "audience an object": by_hand(rsa, claims(aud={"shop": True}), "RS256"),
        "audiences of other kinds": by_hand(rsa, claims(aud=[1, None, "shop"]), "RS256"),
        "another issuer": sign(kid="rsa", iss="https://evil.example"),
        "no issuer": sign(kid="rsa", iss=None),
        "issuer with a slash": sign(kid="rsa", iss="https://id.example/"),
        "issuer a list": by_hand(rsa, claims(iss=["https://id.example"]), "RS256"),
        "subject an object": by_hand(rsa, claims(sub={"id": "ada"}), "RS256"),
        # into the headers for the upstream
        "subject with a newline": sign(kid="rsa", sub="ada\r\nx-role: admin"),
        "subject with NUL": sign(kid="rsa", sub="ada\0"),
        "subject with spaces around it": sign(kid="rsa", sub=" ada"),
        # too much of everything
        "huge payload": sign(kid="rsa", more="x" * 20_000),
        "huge header": sign(kid="rsa", header={"x": "x" * 20_000}),
        "huge garbage": "A" * 100_000,
    }  # fmt: skip
    assert jwt.decode(right, public_pem("RS256"), ["RS256"], audience="shop"), "the one that they are made of is right"
    return found
