"""A Redis or Valkey: how to reach it (one server, Sentinel, Cluster; TLS, ACL users), and what if it is gone."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import msgspec

from gatewright import ConfigError, Secret
from gatewright.plugins._shared.breaker import CircuitBreaker, CircuitState
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.extras import extra
from gatewright.plugins._shared.model import field

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisConfig", "RedisServer", "ServerFailedError", "shared_server"]

log = logging.getLogger("gatewright.plugins.redis")

T = TypeVar("T")
_FAILURES: Final = 2
_SPARE: Final = 2
"""Connections of the pool beyond those that are used at once: one that broke may not have been given back yet."""
_DEFAULT_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


class RedisConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a Redis or Valkey."""

    url: Annotated[
        Secret | None,
        field("`redis://user:password@host:6379/0`, `rediss://` for TLS, or `unix:///path`; instead of `servers`."),
    ] = None
    mode: Annotated[
        Literal["single", "sentinel", "cluster"],
        field("What `servers` are: the one server, Sentinels that know it, or some nodes of a Cluster."),
    ] = "single"
    servers: Annotated[
        tuple[str, ...], field("`host:port` of the server, of all Sentinels, or of some nodes of the Cluster.")
    ] = ("127.0.0.1:6379",)
    master: Annotated[str, field("With Sentinel: the name under which it knows the server.", min_length=1)] = "mymaster"
    database: Annotated[int, field("Number of the database; a Cluster has 0 only.", ge=0)] = 0
    username: Annotated[str | None, field("The ACL user. Without it the server's default user.")] = None
    password: Annotated[Secret | None, field("The user's password, read again for each new connection.")] = None
    sentinel_username: Annotated[str | None, field("The ACL user for the Sentinels themselves.")] = None
    sentinel_password: Annotated[Secret | None, field("The password for the Sentinels themselves.")] = None
    tls: Annotated[bool, field("Speak TLS, with the servers' certificates verified.")] = False
    tls_ca: Annotated[str | None, field("File with the authorities to trust. Without it the system's.")] = None
    tls_certificate: Annotated[str | None, field("File with the client's certificate, for servers that ask.")] = None
    tls_key: Annotated[str | None, field("File with the client certificate's private key.")] = None
    tls_verify: Annotated[bool, field("Verify certificates and names. `false` is for tests alone.")] = True
    timeout: Annotated[
        float, field("How long an answer may take, connecting included.", unit="seconds", gt=0, le=60)
    ] = 0.25
    connections: Annotated[
        int, field("Connections at most, in each worker and to each server.", unit="connections", ge=1, le=1000)
    ] = 4
    retry_after: Annotated[
        float,
        field("After failures, how long nobody tries; twice as long with each more, up to 30 s.", unit="seconds", gt=0),
    ] = 1.0

    def __post_init__(self) -> None:
        if self.url is not None and (self.mode != "single" or self.servers != ("127.0.0.1:6379",)):
            raise ValueError("url is for one server: with it, leave mode and servers away")
        if not self.servers:
            raise ValueError("servers has to name one")
        for server in self.servers:
            _address(server, _DEFAULT_PORT)
        if self.mode == "cluster" and self.database:
            raise ValueError("a Cluster has database 0 only")
        if self.tls_key is not None and self.tls_certificate is None:
            raise ValueError("tls_key needs tls_certificate, too")


_SERVER: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\s\[\]]+))(?::(\d{1,5}))?")


def _address(text: str, port: int) -> tuple[str, int]:
    found = _SERVER.fullmatch(text)
    if found is None or not 0 < int(found[3] or port) < 65536:
        shown = repr(text) if "@" not in text else "with a user or a password: these have fields of their own"
        raise ValueError(f"servers are written host:port or [::1]:port, not {shown}")
    return found[1] or found[2], int(found[3] or port)


class ServerFailedError(Exception):
    """It did not answer, or is left alone for a while because it did not; the message says what happened."""


class RedisServer:
    """A server and the connections to it, for one event loop. See `shared_server`."""

    def __init__(self, config: RedisConfig) -> None:
        """Prepare; nothing is connected yet.

        Args:
            config: where it is.

        Raises:
            ConfigError: a secret is not where it should be.
        """
        self.config = config
        self.is_cluster = config.mode == "cluster"
        self.timeout = config.timeout
        self._changes = counter("redis_circuit_changes", "Times that a Redis was given up, or came back.", ["state"])
        self.breaker = CircuitBreaker(
            failures=_FAILURES, pause=config.retry_after, trial_seconds=2 * config.timeout, on_change=self._changed
        )
        self.client: Redis = _client(config)
        self._room = asyncio.Semaphore(config.connections)
        """Who comes beyond that waits, within the timeout: the pool itself would fail at once."""
        self._last = ""
        self._kept: dict[Callable[[RedisServer], Any], Any] = {}

    def kept(self, make: Callable[[RedisServer], T]) -> T:
        """Something made of this server once, for all who use it.

        Args:
            make: makes it.
        """
        if make not in self._kept:
            self._kept[make] = make(self)
        made: T = self._kept[make]
        return made

    def _changed(self, state: CircuitState) -> None:
        self._changes.add(state.value.replace(" ", "_"))
        if state is CircuitState.OPEN:
            log.error("%s does not answer and is left alone for a while: %s", self._name, self._last)
        elif state is CircuitState.CLOSED:
            log.warning("%s answers again", self._name)

    @property
    def _name(self) -> str:
        config = self.config
        return "redis" if config.url is not None else f"redis {config.mode} {', '.join(config.servers)}"

    async def ask(self, work: Callable[[Redis], Awaitable[T]]) -> T:
        """Do something with the client, within the timeout.

        Raises:
            ServerFailedError: it can't be done now.
        """
        from redis.exceptions import RedisClusterException, RedisError

        if not self.breaker.allows():
            raise ServerFailedError(f"{self._name} is left alone for {self.breaker.retry_after:.1f} s more")
        try:
            async with asyncio.timeout(self.timeout), self._room:
                result = await work(self.client)
        except (RedisError, RedisClusterException, OSError, TimeoutError, ConfigError) as error:
            # An answer that refuses (a wrong password, a script's error) is a failure like any other here.
            self._last = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self.breaker.failed()
            raise ServerFailedError(f"{self._name}: {self._last}") from error
        self.breaker.succeeded()
        return result

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()
        sentinel = getattr(getattr(self.client, "connection_pool", None), "sentinel_manager", None)
        for each in sentinel.sentinels if sentinel is not None else ():
            await each.aclose()


