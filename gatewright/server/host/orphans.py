"""A process that ends with its parent, whatever runs in it.

A worker whose supervisor is gone learns it from its channel, drains and ends; but a loop that a plugin holds looks at
no channel, and a C extension that keeps the interpreter's lock lets no thread look either. So the kernel is asked to
tell (`PR_SET_PDEATHSIG`), and what it calls is not Python: the signal's handler is libc's `alarm` itself, whose
argument is the signal's number. Five seconds later SIGALRM ends the process, unless it has ended by itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

__all__ = ["GRACE_SECONDS", "end_with_parent"]

_PR_SET_PDEATHSIG: Final = 1
_TOLD: Final = signal.SIGTRAP  # nobody but a debugger sends it
GRACE_SECONDS: Final = int(_TOLD)


def end_with_parent(parent: int) -> None:
    """End this process some seconds after its parent at the latest. To be called in the main thread.

    Args:
        parent: who that is; if it's gone already, this process ends at once.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.signal.argtypes = ctypes.c_int, ctypes.c_void_p
    libc.signal.restype = ctypes.c_void_p
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    libc.signal(_TOLD, ctypes.cast(libc.alarm, ctypes.c_void_p))
    libc.prctl(_PR_SET_PDEATHSIG, int(_TOLD), 0, 0, 0)  # elsewhere than on Linux the channel has to do
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)
