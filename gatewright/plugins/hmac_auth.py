"""**hmac-auth**: who may ask, by a signature over the request with a shared secret (HTTP Message Signatures)."""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode
from typing import Annotated, Any, Final, Literal
from weakref import WeakKeyDictionary

from gatewright import ConfigError, Plugin, Request, Response, Secret
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.credential_store import Credential, CredentialStore, StoreConfig, StoreFailedError
from gatewright.plugins._shared.http_signatures import (
    DERIVED,
    Message,
    Signature,
    SignatureError,
    has_digest,
    read_signature,
    signature_base,
    verify,
)
from gatewright.plugins._shared.identity import IdentityHeaders, leave_consumer
from gatewright.plugins._shared.model import field
from gatewright.plugins._shared.redis_server import RedisServer, ServerFailedError, shared_server
from gatewright.plugins._shared.targets import sent_target

__all__ = ["HmacAuth"]

_SHORTEST: Final = 32
_ALGORITHM: Final = "hmac-sha256"
_FIELDS: Final = ("signature-input", "signature")


class SigningKey(Credential, frozen=True, kw_only=True):
    """A secret that a client signs with."""

    id: Annotated[str, field("What the client names as keyid.", min_length=1)]
    secret: Annotated[Secret, field("The secret, of 32 bytes at least, as $env://NAME or file:/path if you like.")]
    encoding: Annotated[Literal["text", "base64"], field("How the secret's bytes are written.")] = "text"

    def usable_secret(self) -> bytes:
        """The secret.

        Raises:
            ConfigError: it is too short, or not written as it is said to be.
        """
        text = self.secret.reveal()
        try:
            secret = b64decode(text, validate=True) if self.encoding == "base64" else text.encode()
        except ValueError:
            raise ConfigError(f"the secret of {self.id!r} is not base64") from None
        if len(secret) < _SHORTEST:
            raise ConfigError(
                f"the secret of {self.id!r} has less than {_SHORTEST} bytes: a signature would give it away"
            )
        return secret


class HmacAuthConfig(StoreConfig, frozen=True, kw_only=True):
    """Whose signatures are good, and what they have to cover."""

    keys: Annotated[tuple[SigningKey, ...], field("The secrets.")] = ()
    label: Annotated[str, field("The signature to look at; empty: there has to be one only.")] = ""
    covered: Annotated[
        tuple[str, ...],
        field("What a signature has to cover: headers' names, and " + ", ".join(DERIVED) + "."),
    ] = ("@method", "@authority", "@path", "@query")
    body: Annotated[
        bool, field("Content-Digest has to be covered and right where there is a body. Bodies are read for that.")
    ] = True
    max_age: Annotated[
        float, field("How old a signature may be, or how far ahead its clock.", unit="seconds", gt=0, le=86400)
    ] = 300.0
    once: Annotated[
        bool, field("Each signature is good once; remembered in the worker, or for all in `redis` where there is one.")
    ] = True
    most_remembered: Annotated[
        int, field("Signatures that a worker remembers, without `redis`; more requests are refused.", ge=1)
    ] = 100_000
    tag: Annotated[str, field("What `tag` has to be, so that signatures for others are not good here; empty: any.")] = (
        ""
    )
    consumer_header: Annotated[str, field("The header in which the upstream is told the consumer; empty: none.")] = (
        "x-consumer"
    )
    own_headers: Annotated[
        tuple[str, ...], field("Headers that keys may have in `headers`: a client's own are always removed.")
    ] = ()
    hide: Annotated[bool, field("Don't send the signature on to the upstream.")] = False

    def __post_init__(self) -> None:
        if not self.keys and not self.file and self.redis is None:
            raise ValueError("there are no secrets: give keys, file or redis")
        for name in self.covered:
            if name.startswith("@") and name not in DERIVED:
                raise ValueError(f"covered knows {', '.join(DERIVED)}, not {name!r}")


