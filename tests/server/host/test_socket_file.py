"""The socket's file, in directories that others may write in."""

from __future__ import annotations

import multiprocessing
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gatewright.errors import ConfigError, ListenError
from gatewright.server.host import socket_file
from gatewright.server.host.listener import Listener
from gatewright.server.host.socket_file import bind_file, remove_file
from gatewright.settings import Address, parse_address

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def bind(path: Path, *, uid: int = -1) -> socket.socket:
    return bind_file(path, mode=0o660, uid=uid, gid=-1, backlog=8, open_directory=False)[0]


def replace_by_link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def replace_by_file(path: Path, target: Path) -> None:
    path.unlink()
    os.link(target, path)


def replace_by_socket(path: Path, _: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))


@pytest.mark.parametrize("replace", [replace_by_link, replace_by_file, replace_by_socket])
def test_what_somebody_put_in_the_sockets_place_is_not_touched(
    replace: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, path = tmp_path / "another", tmp_path / "r.sock"
    target.write_text("not yours")
    target.chmod(0o600)
    bind_only = socket_file._bind

    def bind_and_lose(sock: socket.socket, path: Path) -> None:
        bind_only(sock, path)
        replace(path, target)

    monkeypatch.setattr(socket_file, "_bind", bind_and_lose)
    with pytest.raises(ListenError, match=r"gone as soon|somebody replaced the socket"):
        bind(path, uid=os.geteuid())
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_directory_where_everybody_may_replace_files_is_refused_unless_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    path = tmp_path / "r.sock"
    with pytest.raises(ListenError, match=r"everybody may replace files .* --socket-open-directory"):
        bind(path)
    bind_file(path, mode=0o660, uid=-1, gid=-1, backlog=8, open_directory=True)[0].close()
    tmp_path.chmod(0o1777)
    bind(path).close()


def test_a_file_is_removed_only_from_the_directory_that_it_was_made_in(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    sock, found = bind_file(one / "r.sock", mode=0o660, uid=-1, gid=-1, backlog=8, open_directory=False)
    sock.close()
    one.rename(other)
    one.mkdir()
    os.link(other / "r.sock", one / "r.sock")
    remove_file(one / "r.sock", found)
    assert (one / "r.sock").exists()
    remove_file(other / "r.sock", found)
    assert not (other / "r.sock").exists()


def start_at_once(path: str, barrier: object, results: object, go_on: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    try:
        listener = Listener.bind(Address(path=path), warn=False)
    except ListenError as error:
        results.put(str(error))  # type: ignore[attr-defined]
        return
    results.put("listens")  # type: ignore[attr-defined]
    go_on.wait(10)  # type: ignore[attr-defined]
    listener.socket.close()


def test_of_two_that_start_at_once_one_listens_and_the_other_says_so(tmp_path: Path) -> None:
    path = str(tmp_path / "r.sock")
    context = multiprocessing.get_context("fork")
    for _ in range(10):
        with socket.socket(socket.AF_UNIX) as stale:
            Path(path).unlink(missing_ok=True)
            stale.bind(path)
        barrier, results, go_on = context.Barrier(2), context.Queue(), context.Event()
        two = [context.Process(target=start_at_once, args=(path, barrier, results, go_on)) for _ in range(2)]
        for process in two:
            process.start()
        got = sorted(results.get(timeout=20) for _ in two)
        go_on.set()
        for process in two:
            process.join()
        assert got[1] == "listens"
        assert "is in use by another running process" in got[0]


CONNECT = """
import os, socket, sys
path, uid, gid, *groups = sys.argv[1:]
os.setgroups([int(group) for group in groups])
os.setgid(int(gid))
os.setuid(int(uid))
with socket.socket(socket.AF_UNIX) as sock:
    try:
        sock.connect(path)
    except PermissionError:
        sys.exit(13)
"""


def may_connect(path: Path, uid: int, gid: int, groups: list[int]) -> bool:
    command = [sys.executable, "-c", CONNECT, str(path), *map(str, (uid, gid, *groups))]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode in (0, 13), run.stderr
    return run.returncode == 0


@as_root
def test_a_socket_given_to_nobody_is_closed_to_group_nogroup(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory != directory.parent and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o011)
    inner = tmp_path / "setgid"
    inner.mkdir()
    os.chown(inner, 0, 65534)
    inner.chmod(0o2755)  # files in it get its group
    for path in (tmp_path / "r.sock", inner / "r.sock"):
        listener = Listener.bind(Address(path=str(path)), owner="nobody")
        try:
            assert may_connect(path, 65534, 65534, [])
            assert not may_connect(path, 12345, 65534, []), "primary group"
            assert not may_connect(path, 12345, 12345, [65534]), "supplementary group"
            assert not may_connect(path, 12345, 12345, [])
        finally:
            listener.close()


@as_root
def test_a_directory_that_a_group_shares_gives_the_socket_to_it(tmp_path: Path) -> None:
    os.chown(tmp_path, 0, 23456)
    tmp_path.chmod(0o2755)
    path = tmp_path / "r.sock"
    listener = Listener.bind(Address(path=str(path)), owner="nobody")
    assert path.stat().st_gid == 23456
    listener.close()


@as_root
def test_a_group_that_is_named_may_connect(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory != directory.parent and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o011)
    path = tmp_path / "r.sock"
    listener = Listener.bind(Address(path=str(path)), owner="nobody", group="23456")
    try:
        assert may_connect(path, 12345, 12345, [23456])
        assert not may_connect(path, 12345, 65534, [])
    finally:
        listener.close()


@as_root
def test_run_as_nobody_the_socket_is_nobodys_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    os.chown(tmp_path, 65534, 65534)
    code = (
        "from gatewright.server.host.listener import Listener\n"
        "from gatewright.settings import Address\n"
        "import os, stat, sys\n"
        "listener = Listener.bind(Address(path='r.sock'))\n"
        "print(oct(stat.S_IMODE(os.stat('r.sock').st_mode)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", f"import os, sys\nimport gatewright.server.host.listener\nos.chdir({str(tmp_path)!r})\n"
         f"os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n{code}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.stdout.strip() == "0o600", run.stderr


def test_a_directory_above_in_which_everybody_may_replace_is_refused_as_well(tmp_path: Path) -> None:
    (tmp_path / "open" / "own").mkdir(parents=True)
    (tmp_path / "safe").mkdir()
    (tmp_path / "open" / "link").symlink_to(tmp_path / "safe")
    (tmp_path / "safe" / "link").symlink_to(tmp_path / "open" / "own")
    (tmp_path / "open").chmod(0o777)
    for directory in ("open/own", "open/link", "safe/link"):
        with pytest.raises(ListenError, match=f"everybody may replace files in {tmp_path / 'open'} "):
            bind(tmp_path / directory / "r.sock")
    (tmp_path / "open").chmod(0o1777)
    bind(tmp_path / "open" / "own" / "r.sock").close()


def test_a_directory_is_no_place_for_a_socket() -> None:
    with pytest.raises(ListenError, match="is a directory"):
        bind(Path("/"))


@pytest.mark.parametrize(("setting", "value"), [("owner", "99999999999"), ("group", "4294967295")])
def test_a_number_that_nobody_has_is_refused(tmp_path: Path, setting: str, value: str) -> None:
    with pytest.raises(ListenError, match=f"socket_{setting}: there is no number"):
        Listener.bind(Address(path=str(tmp_path / "r.sock")), **{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["unix:@gatewright", "unix:\0gatewright", "unix:/tmp/a\0b"])
def test_an_abstract_socket_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="everybody may connect"):
        parse_address(address)
