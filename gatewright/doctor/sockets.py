"""The listening socket: is it there, who listens, and may the gateway connect."""

from __future__ import annotations

import os
import pwd
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gatewright._version import __version__
from gatewright.doctor.findings import Finding, good, note, problem, warning
from gatewright.gateways.apisix.calls import PROBE_KEY, encode_prepare_conf
from gatewright.gateways.apisix.frames import FrameType
from gatewright.observe.control import ControlError, ask_json
from gatewright.server.host.gateway_user import processes
from gatewright.settings import Address

__all__ = ["Cures", "Probe", "check_control", "check_socket", "may_connect", "worker_users"]

_ANSWERS = (FrameType.ERROR, FrameType.PREPARE_CONF)
_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Probe:
    """How to tell whether the right one listens: what to send, and whether an answer's first four bytes are right."""

    data: bytes
    is_right: Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Cures:
    """What helps, in the words of a gateway's users; `{user}` is the gateway's.

    Attributes:
        missing: nobody has made the socket.
        stale: who made it was killed.
        silent: somebody listens and doesn't answer.
        other: another program listens.
        closed: the gateway's user may not connect.
        unknown: the gateway's user can't be found.
    """

    missing: str = "start the runner with this --listen (external), or let the gateway start it (ext-plugin.cmd)"
    stale: str = "start the runner: it removes a stale socket itself"
    silent: str = "gatewright status; the runner's log says what keeps its workers from starting"
    other: str = "another program has this path; give the runner one of its own with --listen, and the gateway the same"
    closed: str = "start the runner with --socket-owner {user}, or --socket-group and a common group"
    unknown: str = "--gateway-user nobody"


_APISIX = Probe(encode_prepare_conf(PROBE_KEY, []), lambda answer: answer[0] in _ANSWERS)


_FOR_APISIX = Cures()


def check_socket(
    address: Address, gateway_user: str = "", probe: Probe = _APISIX, cures: Cures = _FOR_APISIX
) -> Iterator[Finding]:
    """Look at the socket that the gateway dials.

    Args:
        address: where the runner should listen.
        gateway_user: who the gateway's workers run as; by default found among the processes.
        probe: tells who listens; by default, APISIX's runner.
        cures: what helps; by default, APISIX's users.
    """
    if not address.path:
        yield note(f"{address} is a TCP address; APISIX dials unix sockets only", "--listen unix:/path")
        return
    path = Path(address.path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        near = _sockets_near(path)
        yield problem(
            f"{path} is not there: no runner has made it",
            cures.missing + (f"; there is {', '.join(near)}: is the path misspelt?" if near else ""),
        )
        return
    except PermissionError:
        yield problem(f"{path} can't be looked at: a directory above it is closed", "run the doctor as root")
        return
    if not stat.S_ISSOCK(mode):
        yield problem(f"{path} is not a socket", f"remove the file, or choose another path: rm {path}")
        return
    yield from _who_answers(path, probe, cures)
    yield from _who_may_connect(path, gateway_user, cures)


def _who_answers(path: Path, probe: Probe, cures: Cures) -> Iterator[Finding]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_SECONDS)
        try:
            connection.connect(str(path))
        except ConnectionRefusedError:
            yield problem(f"{path} is stale: nobody listens, the process that made it was killed", cures.stale)
            return
        except PermissionError:
            yield note(f"{path} does not let you connect, so who listens can't be seen", "run the doctor as root")
            return
        except OSError as error:
            yield problem(f"{path}: {error.strerror or error}", "restart the runner")
            return
        try:
            connection.sendall(probe.data)
            answer = connection.recv(4)
        except TimeoutError:
            yield problem(
                f"{path}: somebody listens but doesn't answer within {_SECONDS:g} s: no worker serves",
                cures.silent,
            )
            return
        except OSError:
            answer = b""
    if len(answer) == 4 and probe.is_right(answer):
        yield good(f"{path}: a runner answers")
    else:
        yield problem(
            f"{path}: what listens there is no plugin runner (it answered {answer!r})",
            cures.other,
        )


