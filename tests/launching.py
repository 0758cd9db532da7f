"""Start runners, plugin servers and their like without each of them importing everything anew.

Half of what a short-lived runner costs is importing: half a second of CPU, some six hundred times. So one process per
test process imports what they all need and then forks: each runner is a process of its own, with its own environment,
directory, arguments, signals and end; only the imports were made before. What a start from nothing is like is for the
tests that run the commands as users do (`tests/docs`, `tests/deploy`, everything started by `subprocess`).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

__all__ = ["Process", "launch", "run"]

_ROOT = Path(__file__).resolve().parent.parent
_CODE = struct.Struct("=i")
_LENGTH = struct.Struct("=I")
_MODULES = ("gatewright", "kong_pdk.cli")
_NEEDED = (
    "uvloop",
    "apisix.runner.plugin.base",
    "gatewright.cli.run",
    "gatewright.cli.dev",
    "gatewright.cli.doctor",
    "gatewright.dev.apisix.process",
    "gatewright.dev.kong.process",
    "gatewright.server.drivers.kong.driver",
    "kong_pdk.pdk.kong",
)


class Launched:
    """A forked process, used as `subprocess.Popen`: its parent, the forking process, tells how it ended."""

    def __init__(self, pid: int, args: list[str], ended: int) -> None:
        self.pid, self.args = pid, args
        self.returncode: int | None = None
        self._ended = ended

    def poll(self) -> int | None:
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], timeout)[0]:
            told = os.read(self._ended, _CODE.size)
            os.close(self._ended)
            assert told, "the process that forks for the tests has ended"
            self.returncode = int(_CODE.unpack(told)[0])
        return self.returncode


Process = subprocess.Popen[bytes] | Launched

_forking: socket.socket | None = None


def launch(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    output: IO[bytes] | IO[str],
    errors: IO[bytes] | IO[str] | None = None,
    cwd: Path | None = None,
) -> Process:
    """Start a command, its output (and errors) into a file: what is ours by forking."""
    errors = errors or output
    arguments = [os.fspath(part) for part in command]
    ours = arguments[0] == sys.executable and (
        arguments[1].endswith(".py") or (arguments[1] == "-m" and arguments[2] in _MODULES)
    )
    own_start = any(  # what is read when Python starts
        name.startswith(("PYTHON", "LD_")) and os.environ.get(name) != value for name, value in env.items()
    )
    if not ours or own_start:
        return subprocess.Popen(arguments, env=dict(env), stdout=output, stderr=errors, cwd=cwd)
    ended, tells = os.pipe()
    wish = json.dumps({"arguments": arguments[1:], "env": dict(env), "cwd": str(cwd or Path.cwd())}).encode()
    channel = _forking_process()
    socket.send_fds(channel, [_LENGTH.pack(len(wish))], [output.fileno(), errors.fileno(), tells])
    channel.sendall(wish)
    os.close(tells)
    return Launched(_CODE.unpack(_exactly(channel, _CODE.size))[0], arguments, ended)


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as `subprocess.run` with the output captured."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = launch(command, env=os.environ if env is None else env, output=output, errors=errors, cwd=cwd)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(command, code, *texts)


def _forking_process() -> socket.socket:
    global _forking
    if _forking is None:
        _forking, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.launching", str(theirs.fileno())], pass_fds=[theirs.fileno()], cwd=_ROOT
        )
        theirs.close()
        atexit.register(lambda: (_forking.close() if _forking else None, process.wait()))
    return _forking


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = channel.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


# --- in the process that forks


def _fork_as_told(channel: socket.socket) -> dict[str, Any]:
    """Fork for each wish. Returns in the forked processes only, with what to run."""
    told: dict[int, int] = {}
    wakes, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready = select.select([channel, wakes], [], [])[0]
        if wakes in ready:
            os.read(wakes, 512)
            _tell_of_the_ended(told)
        if channel not in ready:
            continue
        head, files, _, _ = socket.recv_fds(channel, _LENGTH.size, 3)
        if not head:
            sys.exit()
        wish: dict[str, Any] = json.loads(_exactly(channel, _LENGTH.unpack(head)[0]))
        output, errors, tells = files
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(output, 1)
            os.dup2(errors, 2)
            for file in (wakes, woken, *files, *told.values()):
                os.close(file)
            channel.close()
            return wish
        os.close(output)
        os.close(errors)
        told[pid] = tells
        channel.sendall(_CODE.pack(pid))


def _tell_of_the_ended(told: dict[int, int]) -> None:
    while told:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        tells = told.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # nobody asks for it
            os.write(tells, _CODE.pack(os.waitstatus_to_exitcode(status)))
        os.close(tells)


def _run(wish: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(wish["env"])
    os.chdir(wish["cwd"])
    first, *others = wish["arguments"]
    if first == "-m":
        module, *others = others
        sys.argv = [module, *others]
        sys.path[0] = wish["cwd"]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *others]
        sys.path[0] = str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    for needed in _NEEDED:
        importlib.import_module(needed)
    gc.freeze()
    _run(_fork_as_told(socket.socket(fileno=int(sys.argv[1]))))
