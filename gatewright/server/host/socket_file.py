"""The file of a unix socket: made, given away and removed without ever touching another file.

Its directory may belong to somebody else (Kong's prefix is its user's), who can replace the fresh socket by a link to a
file of root's between any two steps. So nothing is done to a *path* once the directory is open: the file is opened as
it is (`O_PATH | O_NOFOLLOW`), must be the very socket that was just bound, and owner and mode are set on that.

Two starts at once: the directory is locked from the look at what is there until the new socket listens, so the second
one finds a socket in use.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from gatewright.errors import ListenError

__all__ = ["Found", "bind_file", "listens_for", "make_directory", "remove_file"]

_LOCK_SECONDS: Final = 5.0
_LOCK_PAUSE: Final = 0.01
_OTHERS_WRITE: Final = 0o002
_BESIDE: Final = ".next"
_CREDENTIALS: Final = struct.Struct("iII")


class Found(NamedTuple):
    """Which file it is: of itself, and of its directory.

    Attributes:
        file: device and inode.
        directory: likewise.
        rights: the directory's mode, owner and group.
    """

    file: tuple[int, int]
    directory: tuple[int, int]
    rights: tuple[int, int, int] = (0o700, -1, -1)


def bind_file(
    path: Path,
    *,
    mode: int,
    uid: int,
    gid: int,
    backlog: int,
    open_directory: bool,
    may_replace: Callable[[int], bool] = lambda _: False,
) -> tuple[socket.socket, Found]:
    """Bind a socket and listen.

    Args:
        path: where.
        mode: the file's permissions.
        uid: its owner, -1 for ourselves.
        gid: its group, -1 for what the system gives.
        backlog: connections that may wait to be accepted.
        open_directory: a directory is fine in which everybody may replace files.
        may_replace: whether the process that listens there may be followed: then the new file takes the place of its
            own at once, so that there is always one to connect to.

    Raises:
        ListenError: the path is taken or not ours to take; the message says by whom and what to do.
    """
    if not path.name:
        raise ListenError(f"{path} is a directory: choose another path with --listen")
    with _open_directory(path, open_directory) as directory:
        replaces = _clear_the_way(path, directory, may_replace)
        place = path.with_name(path.name + _BESIDE) if replaces else path
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if replaces:
                _clear_the_way(place, directory, lambda _: False)
            _bind(sock, place)
            found = _give_away(place, directory, mode, uid, gid)
            sock.listen(backlog)
            if replaces:
                os.rename(place.name, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            sock.close()
            raise
        here = os.fstat(directory)
        sock.setblocking(False)
        rights = stat.S_IMODE(here.st_mode), here.st_uid, here.st_gid
        return sock, Found(found, (here.st_dev, here.st_ino), rights)


def remove_file(path: Path, found: Found) -> None:
    """Remove the socket's file, if it is still that one, in that directory.

    Raises:
        OSError: it can't be removed.
    """
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        here = os.fstat(directory)
        if (here.st_dev, here.st_ino) != found.directory:
            return
        with contextlib.suppress(FileNotFoundError):
            there = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
            if (there.st_dev, there.st_ino) == found.file:
                os.unlink(path.name, dir_fd=directory)
    finally:
        os.close(directory)


def make_directory(path: Path, found: Found) -> bool:
    """Make the socket's directory again with the rights that it had, if it's gone; tells whether it was made.

    Raises:
        OSError: it can't be made: where it was nobody may write but others, or that is gone, too.
    """
    mode, uid, gid = found.rights
    try:
        path.parent.mkdir(0o700)
    except FileExistsError:
        return False
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        made = os.fstat(directory)
        if (made.st_uid, made.st_gid) != (uid, gid):
            os.fchown(directory, uid, gid)
        os.fchmod(directory, mode)
    finally:
        os.close(directory)
    return True


@contextlib.contextmanager
def _open_directory(path: Path, open_directory: bool) -> Iterator[int]:
    """The socket's directory, locked."""
    flags = os.O_DIRECTORY | os.O_CLOEXEC
    lockable = True
    try:
        try:
            directory = os.open(path.parent, os.O_RDONLY | flags)
        except PermissionError:  # one may be allowed to write and search, and not to list
            lockable = False
            directory = os.open(path.parent, os.O_PATH | flags)
    except FileNotFoundError:
        raise ListenError(f"{path}: the directory {path.parent} does not exist") from None
    except OSError as error:
        raise ListenError(f"{path}: {error.strerror}") from None
    try:
        rights = os.fstat(directory).st_mode
        if not open_directory:
            _check_open_to_others(path, path.parent, rights)
            for above in {
                *path.absolute().parent.parents,
                *path.parent.resolve().parents,
            }:  # a link's, and its target's
                with contextlib.suppress(OSError):  # one that we may not look at
                    _check_open_to_others(path, above, above.stat().st_mode)
        if lockable:
            _lock(path, directory)
        yield directory
    finally:
        os.close(directory)  # and with it the lock