def _who_may_connect(path: Path, gateway_user: str, cures: Cures) -> Iterator[Finding]:
    users = {gateway_user} if gateway_user else worker_users()
    if not users:
        yield note("no running gateway was found, so who must be able to connect is not known", cures.unknown)
        return
    for user in sorted(users):
        try:
            entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        except KeyError:
            yield problem(f"there is no user {user!r}", "name the user that the gateway's workers run as")
            continue
        closed = may_connect(path, entry)
        if not closed:
            yield good(f"the gateway's user {entry.pw_name} may connect")
        elif closed == path:
            owner = path.stat()
            yield problem(
                f"the gateway's user {entry.pw_name} may not connect to {path} "
                f"(mode {stat.S_IMODE(owner.st_mode):04o}, owner {owner.st_uid}:{owner.st_gid})",
                cures.closed.format(user=entry.pw_name),
            )
        else:
            yield problem(
                f"the gateway's user {entry.pw_name} may not enter {closed}, where the socket is",
                f"chmod o+x {closed}, or put the socket into a directory that both may enter, e.g. /run/gatewright",
            )


def may_connect(path: Path, user: pwd.struct_passwd) -> Path | None:
    """What keeps a user from connecting to a socket: a directory above it, or itself; `None` if nothing does."""
    if user.pw_uid == 0:
        return None
    groups = set(os.getgrouplist(user.pw_name, user.pw_gid))
    path = path.resolve()
    for directory in reversed(path.parents):
        if not _has_right(directory, user.pw_uid, groups, 0o1):
            return directory
    return None if _has_right(path, user.pw_uid, groups, 0o2) else path


def _has_right(path: Path, uid: int, groups: set[int], right: int) -> bool:
    found = path.stat()
    if found.st_uid == uid:
        return bool(found.st_mode & right << 6)
    return bool(found.st_mode & right << 3) if found.st_gid in groups else bool(found.st_mode & right)


def worker_users(proc: Path = Path("/proc")) -> set[str]:
    """The users that workers of running gateways run as."""
    users = set()
    for process in processes(proc).values():
        if process.title.startswith("nginx: worker process"):
            try:
                users.add(pwd.getpwuid(process.uid).pw_name)
            except KeyError:
                users.add(str(process.uid))
    return users


def _sockets_near(path: Path) -> list[str]:
    try:
        return sorted(str(p) for p in path.parent.iterdir() if p.is_socket() and not p.name.endswith(".control"))[:5]
    except OSError:
        return []


def check_control(path: str) -> Iterator[Finding]:
    """Ask the runner itself how it is."""
    try:
        _, status = ask_json(path, "/status")
    except ControlError as error:
        yield note(f"the runner can't be asked: {error}", "set --control, or run the doctor as the runner's user")
        return
    if status["ready"]:
        yield good(f"the runner is ready: {len(status['workers'])} workers")
    else:
        yield problem("the runner is not ready: no worker serves", "its log says why its workers end")
    for gone in status["worker_exits"][-3:]:
        yield warning(f"worker {gone['worker']} ended after {gone['lived']} s: {gone['how']}", "see the runner's log")
    if status["version"] != __version__:
        yield note(f"the runner is version {status['version']}, this command {__version__}", "restart the runner")
    for text in status["plugin_errors"]:
        yield problem(f"plugin not loaded: {text}", "mend the file, then: gatewright reload")
    for chain in status["chains"]:
        for plugin in chain["plugins"]:
            if plugin["error"]:
                yield problem(
                    f"{chain['key']}: plugin {plugin['name']} is {plugin['state']}: {plugin['error']}",
                    "mend the route's configuration or the plugin; requests on this route are refused",
                )
    for failure in status["last_errors"][-5:]:
        about = ", ".join(failure[name] for name in ("plugin", "route") if failure.get(name))
        yield warning(f"lately: {failure['event']} ({about}) {failure.get('error', '')}".rstrip(), "see the log")
