"""**api-key**: who may ask, by a key that the request brings along."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Annotated, Final

from gatewright import ConfigError, Plugin, Request, Response, Secret
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.credential_store import Credential, CredentialStore, StoreConfig, StoreFailedError
from gatewright.plugins._shared.credentials import AmbiguousCredentialsError, Place
from gatewright.plugins._shared.identity import IdentityHeaders, leave_consumer
from gatewright.plugins._shared.model import field

__all__ = ["ApiKey"]

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_SHORTEST: Final = 16
_LONGEST: Final = 1024


class Key(Credential, frozen=True, kw_only=True):
    """A key, or what is kept of it."""

    key: Annotated[
        Secret | None, field("The key, of 16 characters at least, as $env://NAME or file:/path if you like.")
    ] = None
    sha256: Annotated[str, field("Or its SHA-256 in hexadecimal, so that nobody learns the key here.")] = ""

    def __post_init__(self) -> None:
        if (self.key is None) == (not self.sha256):
            raise ValueError(f"the key of {self.consumer!r} has to be given as key or as sha256")
        if self.sha256 and not _HEX.fullmatch(self.sha256):
            raise ValueError(f"the sha256 of {self.consumer!r}'s key is not 64 digits of 0-9a-f")

    @property
    def digest(self) -> str:
        """Under this it is looked up."""
        if self.key is None:
            return self.sha256
        key = self.key.reveal()
        if len(key) < _SHORTEST:
            raise ConfigError(f"the key of {self.consumer!r} has {len(key)} characters; {_SHORTEST} are the least")
        return _digest(key)


class ApiKeyConfig(StoreConfig, frozen=True, kw_only=True):
    """Whose keys are good, and where they are found in a request."""

    keys: Annotated[tuple[Key, ...], field("Keys, and whose they are.")] = ()
    header: Annotated[str, field("The header that holds the key; empty: none.")] = "x-api-key"
    scheme: Annotated[str, field("What stands before the key in that header, `Bearer` say; empty: nothing.")] = ""
    cookie: Annotated[str, field("A cookie that may hold the key; empty: none.")] = ""
    argument: Annotated[str, field("An argument of the query that may hold the key; empty: none.")] = ""
    hide: Annotated[bool, field("Don't send the key on to the upstream.")] = False
    optional: Annotated[bool, field("Let requests without a key pass, too; a wrong key is refused all the same.")] = (
        False
    )
    consumer_header: Annotated[str, field("The header in which the upstream is told the consumer; empty: none.")] = (
        "x-consumer"
    )
    own_headers: Annotated[
        tuple[str, ...], field("Headers that keys may have in `headers`: a client's own are always removed.")
    ] = ()
    realm: Annotated[str, field("The realm in WWW-Authenticate.", pattern=r"^[ !#-\[\]-~]*$")] = "api"

    def __post_init__(self) -> None:
        if not self.keys and not self.file and self.redis is None:
            raise ValueError("there are no keys: give keys, file or redis")
        if not (self.header or self.cookie or self.argument):
            raise ValueError("the key has to come from somewhere: header, cookie or argument")


class ApiKey(Plugin):
    """Lets requests with a key that is known pass."""

    name = "api-key"
    version = "1.0.0"
    priority = 1250
    Config = ApiKeyConfig

    config: ApiKeyConfig

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        own = self.config
        self._place = Place(own.header.lower(), own.scheme.lower(), own.cookie, own.argument)
        self._store = CredentialStore(Key, lambda key: key.digest, own.keys, own, plugin="api-key")
        self._identity = IdentityHeaders.of_store(own.consumer_header, own.own_headers, own.keys)
        self._decisions = counter("api_key_decisions", "Requests looked at, by what came of it.", ["decision"])

    async def setup(self) -> None:
        """Connect to the store."""
        await self._store.setup()

    async def teardown(self) -> None:
        """Leave it."""
        await self._store.teardown()

    async def on_request(self, request: Request) -> Response | None:
        """Look the key up."""
        try:
            key = self._place.find(request)
        except AmbiguousCredentialsError as error:
            return self._refuse("ambiguous", str(error))
        if key is None:
            if not self.config.optional:
                return self._refuse("missing", "a key is needed")
            self._decisions.add("anonymous")
            self._identity.replace(request)
            return None
        try:
            found = await self._store.find(_digest(key)) if len(key) <= _LONGEST else None
        except StoreFailedError as error:
            self._decisions.add("unavailable")
            self.log.warning("keys can't be looked up", extra={"why": str(error)})
            return Response.json({"error": "keys can't be looked up at the moment"}, 503, {"retry-after": "5"})
        if found is None:
            return self._refuse("wrong", "the key is not known")
        self._decisions.add("accepted")
        if self.config.hide:
            self._place.remove(request)
        self._identity.tell(request, found)
        leave_consumer(request, found.consumer)
        return None

    def _refuse(self, decision: str, why: str) -> Response:
        self._decisions.add(decision)
        challenge = "ApiKey" + (f' realm="{self.config.realm}"' if self.config.realm else "")
        return Response.json({"error": why}, 401, {"www-authenticate": challenge})


def _digest(key: str) -> str:
    """A key's SHA-256: a key is long and made at random, so nothing slower is needed, and its lookup tells no time."""
    return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
