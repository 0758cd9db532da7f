"""The listening socket: who may connect, whose file it is, and who may remove it.

- A live socket is never taken over; a stale file is removed; any other file is left alone.
- The file is made with its final rights: nobody can connect in between.
- On exit only our own file is removed, known by its device and inode.
- The default mode is 0660. Run as root, the runner gives the socket to the user of the gateway's workers (APISIX runs
  as root with workers of user `nobody`), found in the settings or from the gateway that started it (`gateway_user`).
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
from pathlib import Path

import structlog

from gatewright.errors import ListenError
from gatewright.server.host.gateway_user import find_gateway_user, gateway_parent
from gatewright.settings import Address, Settings, parse_address

__all__ = ["BACKLOG", "Listener", "passed_socket", "watches_parent"]

_FIRST_PASSED = 3
BACKLOG = 2048
"""Connections that may wait to be accepted; a gateway's workers may all dial at once."""


class Listener:
    """A bound, listening socket."""

    def __init__(self, sock: socket.socket, address: Address, *, ours: bool = True) -> None:
        """Take a socket.

        Args:
            sock: the socket.
            address: where it listens.
            ours: the file is ours to remove.
        """
        self.socket = sock
        self.address = address
        self._inode: tuple[int, int] | None = None
        if address.path and not ours:
            return
        if address.path:
            found = Path(address.path).lstat()
            self._inode = found.st_dev, found.st_ino
        else:
            host, port = sock.getsockname()[:2]
            self.address = Address(host=host, port=port)

    @classmethod
    def bind(
        cls,
        address: Address,
        *,
        mode: int = 0o660,
        owner: str = "",
        group: str = "",
        keep_owner: bool = False,
        warn: bool = True,
    ) -> Listener:
        """Bind and listen.

        Args:
            address: where.
            mode: permissions of a unix socket.
            owner: user for a unix socket, name or number; empty to find the gateway's.
            group: its group; empty for the owner's.
            keep_owner: the file stays ours, whoever the gateway's user is.
            warn: tell if the gateway's user can't be found.

        Raises:
            ListenError: the address is taken or not ours to take; the message says by whom and what to do.
        """
        if address.path:
            ids = (-1, -1) if keep_owner else _owner_ids(Path(address.path), mode, owner, group, warn)
            return cls(_bind_unix(address, mode, *ids), address)
        return cls(_bind_tcp(address), address)

    @classmethod
    def obtain(cls, settings: Settings) -> Listener:
        """The socket that systemd passed to us, or else one bound as the settings say.

        Raises:
            ListenError: see `bind`.
        """
        return passed_socket() or cls.bind_as(settings, parse_address(settings.listen))

    @classmethod
    def bind_as(cls, settings: Settings, address: Address, *, warn: bool = True) -> Listener:
        """A socket with the mode and the owner that the settings say.

        Raises:
            ListenError: see `bind`.
        """
        return cls.bind(
            address,
            mode=int(settings.socket_mode, 8),
            owner=settings.socket_owner,
            group=settings.socket_group,
            warn=warn,
        )

    def set_backlog(self, connections: int) -> None:
        """Let so many connections wait to be accepted; the kernel has a limit of its own."""
        self.socket.listen(connections)

    def close(self) -> None:
        """Stop listening and remove the socket's file, if it is still ours."""
        self.socket.close()
        if self._inode is None:
            return
        path = Path(self.address.path)
        try:
            found = path.lstat()
            if (found.st_dev, found.st_ino) == self._inode:
                path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            structlog.get_logger("gatewright.server").error(
                "the socket's file can't be removed; the next start will", path=str(path), error=error.strerror
            )


def passed_socket() -> Listener | None:
    """The listening socket passed by systemd (sd_listen_fds(3)): descriptor 3, if it's meant for this process.

    Raises:
        ListenError: more than one was passed, or it doesn't listen.
    """
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return None
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if count != "1":
        raise ListenError(f"systemd passed {count or 'no'} sockets; one ListenStream= is needed, since one is served")
    sock = socket.socket(fileno=_FIRST_PASSED)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ListenError("the socket that systemd passed does not listen for streams: use ListenStream=")
    sock.setblocking(False)
    os.set_inheritable(sock.fileno(), False)
    name = sock.getsockname()
    address = Address(path=name) if isinstance(name, str) else Address(host=name[0], port=name[1])
    return Listener(sock, address, ours=False)


def _bind_tcp(address: Address) -> socket.socket:
    try:
        family, kind, proto, _, name = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ListenError(f"{address}: {error.strerror}") from None
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(name)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenError(f"{address}: {error.strerror}; choose another address with --listen") from None
    sock.setblocking(False)
    return sock


def _bind_unix(address: Address, mode: int, uid: int, gid: int) -> socket.socket:
    path = Path(address.path)
    _clear_the_way(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o777)
    try:
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        if error.errno == errno.ENOENT:
            raise ListenError(f"{path}: the directory {path.parent} does not exist") from None
        if error.errno == errno.EADDRINUSE:
            raise ListenError(f"{path}: another process took it just now") from None
        raise ListenError(f"{path}: {error.strerror or error}") from None
    finally:
        os.umask(umask)
    try:
        if uid != -1 or gid != -1:
            os.chown(path, uid, gid)
        path.chmod(mode)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        path.unlink(missing_ok=True)
        raise ListenError(
            f"{path}: {error.strerror}; only root can give the socket to another user (--socket-owner, --socket-group)"
        ) from None
    sock.setblocking(False)
    return sock


def _clear_the_way(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
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
        return
    except OSError as error:
        raise ListenError(f"{path} exists and can't be tried: {error.strerror or error}") from None
    else:
        raise ListenError(f"{path} is in use by another running process; stop it or choose another path with --listen")
    finally:
        probe.close()
    try:
        path.unlink()
    except OSError as error:
        raise ListenError(f"{path} is left from an earlier process and can't be removed: {error.strerror}") from None


def _owner_ids(path: Path, mode: int, owner: str, group: str, warn: bool) -> tuple[int, int]:
    """The user and group for the socket; -1 to leave one as it is."""
    uid = gid = -1
    if owner:
        try:
            entry = pwd.getpwuid(int(owner)) if owner.isdigit() else pwd.getpwnam(owner)
            uid, gid = entry.pw_uid, entry.pw_gid
        except KeyError:
            if not owner.isdigit():
                raise ListenError(f"socket_owner: there is no user {owner!r}") from None
            uid = int(owner)
    elif os.geteuid() == 0:
        found = find_gateway_user()
        if found.uid is not None:
            uid = found.uid
            with contextlib.suppress(KeyError):
                gid = pwd.getpwuid(uid).pw_gid
            structlog.get_logger("gatewright.server").info(
                "the socket is given to the gateway's user", socket=str(path), uid=uid, found_by=found.why
            )
        elif warn and not mode & 0o006 and not group:
            log = structlog.get_logger("gatewright.server")
            (log.error if found.started_us else log.warning)(
                "running as root and the gateway's user is not known: unless its workers run as root too, they can't "
                "connect and every request is refused; name their user (unless configured, APISIX: `nobody`, "
                "Kong: `kong`)",
                socket=str(path),
                because=found.why,
                cure="--socket-owner USER, or GATEWRIGHT_SOCKET_OWNER in the environment",
            )
    if group:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise ListenError(f"socket_group: there is no group {group!r}") from None
    return uid, gid


def watches_parent(settings: Settings) -> bool:
    """Whether to end when the process that started this one ends."""
    if settings.die_with_parent == "auto":
        return gateway_parent()
    return settings.die_with_parent == "yes" and os.getppid() > 1
