"""The listening socket: who may connect, whose file it is, and who may remove it.

- A live socket is never taken over; a stale file is removed; any other file is left alone (`socket_file`).
- The file is made with its final rights: nobody can connect in between.
- On exit only our own file is removed, known by its device and inode.
- The default mode is 0660. Run as root, the runner gives the socket to the user of the gateway's workers (APISIX runs
  as root with workers of user `nobody`), found in the settings or from the gateway that started it (`gateway_user`).
  Its group is our own: that of `nobody` is many a stranger's.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import socket
import stat
from pathlib import Path

import structlog

from gatewright.errors import ListenError
from gatewright.server.host.gateway_user import find_gateway_user, gateway_parent, may_follow
from gatewright.server.host.socket_file import Found, bind_file, listens_for, make_directory, remove_file
from gatewright.settings import Address, Settings, parse_address

__all__ = ["BACKLOG", "Listener", "passed_socket", "watches_parent"]

_FIRST_PASSED = 3
_MOST_ID = (1 << 32) - 2
BACKLOG = 2048
"""Connections that may wait to be accepted; a gateway's workers may all dial at once."""


class Listener:
    """A bound, listening socket.

    Attributes:
        file: the socket's file, if it's ours to remove.
        backlog: connections that may wait to be accepted.
    """

    def __init__(self, sock: socket.socket, address: Address, *, file: Found | None = None) -> None:
        """Take a socket.

        Args:
            sock: the socket.
            address: where it listens.
            file: the socket's file, if it's ours to remove.
        """
        self.socket = sock
        self.address = address
        self.file = file
        self.backlog = BACKLOG
        if not address.path:
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
        open_directory: bool = False,
        warn: bool = True,
        follows: bool = False,
        flag: str = "--listen",
    ) -> Listener:
        """Bind and listen.

        Args:
            address: where.
            mode: permissions of a unix socket.
            owner: user for a unix socket, name or number; empty to find the gateway's.
            group: its group; empty for our own.
            keep_owner: the file stays ours, whoever the gateway's user is.
            open_directory: a directory is fine in which everybody may replace files.
            warn: tell if the gateway's user can't be found.
            follows: take a socket's place that another runner of the same gateway listens on: the gateway reloads.
            flag: what says where it is, for the advice.

        Raises:
            ListenError: the address is taken or not ours to take; the message says by whom and what to do.
        """
        try:
            return cls._bind(
                address, mode=mode, owner=owner, group=group, keep_owner=keep_owner, open_directory=open_directory,
                warn=warn, follows=follows,
            )  # fmt: skip
        except ListenError as error:
            raise ListenError(str(error).replace("--listen", flag)) from None

    @classmethod
    def _bind(
        cls,
        address: Address,
        *,
        mode: int,
        owner: str,
        group: str,
        keep_owner: bool,
        open_directory: bool,
        warn: bool,
        follows: bool,
    ) -> Listener:
        if address.path:
            path = Path(address.path)
            uid, gid = (-1, -1) if keep_owner else _owner_ids(path, mode, owner, group, warn)
            if not group:
                gid = _own_group(path.parent)
                mode = mode & ~0o070 if gid in _groups_of_strangers() else mode
            sock, file = bind_file(
                path,
                mode=mode,
                uid=uid,
                gid=gid,
                backlog=BACKLOG,
                open_directory=open_directory,
                may_replace=may_follow if follows else lambda _: False,
            )
            return cls(sock, address, file=file)
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
            open_directory=settings.socket_open_directory,
            warn=warn,
            follows=True,
        )

    def set_backlog(self, connections: int) -> None:
        """Let so many connections wait to be accepted; the kernel has a limit of its own."""
        self.backlog = connections
        self.socket.listen(connections)

    @property
    def is_replaced(self) -> bool:
        """Whether another runner's file has taken the place of ours."""
        if self.file is None:
            return False
        try:
            there = Path(self.address.path).lstat()
        except OSError:
            return False
        return (there.st_dev, there.st_ino) != self.file.file

    @property
    def is_succeeded(self) -> bool:
        """Whether who listens in our place is another runner of the same gateway's."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(self.address.path)
            except OSError:
                return False
            return may_follow(listens_for(probe))

    @property
    def is_gone(self) -> bool:
        """Whether our file was removed, and nothing is in its place."""
        if self.file is None:
            return False
        try:
            Path(self.address.path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # we may not look there any more: who can say?
            return False
        return False

    def make_directory(self) -> None:
        """Make the directory again, as it was, in which our file was, if that is gone, too."""
        if self.file is not None:
            path = Path(self.address.path)
            with contextlib.suppress(OSError):  # binding will say that it is not there
                if make_directory(path, self.file):
                    structlog.get_logger("gatewright.server").warning(
                        "somebody removed the socket's directory: it's made again", directory=str(path.parent)
                    )

    def become(self, fresh: Listener) -> None:
        """Listen with what another one has bound at the same address."""
        self.socket.close()
        self.socket, self.file = fresh.socket, fresh.file

    def leave_file(self) -> None:
        """Its file is somebody else's affair from now on."""
        self.file = None

    def close(self) -> None:
        """Stop listening and remove the socket's file, if it is still ours."""
        self.socket.close()
        file, self.file = self.file, None
        if file is None:
            return
        path = Path(self.address.path)
        try:
            remove_file(path, file)
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
    return Listener(sock, address)


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


def _own_group(directory: Path) -> int:
    """The group of files that we make there: the directory's, if somebody gave it one to share, or ours."""
    with contextlib.suppress(OSError):  # binding will say what is wrong with it
        found = directory.stat()
        if found.st_mode & stat.S_ISGID and found.st_gid not in _groups_of_strangers():
            return found.st_gid
    return os.getegid()


def _groups_of_strangers() -> set[int]:
    """Groups that users have who have nothing to do with each other."""
    found = {65534}
    for name in ("nogroup", "nobody"):
        with contextlib.suppress(KeyError):
            found.add(grp.getgrnam(name).gr_gid)
    return found


def _owner_ids(path: Path, mode: int, owner: str, group: str, warn: bool) -> tuple[int, int]:
    """The user and group for the socket; -1 to leave one as it is."""
    uid = gid = -1
    if owner:
        try:
            uid = _number(owner, "socket_owner") if owner.isdecimal() else pwd.getpwnam(owner).pw_uid
        except KeyError:
            raise ListenError(f"socket_owner: there is no user {owner!r}") from None
    elif os.geteuid() == 0:
        found = find_gateway_user()
        if found.uid is not None:
            uid = found.uid
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
            gid = _number(group, "socket_group") if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise ListenError(f"socket_group: there is no group {group!r}") from None
    return uid, gid


def _number(text: str, setting: str) -> int:
    number = int(text)
    if number > _MOST_ID:  # the next one means "as it is"
        raise ListenError(f"{setting}: there is no number {text[:20]}: {_MOST_ID} is the highest")
    return number


def watches_parent(settings: Settings) -> bool:
    """Whether to end when the process that started this one ends."""
    if settings.die_with_parent == "auto":
        return gateway_parent()
    return settings.die_with_parent == "yes" and os.getppid() > 1