def _check_open_to_others(path: Path, directory: Path, rights: int) -> None:
    """See that not everybody may put another file, or another directory, in the place of what is in a directory."""
    if rights & _OTHERS_WRITE and not rights & stat.S_ISVTX:
        raise ListenError(
            f"{path}: everybody may replace files in {directory} (mode {stat.S_IMODE(rights):04o}), and so pose "
            f"as the runner: chmod o-w or +t, listen elsewhere, or accept it with --socket-open-directory"
        )


def _lock(path: Path, directory: int) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ListenError(
                    f"{path}: another process holds a lock on the directory {path.parent} (see `lsof {path.parent}`)"
                ) from None
            time.sleep(_LOCK_PAUSE)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF):
                raise ListenError(f"{path}: {error.strerror}") from None
            return  # a file system without locks: there only the socket itself tells
        else:
            return


def _clear_the_way(path: Path, directory: int, may_replace: Callable[[int], bool]) -> bool:
    """See that a socket can be bound; tells whether one is in use that may be replaced."""
    try:
        found = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ListenError(f"{path}: {error.strerror}") from None
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(f"{path} exists and is not a socket; remove it or choose another path with --listen")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(1.0)
    try:
        probe.connect(str(path))
    except ConnectionRefusedError:
        pass  # nobody listens: left behind by a process that was killed
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ListenError(f"{path} exists and can't be tried: {error.strerror or error}") from None
    else:
        if may_replace(listens_for(probe)):
            return True
        raise ListenError(f"{path} is in use by another running process; stop it or choose another path with --listen")
    finally:
        probe.close()
    try:
        os.unlink(path.name, dir_fd=directory)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ListenError(f"{path} is left from an earlier process and can't be removed: {error.strerror}") from None
    return False


def listens_for(connection: socket.socket) -> int:
    """The process at the other end: the one that listened."""
    pid: int = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
    return pid


def _bind(sock: socket.socket, path: Path) -> None:
    umask = os.umask(0o777)  # nobody can connect before the rights are set
    try:
        sock.bind(str(path))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ListenError(f"{path}: another process took it just now") from None
        raise ListenError(f"{path}: {error.strerror or error}") from None
    finally:
        os.umask(umask)


def _give_away(path: Path, directory: int, mode: int, uid: int, gid: int) -> tuple[int, int]:
    """Give the file that was just bound to its owner; tells which one it is."""
    try:
        file = os.open(path.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise ListenError(f"{path}: gone as soon as it was bound: {error.strerror}") from None
    try:
        found = os.fstat(file)
        # Only a socket of ours that nobody may use is the one that was bound.
        if not stat.S_ISSOCK(found.st_mode) or stat.S_IMODE(found.st_mode) or found.st_uid != os.geteuid():
            raise ListenError(
                f"{path}: somebody replaced the socket while it was made; who may write in {path.parent}?"
            )
        itself = f"/proc/self/fd/{file}"  # the one way to change what an O_PATH descriptor stands for
        try:
            if uid != -1 or gid != -1:
                os.chown(itself, uid, gid)
            Path(itself).chmod(mode)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(path.name, dir_fd=directory)
            raise ListenError(
                f"{path}: {error.strerror}; only root can give the socket to another user "
                "(--socket-owner, --socket-group)"
            ) from None
        return found.st_dev, found.st_ino
    finally:
        os.close(file)
