"""Signal handlers of plugins: what one raises is for its own plugin, not for whoever is at work when the signal comes.

Scripts end what takes too long by a handler that raises (`signal.alarm`). Python calls it wherever the main thread is
just then: in another plugin's handler, or in the midst of the runner's own code, and there it would refuse a request or
end a connection that has nothing to do with it. So an exception goes on only where the plugin's own code is
interrupted. Otherwise it's told, and has no effect.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import Any, Final

from gatewright.runtime.failures import FailureLog
from gatewright.runtime.strands import current_work

__all__ = ["contain_signal_handlers"]

_Handler = Callable[[int, "FrameType | None"], Any]
_AS_IT_IS: Final = (signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler, None)


class _Contained:
    """A plugin's handler, and whose it is."""

    def __init__(self, handler: _Handler, failures: FailureLog) -> None:
        self.handler = handler
        self._failures = failures
        self._name = _at_work()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.handler(number, frame)
        except BaseException as error:
            if (self._name and self._name == _at_work()) or _interrupts(self.handler, frame):
                raise
            self._failures.report(
                f"a plugin's handler for {signal.Signals(number).name} raised {type(error).__name__} while that plugin "
                "was not at work: it has no effect",
                kind="signals",
                plugin=self._name,
                error=error,
                traceback=True,
            )


def _at_work() -> str:
    under = current_work()
    return under[1].name if under is not None and under[1] is not None else ""


def _interrupts(handler: Any, frame: FrameType | None) -> bool:
    """Whether code of the file that a handler is written in is what waits for it to return."""
    code = getattr(getattr(handler, "__func__", handler), "__code__", None)
    while frame is not None and code is not None:
        if frame.f_code.co_filename == code.co_filename:
            return True
        frame = frame.f_back
    return False


def contain_signal_handlers() -> None:
    """Contain those that are set from now on. To be called before any plugin is imported; again, it does nothing."""
    if hasattr(signal.signal, "__wrapped__"):
        return
    set_handler, get_handler, failures = signal.signal, signal.getsignal, FailureLog()

    @wraps(set_handler)
    def contained(signalnum: Any, handler: Any) -> Any:
        as_it_is = handler in _AS_IT_IS or not callable(handler)
        return _of(set_handler(signalnum, handler if as_it_is else _Contained(handler, failures)))

    @wraps(get_handler)
    def of(signalnum: Any) -> Any:
        return _of(get_handler(signalnum))

    signal.signal, signal.getsignal = contained, of


def _of(handler: Any) -> Any:
    return handler.handler if isinstance(handler, _Contained) else handler
