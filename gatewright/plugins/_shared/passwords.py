"""Passwords against their hashes, argon2 and bcrypt: slow on purpose, so in threads, and not for the same one again."""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64encode
from hashlib import blake2b
from typing import Final

import argon2
import bcrypt

from gatewright import ConfigError
from gatewright.plugins._shared.expiring import ExpiringCache

__all__ = ["PasswordChecker", "TooManyChecksError", "check_hash"]

_BCRYPT: Final = ("$2b$", "$2y$", "$2a$")
_LONGEST_FOR_BCRYPT: Final = 72  # bytes: it looks at no more
_BCRYPT_HEAD, _BCRYPT_DIGEST = len("$2b$10$"), 31
_LONGEST: Final = 1024
_MOST_REMEMBERED: Final = 10_000


def check_hash(text: str, whose: str) -> str:
    """See that a hash is one that can be checked.

    Raises:
        ConfigError: it isn't; says how to make one.
    """
    try:
        if text.startswith("$argon2"):
            argon2.extract_parameters(text)
        elif text.startswith(_BCRYPT):
            bcrypt.checkpw(b"", text.encode())
        else:
            raise ValueError("it begins with neither $argon2 nor $2b$")
    except (ValueError, argon2.exceptions.InvalidHashError) as error:
        raise ConfigError(
            f"the password hash of {whose!r} can't be used: {error}. Make one with `htpasswd -nB NAME` (bcrypt), or "
            "with argon2-cffi's PasswordHasher().hash()"
        ) from None
    return text


class TooManyChecksError(Exception):
    """So many passwords are being checked that this one would have to wait too long."""


class PasswordChecker:
    """Checks passwords for one event loop.

    Args:
        most: checks at once; each keeps a core busy, argon2 also some dozen MiB.
        most_waiting: and so many more that wait.
        ttl: seconds for which a password that was right, or wrong, isn't checked again.
        wrong_ttl: the same for a wrong one.
    """

    def __init__(self, most: int, most_waiting: int, ttl: float, wrong_ttl: float) -> None:
        self._free = asyncio.Semaphore(most)
        self._room = most + most_waiting
        self._ttl, self._wrong_ttl = ttl, wrong_ttl
        self._known: ExpiringCache[bytes, bool] = ExpiringCache(_MOST_REMEMBERED)
        self._running: dict[bytes, asyncio.Task[bool]] = {}
        self._pepper = secrets.token_bytes(32)
        self._of_nobody = argon2.PasswordHasher().hash(secrets.token_hex(16))
        self._cost = ""

    async def is_right(self, password: str, hashed: str | None) -> bool:
        """Whether a password is the one of a hash; without a hash never, after the time that it would take.

        Raises:
            TooManyChecksError: it can't be said soon.
        """
        if len(password) > _LONGEST:
            return False
        if hashed is not None:
            self.takes_as_long_as(hashed)
        wanted = self._of_nobody if hashed is None else hashed
        digest = blake2b(f"{wanted}\0{password}".encode("utf-8", "surrogateescape"), key=self._pepper, digest_size=32)
        key = digest.digest()
        known = self._known.get(key)
        if known is not None:
            return known
        task = self._running.get(key)
        if task is None:
            if len(self._running) >= self._room:
                raise TooManyChecksError
            task = self._running[key] = asyncio.get_running_loop().create_task(self._check(password, wanted))
            task.add_done_callback(lambda _: self._running.pop(key, None))
        right = await asyncio.shield(task)
        self._known.put(key, right, self._ttl if right else self._wrong_ttl)
        return right

    def takes_as_long_as(self, hashed: str) -> None:
        """Let names that are nobody's take the time of this hash: otherwise the time tells which names there are."""
        cost = hashed.rsplit("$", 2)[0] if hashed.startswith("$argon2") else hashed[:_BCRYPT_HEAD]
        if cost != self._cost:
            self._cost = cost
            self._of_nobody = _hash_of_nothing(hashed)

    async def close(self) -> None:
        """End what waits."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _check(self, password: str, hashed: str) -> bool:
        async with self._free:
            return await asyncio.to_thread(_matches, password.encode("utf-8", "surrogateescape"), hashed)


def _hash_of_nothing(like: str) -> str:
    """A hash that no password has, and that is as costly to check as another one. Nothing is computed for it."""
    if like.startswith("$argon2"):
        head, salt, digest = like.rsplit("$", 2)
        return "$".join((head, *(_random_base64(len(part)) for part in (salt, digest))))
    return f"{like[:_BCRYPT_HEAD]}{bcrypt.gensalt(4).decode()[_BCRYPT_HEAD:]}{'.' * _BCRYPT_DIGEST}"


def _random_base64(length: int) -> str:
    """So many letters of base64 without padding."""
    return b64encode(secrets.token_bytes(length * 3 // 4)).decode().rstrip("=")


def _matches(password: bytes, hashed: str) -> bool:
    """Both compare in constant time."""
    if hashed.startswith("$argon2"):
        try:
            return argon2.PasswordHasher().verify(hashed, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
    if len(password) > _LONGEST_FOR_BCRYPT or b"\0" in password:
        return False  # what is beyond counts for nothing there, so many passwords would do
    return bcrypt.checkpw(password, hashed.encode())
