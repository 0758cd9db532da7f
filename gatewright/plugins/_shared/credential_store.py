"""Where the credentials of clients are: in the configuration, in a file that may change, in a Redis of one's own."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec

from gatewright import ConfigError, Secret
from gatewright.plugins._shared.expiring import ExpiringCache
from gatewright.plugins._shared.model import field
from gatewright.plugins._shared.redis_server import RedisConfig, RedisServer, ServerFailedError, shared_server

__all__ = ["Credential", "CredentialStore", "StoreConfig", "StoreFailedError"]

_MOST_KEPT: Final = 10_000
_LOOK_SECONDS: Final = 1.0


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """What all kinds of credentials say beside what they are."""

    consumer: Annotated[str, field("Whose it is: the upstream is told, and the plugins behind this one.")]
    headers: Annotated[dict[str, str], field("More headers for the upstream, of this consumer's requests.")] = {}
    expires: Annotated[datetime | None, field("From when on it is no longer good, like 2027-01-31T12:00:00Z.")] = None

    def check(self) -> None:
        """See that the upstream can be told what it says.

        Raises:
            ConfigError: it can't be sent in headers.
        """
        for text in (self.consumer, *self.headers.values()):
            if not text.isprintable() or text != text.strip() or not text:
                raise ConfigError(f"{text!r} can't be sent in a header")

    def is_good(self) -> bool:
        """Whether it has not expired."""
        if self.expires is None:
            return True
        expires = self.expires if self.expires.tzinfo is not None else self.expires.replace(tzinfo=UTC)
        return datetime.now(UTC) < expires


C = TypeVar("C", bound=Credential)


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where else credentials are."""

    file: Annotated[str, field("A JSON file with a list of more of them, read again when it changes; empty: none.")] = (
        ""
    )
    redis: Annotated[
        RedisConfig | None, field("A Redis or Valkey that has one as JSON under `redis_prefix` and its id.")
    ] = None
    redis_prefix: Annotated[
        str, field("What stands before the ids in Redis; empty: the plugin's name (without `gatewright-`) and a colon.")
    ] = ""
    redis_ttl: Annotated[float, field("How long what Redis said is used.", unit="seconds", ge=0)] = 60.0
    redis_absent_ttl: Annotated[
        float, field("How long Redis isn't asked again about what it doesn't have.", unit="seconds", ge=0)
    ] = 10.0


class StoreFailedError(Exception):
    """It can't be known now whether there is such a credential."""


