"""Telling the upstream, and later plugins, who asks: in headers that no client can forge."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from gatewright import ConfigError, Headers, Request
from gatewright.plugins._shared.credential_store import Credential
from gatewright.plugins._shared.keys import CONSUMER

__all__ = ["IdentityHeaders", "header_text", "leave_consumer"]


class IdentityHeaders:
    """Headers that only this plugin sets: a client's own, in any spelling, never reach the upstream."""

    __slots__ = ("_consumer", "_names", "_nothing")

    def __init__(self, names: Iterable[str], *, consumer: str = "") -> None:
        """Take the names.

        Args:
            names: of the headers.
            consumer: the one that tells the consumer; empty: none.

        Raises:
            ConfigError: one is not a header's name.
        """
        self._consumer = consumer.lower()
        self._names = tuple(dict.fromkeys(name.lower() for name in (*names, self._consumer) if name))
        self._nothing: dict[str, tuple[str, ...] | None] = dict.fromkeys(self._names)
        try:
            Headers([(name, "") for name in self._names]).discard_alike(*self._names)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    @classmethod
    def of_store(cls, consumer: str, own: Iterable[str], inline: Iterable[Credential]) -> IdentityHeaders:
        """Those of credentials: what any of the configuration's has, and what is named for those of a store.

        Args:
            consumer: the header that tells the consumer; empty: none.
            own: headers that credentials of a store may have.
            inline: the credentials of the configuration.
        """
        return cls([*own, *(name for each in inline for name in each.headers)], consumer=consumer)

    def tell(self, request: Request, credential: Credential) -> None:
        """Tell the upstream whose credential a request has; of its headers those that a client can't set."""
        told = {name.lower(): (value,) for name, value in credential.headers.items() if name.lower() in self._names}
        if self._consumer:
            told[self._consumer] = (credential.consumer,)
        self.replace(request, told)

    def all_of(self, values: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...] | None]:
        """These, which are known to be right for headers (`header_text`), and the other names without a value."""
        return {**self._nothing, **values}

    def replace(self, request: Request, values: Mapping[str, tuple[str, ...]] | None = None) -> None:
        """Remove what the client sent, and set these."""
        changes = self.all_of(values) if values else self._nothing
        if changes:
            request.headers.replace_alike(changes)


def header_text(value: Any) -> str | None:
    """A value as a header's: text as it is, the rest as JSON; `None` where it can't be one, or is nothing."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text if text.isprintable() and text == text.strip() else None


def leave_consumer(request: Request, name: str) -> None:
    """Let the plugins behind this one know the consumer (the key `{consumer}`)."""
    request.ctx[CONSUMER] = name