def _client(config: RedisConfig) -> Redis:
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.cluster import ClusterNode
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel
    from redis.backoff import NoBackoff

    # Tried again once, at once: a connection that was idle may have been closed. That a script may thereby run twice
    # counts something once too often, never too seldom.
    common: dict[str, Any] = {
        "socket_connect_timeout": config.timeout, "socket_timeout": config.timeout, "protocol": 2,
        "retry": Retry(NoBackoff(), 1),
    }  # fmt: skip
    if config.tls:
        common |= {
            "ssl_ca_certs": config.tls_ca, "ssl_certfile": config.tls_certificate, "ssl_keyfile": config.tls_key,
            "ssl_cert_reqs": "required" if config.tls_verify else "none", "ssl_check_hostname": config.tls_verify,
        }  # fmt: skip
    login = _credentials(config.username, config.password)
    if config.url is not None:
        try:
            return Redis.from_url(config.url.reveal(), max_connections=config.connections + _SPARE, **common, **login)
        except ValueError:  # what it says may hold the password
            raise ConfigError(
                "redis.url is no URL of a Redis: redis://user:password@host:6379/0, rediss://... or unix:///path"
            ) from None
    if config.mode == "cluster":
        nodes = [ClusterNode(*_address(server, _DEFAULT_PORT)) for server in config.servers]
        return RedisCluster(  # type: ignore[return-value]  # its commands are the same
            startup_nodes=nodes, max_connections=config.connections + _SPARE, ssl=config.tls, **common, **login
        )
    common |= {"db": config.database, **login}
    if config.mode == "single":
        host, port = _address(config.servers[0], _DEFAULT_PORT)
        return Redis(host=host, port=port, ssl=config.tls, max_connections=config.connections + _SPARE, **common)
    asked = {name: value for name, value in common.items() if name not in ("db", "credential_provider")}
    sentinels = [_address(server, _SENTINEL_PORT) for server in config.servers]
    if config.tls:
        asked["ssl"] = True
        common["ssl"] = True
    asked |= _credentials(config.sentinel_username, config.sentinel_password)
    found: Redis = Sentinel(sentinels, sentinel_kwargs=asked).master_for(  # type: ignore[no-untyped-call]
        config.master, max_connections=config.connections + _SPARE, **common
    )
    return found


def _credentials(username: str | None, password: Secret | None) -> dict[str, Any]:
    if password is None:
        return {}
    from redis.credentials import CredentialProvider

    reveal = password.reveal

    class Credentials(CredentialProvider):
        """Asked for each new connection: the password may have changed."""

        def get_credentials(self) -> tuple[str] | tuple[str, str]:
            secret = reveal()
            return (secret,) if username is None else (username, secret)

        async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
            return self.get_credentials()

    return {"credential_provider": Credentials()}


# --- one for all that say the same

_servers: dict[tuple[asyncio.AbstractEventLoop, RedisConfig], list[Any]] = {}
"""Servers in use, and by how many: routes that name the same one share its connections. Empty when none is in use."""


async def shared_server(config: RedisConfig, *, plugin: str) -> tuple[RedisServer, Callable[[], Awaitable[None]]]:
    """The server of a configuration, and what to await when it is no longer used.

    Args:
        config: where it is.
        plugin: who needs it, for messages.

    Raises:
        ConfigError: the package `redis` is missing, or a secret is not where it should be.
    """
    await asyncio.to_thread(_import, plugin)  # it takes a good part of a second
    key = asyncio.get_running_loop(), config
    entry = _servers.get(key)
    if entry is None:
        entry = _servers[key] = [RedisServer(config), 0]
    entry[1] += 1
    server: RedisServer = entry[0]

    async def release() -> None:
        entry[1] -= 1
        if not entry[1]:
            del _servers[key]
            await server.close()

    return server, release


def _import(plugin: str) -> None:
    with extra("redis", plugin=plugin):
        import redis.asyncio.cluster
        import redis.asyncio.sentinel  # noqa: F401
