"""What a failure of a step means, decided here and nowhere else.

A step that raises, misses its deadline, is unknown or has an invalid configuration refuses the call, unless its policy
is "skip".
"""

from __future__ import annotations

from time import perf_counter
from typing import Final, Protocol

from gatewright.errors import (
    CallRefusedError,
    ConfigError,
    DeadlineExceededError,
    GatewayClosedError,
    NoHandlerError,
    OverloadedError,
    UnknownPluginError,
)
from gatewright.runtime.failures import FailureLog
from gatewright.runtime.pdk import PhaseExit
from gatewright.runtime.stats import Tally
from gatewright.runtime.steps import State, Step
from gatewright.runtime.strands import Strand

__all__ = ["Gateway", "step_failed"]


class Gateway(Protocol):
    """Whoever waits for the answer."""

    @property
    def is_over(self) -> bool:
        """The gateway is gone, or has its answer."""


def step_failed(
    step: Step,
    error: BaseException,
    *,
    strand: Strand,
    tally: Tally,
    started: float,
    gateway: Gateway,
    failures: FailureLog,
    route: str,
) -> float:
    """Log and count a failure; gives the time if the chain goes on without the step.

    Raises:
        CallRefusedError: the policy is to refuse the call.
        BaseException: the error itself, where it isn't the step's: the gateway is gone, or the strand has to end.
    """
    # Plugins may raise these themselves, and then it's a failure like any other.
    if (isinstance(error, GatewayClosedError | PhaseExit) and gateway.is_over) or strand.dies:
        raise error
    now = strand.began = perf_counter()
    tally.note(now - started)
    refused = step.on_error == "fail"
    kind = _kind_of(step, error)
    what = _WHAT[kind]
    failures.report(
        f"{what}: request {'refused' if refused else 'goes on without it (on_error = skip)'}",
        kind=kind,
        plugin=step.name,
        route=route,
        error=error,
        traceback=kind in {"setup_failed", "plugin_error"},
    )
    if refused:
        raise CallRefusedError(f"{what}: {step.name}") from error
    return now


_WHAT: Final = {
    "deadline": "plugin missed its deadline",
    "unknown_plugin": "plugin not found",
    "invalid_config": "plugin configuration is invalid",
    "no_handler": "plugin has no handler for this phase",
    "overloaded": "plugin is overloaded",
    "setup_failed": "plugin set-up failed",
    "plugin_error": "plugin failed",
}


def _kind_of(step: Step, error: BaseException) -> str:
    if isinstance(error, DeadlineExceededError):
        return "deadline"
    if isinstance(error, UnknownPluginError):
        return "unknown_plugin"
    if isinstance(error, NoHandlerError):
        return "no_handler"
    if isinstance(error, ConfigError):
        return "invalid_config"
    if isinstance(error, OverloadedError):
        return "overloaded"
    return "setup_failed" if step.state is State.SETUP_FAILED else "plugin_error"
