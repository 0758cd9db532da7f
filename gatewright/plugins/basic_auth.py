"""**basic-auth**: who may ask, by name and password (RFC 7617), against hashes that take time."""

from __future__ import annotations

from base64 import b64decode
from typing import Annotated

from gatewright import Plugin, Request, Response, Secret
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.credential_store import Credential, CredentialStore, StoreConfig, StoreFailedError
from gatewright.plugins._shared.credentials import AmbiguousCredentialsError, Place
from gatewright.plugins._shared.extras import extra
from gatewright.plugins._shared.identity import IdentityHeaders, leave_consumer
from gatewright.plugins._shared.model import field

with extra("basic-auth", plugin="basic-auth"):
    from gatewright.plugins._shared.passwords import PasswordChecker, TooManyChecksError, check_hash

__all__ = ["BasicAuth"]

_LONGEST = 4096


class User(Credential, frozen=True, kw_only=True):
    """A user; `consumer` is the name."""

    hash: Annotated[Secret, field("The password's hash: $argon2id$…, or $2b$… and $2y$… of bcrypt.")]


class BasicAuthConfig(StoreConfig, frozen=True, kw_only=True):
    """Who may ask."""

    users: Annotated[tuple[User, ...], field("The users. `file` may also be as `htpasswd -B` writes it.")] = ()
    hide: Annotated[bool, field("Don't send name and password on to the upstream.")] = True
    optional: Annotated[bool, field("Let requests without a name pass, too; a wrong one is refused all the same.")] = (
        False
    )
    consumer_header: Annotated[str, field("The header in which the upstream is told the user; empty: none.")] = (
        "x-consumer"
    )
    own_headers: Annotated[
        tuple[str, ...], field("Headers that users may have in `headers`: a client's own are always removed.")
    ] = ()
    realm: Annotated[str, field("What browsers show.", pattern=r"^[ !#-\[\]-~]+$")] = "api"
    checks: Annotated[int, field("Passwords that are checked at once, in each worker: a thread each.", ge=1, le=64)] = 2
    waiting: Annotated[int, field("Requests that may wait for that; more are answered with 503.", ge=0, le=10_000)] = (
        100
    )
    remember: Annotated[
        float, field("How long a right password isn't checked again.", unit="seconds", ge=0, le=3600)
    ] = 60.0
    remember_wrong: Annotated[
        float, field("How long a wrong password isn't checked again.", unit="seconds", ge=0, le=3600)
    ] = 10.0

    def __post_init__(self) -> None:
        if not self.users and not self.file and self.redis is None:
            raise ValueError("there are no users: give users, file or redis")


class BasicAuth(Plugin):
    """Lets users with the right password pass."""

    name = "basic-auth"
    version = "1.0.0"
    priority = 1100
    Config = BasicAuthConfig

    config: BasicAuthConfig

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        own = self.config
        self._place = Place(header="authorization", scheme="basic")
        for user in own.users:
            check_hash(user.hash.reveal(), user.consumer)
        self._store = CredentialStore(
            User, lambda user: user.consumer, own.users, own, plugin="basic-auth", read_line=_of_htpasswd
        )
        self._identity = IdentityHeaders.of_store(own.consumer_header, own.own_headers, own.users)
        self._checker = PasswordChecker(own.checks, own.waiting, own.remember, own.remember_wrong)
        for user in own.users[:1]:
            self._checker.takes_as_long_as(user.hash.reveal())
        self._decisions = counter("basic_auth_decisions", "Requests looked at, by what came of it.", ["decision"])

    async def setup(self) -> None:
        """Connect to the store."""
        await self._store.setup()

    async def teardown(self) -> None:
        """Leave it."""
        await self._checker.close()
        await self._store.teardown()

    async def on_request(self, request: Request) -> Response | None:
        """Check name and password."""
        try:
            said = self._place.find(request)
        except AmbiguousCredentialsError as error:
            return self._refuse("ambiguous", str(error))
        if said is None:
            if not self.config.optional:
                return self._refuse("missing", "name and password are needed")
            self._decisions.add("anonymous")
            self._identity.replace(request)
            return None
        login = _login(said)
        if login is None:
            return self._refuse("malformed", "the header authorization is not as RFC 7617 has it")
        try:
            user = await self._user(*login)
        except (StoreFailedError, TooManyChecksError) as error:
            self._decisions.add("unavailable")
            self.log.warning("passwords can't be checked", extra={"why": str(error) or "too many at once"})
            return Response.json({"error": "passwords can't be checked at the moment"}, 503, {"retry-after": "5"})
        if user is None:
            return self._refuse("wrong", "name or password is wrong")
        self._decisions.add("accepted")
        if self.config.hide:
            self._place.remove(request)
        self._identity.tell(request, user)
        leave_consumer(request, user.consumer)
        return None

    async def _user(self, name: str, password: str) -> User | None:
        """The user, if the password is right; whether there is such a user takes the same time."""
        user = await self._store.find(name)
        right = await self._checker.is_right(password, user.hash.reveal() if user is not None else None)
        return user if right else None

    def _refuse(self, decision: str, why: str) -> Response:
        self._decisions.add(decision)
        challenge = f'Basic realm="{self.config.realm}", charset="UTF-8"'
        return Response.json({"error": why}, 401, {"www-authenticate": challenge})


def _login(said: str) -> tuple[str, str] | None:
    if len(said) > _LONGEST:
        return None
    try:
        name, colon, password = b64decode(said, validate=True).decode("utf-8").partition(":")
    except ValueError:
        return None
    return (name, password) if colon and name.isprintable() else None


def _of_htpasswd(line: str) -> User:
    name, _, hashed = line.partition(":")
    return User(consumer=name, hash=Secret(check_hash(hashed, name)))