class CredentialStore(Generic[C]):
    """Finds credentials by their id."""

    def __init__(
        self,
        kind: type[C],
        id_of: Callable[[C], str],
        inline: Iterable[C],
        config: StoreConfig,
        *,
        plugin: str,
        read_line: Callable[[str], C] | None = None,
    ) -> None:
        """Read what can be read now.

        Args:
            kind: the credentials' model.
            id_of: gives a credential's id.
            inline: those of the configuration.
            config: where others are.
            plugin: whose they are, for messages and Redis: its plain name, by whichever name it is called.
            read_line: reads one line of a file that is no JSON.

        Raises:
            ConfigError: the file can't be read, or two have one id.
        """
        self._kind = kind
        self._id_of = id_of
        self._config = config
        self._plugin = plugin
        self._read_line = read_line
        self._prefix = config.redis_prefix or f"{plugin}:"
        self._inline = self._by_id(inline)
        self._looked_at_ids = monotonic()
        self._file = Secret(f"file:{config.file}") if config.file else None
        self._text = ""
        self._known: dict[str, C] = self._inline
        self._absent: ExpiringCache[str, bool] = ExpiringCache(_MOST_KEPT)
        self._fetched: ExpiringCache[str, C] = ExpiringCache(_MOST_KEPT)
        self._server: RedisServer | None = None
        self._release: Callable[[], Awaitable[None]] | None = None
        self._look_at_file()

    async def setup(self) -> None:
        """Make the connections that it needs."""
        if self._config.redis is not None:
            self._server, self._release = await shared_server(self._config.redis, plugin=self._plugin)

    async def teardown(self) -> None:
        """Close them."""
        if self._release is not None:
            await self._release()

    async def find(self, id: str) -> C | None:
        """The credential of an id, if there is one that is good.

        Raises:
            StoreFailedError: Redis would have to be asked, and can't be.
        """
        self._look_at_file()
        self._look_at_ids()
        found = self._known.get(id)
        if found is None and self._server is not None:
            found = await self._ask(self._server, id)
        return found if found is not None and found.is_good() else None

    # --- files

    def _by_id(self, credentials: Iterable[C]) -> dict[str, C]:
        known: dict[str, C] = {}
        for each in credentials:
            each.check()
            if known.setdefault(self._id_of(each), each) is not each:
                raise ConfigError(f"two credentials are the same; the second is {each.consumer!r}'s")
        return known

    def _look_at_file(self) -> None:
        """Read the file again if it has changed; if that can't be read, what it held before stays."""
        if self._file is None or (text := self._file.reveal()) == self._text:
            return
        first, self._text = not self._text, text
        try:
            self._known = self._inline | self._by_id(self._read(text))
        except ConfigError as error:
            if first:
                raise
            self._file_failed(error)

    def _look_at_ids(self) -> None:
        """See whether credentials have other ids by now: a key may be a reference to a file, which has changed."""
        now = monotonic()
        if now - self._looked_at_ids < _LOOK_SECONDS:
            return
        self._looked_at_ids = now
        try:
            if all(self._id_of(each) == id for id, each in self._known.items()):
                return
            of_file = [each for id, each in self._known.items() if self._inline.get(id) is not each]
            inline = self._by_id(self._inline.values())
            self._known, self._inline = inline | self._by_id(of_file), inline
        except ConfigError as error:
            log = logging.getLogger(f"gatewright.plugin.{self._plugin}")
            log.warning("a credential has changed, but can't be used: what it was before stays: %s", error)

    def _file_failed(self, error: ConfigError) -> None:
        log = logging.getLogger(f"gatewright.plugin.{self._plugin}")
        log.warning("%s has changed, but can't be used: what it held before stays: %s", self._config.file, error)

    def _read(self, text: str) -> list[C]:
        if self._read_line is not None and not text.lstrip().startswith("["):
            lines = [line.strip() for line in text.splitlines()]
            return [self._read_line(line) for line in lines if line and not line.startswith("#")]
        try:
            return msgspec.json.decode(text, type=list[self._kind], dec_hook=_secret)  # type: ignore[name-defined]
        except msgspec.DecodeError as error:
            raise ConfigError(f"{self._config.file}: {error}") from None

    # --- Redis

    async def _ask(self, server: RedisServer, id: str) -> C | None:
        found = self._fetched.get(id)
        if found is not None or self._absent.get(id):
            return found
        try:
            raw: Any = await server.ask(lambda redis: redis.get(self._prefix + id))
        except ServerFailedError as error:
            raise StoreFailedError(str(error)) from error
        if raw is None:
            self._absent.put(id, True, self._config.redis_absent_ttl)
            return None
        try:
            found = msgspec.json.decode(raw, type=self._kind, dec_hook=_secret)
            found.check()
        except (msgspec.DecodeError, ConfigError) as error:
            raise StoreFailedError(f"what Redis has under {self._prefix}… is no credential: {error}") from None
        if self._id_of(found) != id:
            raise StoreFailedError(f"what Redis has under {self._prefix}… is another credential")
        self._fetched.put(id, found, self._config.redis_ttl)
        return found


def _secret(kind: type, value: Any) -> Any:
    if kind is Secret:
        return Secret(value)
    raise NotImplementedError(f"a credential can't hold {kind.__name__}")