class HmacAuth(Plugin):
    """Lets requests with a good signature pass."""

    name = "hmac-auth"
    version = "1.0.0"
    priority = 1030
    Config = HmacAuthConfig

    config: HmacAuthConfig

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        own = self.config
        for key in own.keys:
            key.usable_secret()
        self._store = CredentialStore(SigningKey, lambda key: key.id, own.keys, own, plugin="hmac-auth")
        self._identity = IdentityHeaders.of_store(own.consumer_header, own.own_headers, own.keys)
        self._covered = frozenset(name.lower() for name in own.covered)
        self._redis: RedisServer | None = None
        self._release: Any = None
        self._decisions = counter("hmac_auth_decisions", "Requests looked at, by what came of it.", ["decision"])

    async def setup(self) -> None:
        """Connect to the store."""
        await self._store.setup()
        if self.config.redis is not None and self.config.once:
            self._redis, self._release = await shared_server(self.config.redis, plugin=self.name)
        elif self.config.once:
            self.log.warning(
                "signatures that were used are remembered in this process alone: each further worker or runner takes "
                "them once more; name a Redis (`redis`) to remember them for all"
            )

    async def teardown(self) -> None:
        """Leave it."""
        await self._store.teardown()
        if self._release is not None:
            await self._release()

    async def on_request(self, request: Request) -> Response | None:
        """Verify the signature."""
        try:
            key = await self._judge(request)
        except SignatureError as error:
            self._decisions.add("refused")
            self.log.info("refused", extra={"why": str(error)})
            wanted = " ".join(f'"{name}"' for name in self.config.covered)
            accept = f'sig=({wanted});created;keyid;alg="{_ALGORITHM}"'  # RFC 9421, 5.1
            return Response.json(
                {"error": str(error)}, 401, {"accept-signature": accept, "www-authenticate": "Signature"}
            )
        except (StoreFailedError, ServerFailedError) as error:
            self._decisions.add("unavailable")
            self.log.warning("signatures can't be judged", extra={"why": str(error)})
            return Response.json({"error": "signatures can't be judged at the moment"}, 503, {"retry-after": "5"})
        self._decisions.add("accepted")
        if self.config.hide:
            request.headers.discard_alike(*_FIELDS)
        self._identity.tell(request, key)
        leave_consumer(request, key.consumer)
        return None

    async def _judge(self, request: Request) -> SigningKey:
        signature_input, value = (", ".join(request.headers.get_all(name)) for name in _FIELDS)
        if not signature_input or not value:
            raise SignatureError("a signature is needed")
        signature = read_signature(signature_input, value, self.config.label)
        expires = self._check_parameters(signature)
        key = await self._store.find(str(signature.parameters["keyid"]))
        base = signature_base(await self._message(request, signature), signature)
        # Without such a key, too, something is computed: the time doesn't tell whether there is one.
        if not verify(base, signature, key.usable_secret() if key is not None else bytes(_SHORTEST)) or key is None:
            raise SignatureError("the signature is wrong")
        await self._check_body(request, signature)
        if self.config.once:
            await self._check_first(request, key.id, signature, expires - time.time())
        return key

    def _check_parameters(self, signature: Signature) -> float:
        """See that the signature is for this, and for now; gives when it ends."""
        own, parameters, now = self.config, signature.parameters, time.time()
        if missing := self._covered - set(signature.components):
            raise SignatureError(f"the signature doesn't cover {', '.join(sorted(missing))}")
        if not isinstance(parameters.get("created"), int) or not isinstance(parameters.get("keyid"), str):
            raise SignatureError("the signature needs created and keyid")
        if parameters.get("alg", _ALGORITHM) != _ALGORITHM:
            raise SignatureError(f"the algorithm has to be {_ALGORITHM}")
        if own.tag and parameters.get("tag") != own.tag:
            raise SignatureError("the signature is for something else")
        expires = min(parameters["created"] + own.max_age, parameters.get("expires", float("inf")))
        if not now - own.max_age <= parameters["created"] <= now + own.max_age or now >= expires:
            raise SignatureError("the signature is too old, or from the future")
        return float(expires)

    async def _message(self, request: Request, signature: Signature) -> Message:
        """What may be signed; the gateway is asked for what the runner doesn't have as it was sent."""
        names, headers = signature.components, request.headers
        target = scheme = ""
        if {"@path", "@query", "@request-target", "@target-uri"} & set(names):
            target = await sent_target(request)
            if not target.startswith("/"):
                raise SignatureError("the request's target is not one that can be signed")
        if {"@scheme", "@target-uri", "@authority"} & set(names):
            scheme = await request.var("scheme") or ""
        values = {name: headers.get_all(name) for name in names if not name.startswith("@") and name == name.lower()}
        return Message(request.method, target, headers.get("host", ""), scheme, values)

    async def _check_body(self, request: Request, signature: Signature) -> None:
        if not self.config.body:
            return
        covered = "content-digest" in signature.components
        body = await request.body()
        if body and not covered:
            raise SignatureError("the signature doesn't cover content-digest, and there is a body")
        if covered and not has_digest(", ".join(request.headers.get_all("content-digest")), body):
            raise SignatureError("content-digest is not the body's")

    async def _check_first(self, request: Request, id: str, signature: Signature, seconds: float) -> None:
        """See that the signature wasn't used before."""
        if self._redis is not None:
            name = f"{self.config.redis_prefix or 'hmac-auth:'}seen:{id}:{signature.value.hex()}"
            milliseconds = max(int(seconds * 1000), 1)
            first = await self._redis.ask(lambda redis: redis.set(name, b"1", nx=True, px=milliseconds))
            if not first:
                raise SignatureError("the signature was used before")
            return
        _seen_at(request.route).add(signature.value, seconds, self.config.most_remembered)


class _Seen:
    """Signatures that were used. None is forgotten while it would be good: where there is no room, nobody passes."""

    def __init__(self) -> None:
        self.until: dict[bytes, float] = {}
        self._cleared = 0.0

    def add(self, value: bytes, seconds: float, most: int) -> None:
        """Remember one for some seconds.

        Raises:
            SignatureError: it was used before.
            StoreFailedError: there is no room.
        """
        now = time.monotonic()
        if self.until.get(value, 0.0) > now:
            raise SignatureError("the signature was used before")
        if len(self.until) >= most and now > self._cleared + 1:
            self._cleared = now
            self.until = {each: until for each, until in self.until.items() if until > now}
        if len(self.until) >= most:
            raise StoreFailedError("more signatures are to be remembered than there is room for (most_remembered)")
        self.until[value] = now + seconds


_memories: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Seen]] = WeakKeyDictionary()
"""Of each loop, by route: what was used has to survive a configuration that is changed, and so made anew."""


def _seen_at(route: str) -> _Seen:
    routes = _memories.setdefault(asyncio.get_running_loop(), {})
    if route not in routes:
        now = time.monotonic()
        for gone in [each for each, seen in routes.items() if all(until <= now for until in seen.until.values())]:
            del routes[gone]
        routes[route] = _Seen()
    return routes[route]
