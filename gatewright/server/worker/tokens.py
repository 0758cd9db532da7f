"""Tokens of configurations, which the supervisor gives out for all workers: what is asked of it, and its answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from gatewright.runtime.chain import Chain
from gatewright.runtime.confs import Conf, conf_digest
from gatewright.runtime.strands import Strand
from gatewright.server.ipc import messages
from gatewright.server.ipc.channel import Channel
from gatewright.server.worker.service import Service

__all__ = ["Tokens"]


class Tokens:
    """What a worker waits for.

    Attributes:
        lookups: how often a token was asked for that another worker may have given out.
        misses: how often there was none.
    """

    def __init__(self, service: Service, channel: Channel[messages.FromSupervisor]) -> None:
        """Begin with nothing asked.

        Args:
            service: the worker's service.
            channel: to the supervisor.
        """
        self._service = service
        self._channel = channel
        self._preparing: dict[bytes, tuple[str, Conf, list[Callable[[int | None], None]]]] = {}
        self._looking_up: dict[int, list[Strand]] = {}
        self.lookups = self.misses = 0

    def prepare(self, key: str, conf: Conf, answer: Callable[[int | None], None]) -> None:
        """Get a token for a configuration: `answer` has it, or `None` if none can be had."""
        digest = conf_digest(key, conf)
        token = self._service.confs.find(digest)
        if token is not None:
            answer(token)
            return
        if self._channel.closed:  # nobody is there who could give one
            answer(None)
            return
        waiting = self._preparing.get(digest)
        if waiting is not None:
            waiting[2].append(answer)
            return
        self._preparing[digest] = key, conf, [answer]
        packed = [(_raw(name), _raw(text)) for name, text in conf]
        self._channel.send(messages.Register(digest, messages.Conf(_raw(key), packed)))

    def lookup(self, token: int, strand: Strand) -> Chain | None:
        """The chain of a token that isn't known here, or `None` if nobody knows it. To be called in a strand."""
        if self._channel.closed:
            return None
        waiting = self._looking_up.setdefault(token, [])
        waiting.append(strand)
        if len(waiting) == 1:
            self.lookups += 1
            self._channel.send(messages.Lookup(token))
        try:
            return cast("Chain | None", self._service.bridge.wait_for_resume())
        finally:
            if strand in waiting:  # it goes on because its connection was lost
                waiting.remove(strand)

    def hear(self, message: messages.Known | messages.Unknown | messages.Assigned, *, build: bool) -> None:
        """What the supervisor says of a token.

        Args:
            message: what it says.
            build: chains of other workers' are built, too, which they are not while all there are come at the start.
        """
        match message:
            case messages.Known(token, digest, conf, quarantined):
                plugins = [(_text(name), _text(text)) for name, text in conf.plugins]
                chain, new = self._taken(token, digest, _text(conf.key), plugins, quarantined)
                if new and build:
                    self._service.build(chain)
                self._wake(token, chain)
            case messages.Unknown(token):
                self.misses += 1
                self._wake(token, None)
            case messages.Assigned(digest, token, quarantined):
                key, own, answers = self._preparing.pop(digest)
                chain, new = self._taken(token, digest, key, own, quarantined)
                # The token goes out first: APISIX holds one lock over all routes until it has it.
                for answer in answers:
                    answer(token)
                if new:
                    self._service.build(chain)

    def _taken(self, token: int, digest: bytes, key: str, conf: Conf, quarantined: bool) -> tuple[Chain, bool]:
        chain, new = self._service.confs.take(token, digest, key, conf)
        if new and quarantined:
            chain.quarantine()
        return chain, new

    def _wake(self, token: int, chain: Chain | None) -> None:
        waiting = self._looking_up.pop(token, [])
        while waiting:
            self._service.bridge.resume(waiting.pop(0), chain)

    def give_up(self) -> None:
        """The supervisor is gone: nobody will answer."""
        for token in list(self._looking_up):
            self._wake(token, None)
        preparing, self._preparing = self._preparing, {}
        for _, _, answers in preparing.values():
            for answer in answers:
                answer(None)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
