"""The exception tree: every error that Gatewright raises on purpose is a `GatewrightError`.

The branches differ by who can cure them: `ConfigError` the operator or the route's author, `DiscoveryError` and
`PluginError` the plugin's author, `ProtocolError` whoever speaks at the other end of the socket.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = [
    "CallRefusedError",
    "ConfigError",
    "DeadlineExceededError",
    "DiscoveryError",
    "GatewayClosedError",
    "GatewrightError",
    "ListenError",
    "MustAwaitError",
    "NoHandlerError",
    "NotAvailableError",
    "NotJsonError",
    "OverloadedError",
    "PluginError",
    "ProtocolError",
    "UnknownPluginError",
    "tangible",
    "text_of",
    "words_of",
]


class GatewrightError(Exception):
    """Base of all errors raised by Gatewright itself."""


class ConfigError(GatewrightError):
    """A setting or a plugin's configuration is invalid; the message names the field and what was expected."""


class DiscoveryError(GatewrightError):
    """A plugin file could not be loaded; the message names the file, the line and the cause."""


class ListenError(GatewrightError):
    """The socket could not be bound; the message says who holds it or which right is missing."""


class ProtocolError(GatewrightError):
    """The peer sent bytes that the protocol does not allow. The connection can't be used any further."""


class PluginError(GatewrightError):
    """A plugin did something that can't be carried out, so its call is refused."""


class CallRefusedError(PluginError):
    """A plugin failed and its policy is to refuse the call. Whoever raised this has logged the cause."""


class UnknownPluginError(PluginError):
    """A configuration names a plugin that was not found."""


class NoHandlerError(ConfigError):
    """A configuration names a plugin under a phase for which it has no handler."""


class DeadlineExceededError(PluginError):
    """A handler ran longer than its timeout."""


class NotAvailableError(PluginError):
    """The gateway doesn't offer this value in this phase; the message says what to use instead."""


class NotJsonError(PluginError, ValueError):
    """A body is not JSON, which is its sender's fault: a handler may answer `Response(400, body=str(error))`."""


class MustAwaitError(GatewrightError, RuntimeError):
    """The caller wanted to wait where only `await` can, or outside of a call."""


class OverloadedError(GatewrightError):
    """A limit on concurrent calls was reached; the call is refused at once rather than queued."""


class GatewayClosedError(GatewrightError):
    """The gateway closed the connection while the plugin was waiting for its answer."""


_NAME: Final[Any] = type.__dict__["__name__"]
_TRACEBACK: Final[Any] = BaseException.__dict__["__traceback__"]


def text_of(error: BaseException) -> str:
    """An exception's text, whatever its class does when it's asked for it."""
    try:
        return str.__str__(f"{error}")  # a plain one: of a class of its own it may do anything, too
    except BaseException:  # a plugin's own class may do anything here
        return "(its text can't be had)"


def words_of(error: BaseException) -> str:
    """An exception's type and text."""
    text, name = text_of(error), _NAME.__get__(type(error))
    return f"{name}: {text}" if text else str(name)


def tangible(error: BaseException) -> BaseException:
    """The same exception; where its class lies, or fails when it's looked at, another one that tells of it.

    What a failure means is not for the failure to say.
    """
    kind = type(error)
    try:
        _ = error.__traceback__, error.__cause__, error.__context__, error.__suppress_context__
        names = kind.__name__, kind.__qualname__, kind.__module__
        if error.__class__ is kind and all(type(name) is str for name in names):
            return error
    except BaseException:  # noqa: S110 - its class may do anything here; what follows asks it for nothing
        pass
    stand_in = PluginError(f"{words_of(error)} (its class is not what it seems)")
    return stand_in.with_traceback(_TRACEBACK.__get__(error))
