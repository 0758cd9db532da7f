"""Lines that nobody reads, or that no disk has room for, hold nobody up."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gatewright.observe import outlet as outlets
from gatewright.observe.control import ask
from gatewright.observe.outlet import Outlet
from tests.conftest import RunnerProcess, StartRunner
from tests.peer import Peer

WriteFiles = Callable[..., Path]

LINE = b"x" * 99 + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reads, writes = os.pipe()
    yield reads, writes
    for fd in (reads, writes):
        os.close(fd)


def read_all(fd: int, outlet: Outlet) -> bytes:
    os.set_blocking(fd, False)
    got = b""
    while True:
        try:
            got += os.read(fd, 1 << 16)
        except BlockingIOError:
            if not outlet._waiting:
                return got
            outlet.flush()


@pytest.mark.parametrize("careful", [False, True])
def test_a_reader_that_stops_costs_lines_and_no_time(pipe: tuple[int, int], careful: bool) -> None:
    reads, writes = pipe
    outlet = Outlet(writes, most=1 << 18)
    if careful:  # as where `/proc` is not there, or the pipe is somebody else's
        outlet.close()
        outlet = Outlet(writes, own=True, most=1 << 18)
        outlet._own, outlet._careful = False, True
    began = time.monotonic()
    for _ in range(10_000):
        outlet.write(LINE)
    assert time.monotonic() - began < 2
    assert not fcntl.fcntl(writes, fcntl.F_GETFL) & os.O_NONBLOCK, "it is shared with whoever gave it to us"
    lost = outlet.lost
    assert lost
    assert outlet.take_lost() == 0, "there is no room to tell that yet"
    got = read_all(reads, outlet)
    assert got == LINE * (10_000 - lost)
    assert outlet.take_lost() == lost
    outlet.write(LINE)
    assert read_all(reads, outlet) == LINE
    outlet.close()


def test_a_socket_that_is_not_read_costs_no_time_either() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outlet = Outlet(ours.fileno(), most=1000)
        for _ in range(100_000):
            outlet.write(LINE)
        assert outlet.lost
        assert ours.getblocking()
        theirs.close()
        outlet.flush()
        outlet.write(LINE)
        outlet.close()


def test_a_full_disk_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outlet = Outlet.to_file(str(tmp_path / "log"))
    full = True
    write = os.write

    def write_unless_full(fd: int, data: bytes) -> int:
        if full:
            raise OSError(28, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(outlets.os, "write", write_unless_full)
    for _ in range(20_000):
        outlet.write(LINE)
    assert outlet.lost == 20_000 - (1 << 20) // len(LINE)
    assert outlet.why == "No space left on device"
    full = False
    assert outlet.flush()
    assert (tmp_path / "log").read_bytes() == LINE * (20_000 - outlet.lost)
    outlet.close()


def test_a_link_in_a_directory_that_others_may_write_is_not_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "log"
    target.write_text("")
    link.symlink_to(target)
    outlet = Outlet.to_file(str(link))  # nobody else could have put it here
    outlet.write(LINE)
    outlet.close()
    assert target.read_bytes() == LINE
    for mode in (0o777, 0o1777):
        tmp_path.chmod(mode)
        with pytest.raises(OSError, match="a symbolic link, in a directory that others may write"):
            Outlet.to_file(str(link))
        Outlet.to_file(str(target)).close()
    assert target.read_bytes() == LINE


def test_a_fork_does_not_write_its_parents_lines(pipe: tuple[int, int]) -> None:
    reads, writes = pipe
    outlet = Outlet(writes)
    for _ in range(1000):
        outlet.write(LINE)
    child = os.fork()
    if not child:
        outlet.flush()
        os._exit(1 if outlet._waiting else 0)
    assert os.waitpid(child, 0)[1] == 0
    assert read_all(reads, outlet) == LINE * 1000
    outlet.close()


# --- whole runners

NOISY = """
import ctypes, sys
from gatewright import Plugin

class Noisy(Plugin):
    def on_request(self, request):
        self.log.info("x" * 300 + " y")
        print("z" * 300)
        print("z" * 300, file=sys.__stderr__)
        ctypes.CDLL(None).puts(b"z" * 300)

