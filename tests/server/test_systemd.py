"""Life under systemd, or whoever speaks its protocols: notifications, the watchdog, passed sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import MEASURING, StartRunner
from tests.peer import Peer

WriteFiles = Callable[..., Path]

PLUGIN = """
from gatewright import Plugin
class P(Plugin):
    def on_request(self, request):
        request.headers["x"] = "1"
"""


class Manager:
    """The receiving end of sd_notify."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + path[1:] if path.startswith("@") else path)
        self.sock.settimeout(15)
        self.seen: list[str] = []

    def wait_for(self, line: str) -> str:
        while True:
            message = self.sock.recv(4096).decode()
            self.seen.append(message)
            if line in message.splitlines():
                return message


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_of_start_reload_and_stop(
    start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path, abstract: bool
) -> None:
    manager = Manager(f"@{tmp_path}/notify" if abstract else f"{tmp_path}/notify")
    environ = {"APISIX_LISTEN_ADDRESS": f"unix:{tmp_path}/runner-0.sock", "NOTIFY_SOCKET": manager.path}
    runner = start_runner("-p", plugin_dir(p=PLUGIN), "--workers", "2", "--drain", "10", environ=environ)
    assert "STATUS=2 workers" in manager.wait_for("READY=1")
    runner.process.send_signal(signal.SIGHUP)
    assert "MONOTONIC_USEC=" in manager.wait_for("RELOADING=1")
    manager.wait_for("READY=1")
    (tmp_path / "plugins" / "p.py").write_text("def broken(:\n")
    runner.process.send_signal(signal.SIGHUP)
    manager.wait_for("RELOADING=1")
    assert "STATUS=the last reload failed" in manager.wait_for("READY=1")
    runner.process.terminate()
    manager.wait_for("STOPPING=1")
    assert runner.process.wait(15) == 0
    manager.sock.close()


def test_the_watchdog_is_fed_while_workers_serve(
    start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path
) -> None:
    manager = Manager(f"{tmp_path}/notify")
    environ = {
        "APISIX_LISTEN_ADDRESS": f"unix:{tmp_path}/runner-0.sock", "NOTIFY_SOCKET": manager.path,
        "WATCHDOG_USEC": "1000000",
    }  # fmt: skip
    runner = start_runner("-p", plugin_dir(p=PLUGIN), environ=environ)
    manager.wait_for("READY=1")
    began = time.monotonic()
    for _ in range(4):
        manager.wait_for("WATCHDOG=1")
    assert time.monotonic() - began < 4
    assert runner.stop() == 0
    manager.sock.close()


PASS = """
import os, sys
sock = int(sys.argv[1])
os.dup2(sock, 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])
"""


def start_with_socket(sock: socket.socket, count: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PASS, str(sock.fileno()), count, sys.executable, "-m", "gatewright", "run",
         *map(str, arguments)],
        pass_fds=[sock.fileno()], env=MEASURING, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_socket_passed_by_systemd_is_served_and_left_in_place(plugin_dir: WriteFiles, tmp_path: Path) -> None:
    path = tmp_path / "passed.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        with Peer.connect(path) as early:  # dialled before the runner is there: it waits in the kernel
            process = start_with_socket(sock, "1", "-p", plugin_dir(p=PLUGIN), "--control", "off")
            assert early.request(early.prepare(("p", "{}"))) is not None
        process.terminate()
        _, log = process.communicate(timeout=10)
        assert process.returncode == 0, log
        assert path.exists()
        Peer.connect(path).close()  # systemd still listens


def test_more_than_one_passed_socket_is_refused(plugin_dir: WriteFiles, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "passed.sock"))
        sock.listen()
        process = start_with_socket(sock, "2", "-p", plugin_dir(p=PLUGIN))
        _, log = process.communicate(timeout=20)
    assert process.returncode == 2
    assert b"systemd passed 2 sockets" in log


def test_a_passed_socket_that_does_not_listen_is_refused(plugin_dir: WriteFiles, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "passed.sock"))
        process = start_with_socket(sock, "1", "-p", plugin_dir(p=PLUGIN))
        _, log = process.communicate(timeout=20)
    assert process.returncode == 2
    assert b"does not listen" in log


def test_a_socket_meant_for_another_process_is_not_taken(start_runner: StartRunner, plugin_dir: WriteFiles) -> None:
    path = plugin_dir(p=PLUGIN).parent / "runner-0.sock"
    environ = {"APISIX_LISTEN_ADDRESS": f"unix:{path}", "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    start_runner("-p", path.parent / "plugins", environ=environ).peer().close()