class Quiet(Plugin):
    def on_request(self, request):
        request.headers["x"] = "1"
"""


def start_unread(plugins: Path, path: Path, *flags: str) -> tuple[RunnerProcess, int]:
    reads, writes = os.pipe()
    command = [sys.executable, "-m", "gatewright", "run", "-p", str(plugins), "--no-installed-plugins", *flags]
    process = subprocess.Popen(
        command, stdout=writes, stderr=writes, env={"APISIX_LISTEN_ADDRESS": f"unix:{path}"}, cwd=plugins
    )
    os.close(writes)
    runner = RunnerProcess(process, path, Path(os.devnull))
    runner.wait_until_listening()
    return runner, reads


def test_requests_and_signals_go_on_while_nobody_reads_the_log(plugin_dir: WriteFiles, tmp_path: Path) -> None:
    runner, reads = start_unread(plugin_dir(noisy=NOISY), tmp_path / "r.sock", "--workers", "2")
    try:
        peers = [Peer.connect(runner.socket) for _ in range(4)]
        noisy, quiet = peers[0].prepare(("noisy", "{}")), peers[0].prepare(("quiet", "{}"), key="quiet")
        for _ in range(500):
            for peer in peers:
                peer.request(noisy)
        assert all(peer.request(quiet) is not None for peer in peers)
        for peer in peers:
            peer.close()
        first = runner.workers()[0]["pid"]
        os.kill(first, signal.SIGKILL)
        runner.wait_for(lambda: len(runner.workers()) == 2 and first not in {w["pid"] for w in runner.workers()})
        with Peer.connect(runner.socket) as peer:
            assert peer.request(quiet) is not None
        began = time.monotonic()
        assert runner.stop() == 0
        assert time.monotonic() - began < 3
    finally:
        if runner.process.poll() is None:
            runner.process.kill()
            runner.process.wait()
        os.close(reads)


def test_lines_that_were_lost_are_counted_once_somebody_reads_again(plugin_dir: WriteFiles, tmp_path: Path) -> None:
    runner, reads = start_unread(plugin_dir(noisy=NOISY), tmp_path / "r.sock")
    try:
        with Peer.connect(runner.socket) as peer:
            noisy = peer.prepare(("noisy", "{}"))
            for _ in range(6000):
                peer.request(noisy)
        os.set_blocking(reads, False)
        got = b""
        deadline = time.monotonic() + 15
        while b"log lines were lost" not in got:
            assert time.monotonic() < deadline
            try:
                got += os.read(reads, 1 << 16)
            except BlockingIOError:
                time.sleep(0.02)
    finally:
        runner.process.kill()
        runner.process.wait()
        os.close(reads)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_stops_no_request_no_worker_and_no_rotation(
    start_runner: StartRunner, plugin_dir: WriteFiles, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems can't be mounted here")
    try:
        runner = start_runner("-p", plugin_dir(noisy=NOISY), "--log-file", disk / "log")
        with runner.peer() as peer:
            noisy = peer.prepare(("noisy", "{}"))
            for _ in range(500):
                peer.request(noisy)
        assert os.statvfs(disk).f_bavail == 0
        assert ask(f"{runner.socket}.control", "/log-level?level=info", method="POST")[0] == 200
        first = runner.workers()[0]["pid"]
        os.kill(first, signal.SIGKILL)
        runner.wait_for(lambda: runner.workers() and runner.workers()[0]["pid"] != first)
        with runner.peer() as peer:
            peer.request(noisy)
            (disk / "log").rename(disk / "log.1")
            runner.process.send_signal(signal.SIGUSR1)
            runner.wait_for((disk / "log").exists)
            (disk / "log.1").unlink()

            def written() -> bool:  # the worker hears of the new file a moment later
                peer.request(noisy)
                return "y" in (disk / "log").read_text()

            runner.wait_for(written)
        assert runner.stop() == 0
    finally:
        subprocess.run(["umount", "-l", disk], check=False)
