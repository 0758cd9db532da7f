"""The gateway that started this process, and the user of its workers, found from what processes do.

Both gateways are nginx: a master (often root, often PID 1 of a container) whose children are workers of another user
and, as root, whatever else it runs (APISIX: the privileged agent, which starts the runner). What the program is called
says little: APISIX starts it as `openresty`. So a process is told by the title that nginx gives itself, or by its
program's name, and its workers by their title, by their user where there is none, or by the master's configuration.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

__all__ = [
    "KEEPER_NAME", "GatewayUser", "Process", "find_gateway_user", "gateway_master", "gateway_parent", "may_follow",
    "processes",
]  # fmt: skip

PROC = Path("/proc")
KEEPER_NAME = "gatewright-keep"
"""What the process is called that holds the sockets of a runner that is gone."""
_MASTER = "nginx: master process"
_WORKER = "nginx: worker process"
_PROGRAMS = ("nginx", "openresty", "kong")
_USER = re.compile(r"^\s*user\s+(\S+?)(?:\s+\S+)?\s*;", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Process:
    """What the process table says of one.

    Attributes:
        parent: its parent's number.
        uid: its effective user.
        name: the program's name, as the kernel has it (15 characters at most).
        title: its command line, or what it made of it.
    """

    parent: int
    uid: int
    name: str
    title: str

    @property
    def is_gateway(self) -> bool:
        """It's nginx, by whatever name."""
        return self.title.startswith("nginx: ") or self.name in _PROGRAMS


@dataclass(frozen=True, slots=True)
class GatewayUser:
    """What is known of the user of the gateway's workers.

    Attributes:
        uid: the user; `None` if that's in doubt.
        why: what was seen, or what is in the way.
        started_us: a gateway started this process.
    """

    uid: int | None
    why: str
    started_us: bool = True


def find_gateway_user(pid: int | None = None, proc: Path = PROC) -> GatewayUser:
    """The user of the workers of the gateway that started this process.

    Args:
        pid: the process that started us; by default our parent.
        proc: where the process table is mounted.
    """
    table = processes(proc)
    line = list(_line(os.getppid() if pid is None else pid, table))
    gateways = [number for number in line if table[number].is_gateway]
    if not gateways:
        return GatewayUser(None, "no gateway started this process", started_us=False)
    master = next((number for number in gateways if table[number].title.startswith(_MASTER)), gateways[-1])
    found = {process.uid for number, process in table.items() if _is_worker(number, process, master, line, table)}
    if not found:
        found = _configured(master, table[master], proc)
        seen = f"`user` in the configuration of the gateway's master (PID {master})"
    else:
        seen = f"the workers of the gateway's master (PID {master})"
    if len(found) != 1:
        what = f"{len(found)} users: {sorted(found)}" if found else "no workers"
        return GatewayUser(None, f"the gateway's master (PID {master}) has {what}")
    uid = found.pop()
    if not _is_mapped(uid, proc):
        return GatewayUser(None, f"user {uid} of {seen} is none in this user namespace")
    return GatewayUser(uid, seen)


def may_follow(pid: int, proc: Path = PROC) -> bool:
    """Whether a process that listens is our predecessor, or what was left to stand in for it.

    That is one that was started by the gateway that started this one; a keeper; and one that has ended, if there is
    somebody at its socket all the same: a keeper that is about to begin.
    """
    table = processes(proc)
    if pid > 0 and (pid not in table or table[pid].name == KEEPER_NAME):
        return True
    masters = [number for number in _line(os.getppid(), table) if table[number].is_gateway]
    return bool(masters) and pid != os.getpid() and masters[-1] in _line(pid, table)


def gateway_master(proc: Path = PROC) -> int | None:
    """The first process of the gateway that started this one, which outlives its workers."""
    table = processes(proc)
    return next((number for number in reversed(list(_line(os.getppid(), table))) if table[number].is_gateway), None)


def gateway_parent(proc: Path = PROC) -> bool:
    """Whether a gateway started this process: its parent is one, or gave the variables that APISIX gives.

    APISIX's nginx keeps a few variables of the environment it was started in, not `HOME`, and adds two.
    """
    pid = os.getppid()
    if {"APISIX_LISTEN_ADDRESS", "APISIX_CONF_EXPIRE_TIME"} <= os.environ.keys() and "HOME" not in os.environ:
        return pid > 0
    parent = _process(proc / str(pid))
    return parent is not None and parent.is_gateway


def processes(proc: Path = PROC) -> dict[int, Process]:
    """Every process by its number."""
    table = {}
    for entry in proc.iterdir() if proc.is_dir() else ():
        if entry.name.isdigit():
            process = _process(entry)
            if process is not None:
                table[int(entry.name)] = process
    return table


def _process(entry: Path) -> Process | None:
    try:
        lines = (entry / "status").read_text(errors="replace").splitlines()
        title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        values = dict(line.split(":", 1) for line in lines if ":" in line)
        return Process(int(values["PPid"]), int(values["Uid"].split()[1]), values["Name"].strip(), title)
    except (OSError, ValueError, KeyError):  # it has ended meanwhile, or isn't ours to see
        return None


def _line(pid: int, table: dict[int, Process]) -> Iterator[int]:
    """A process, its parent, and so on: a shell or an init may stand between a gateway and what it starts."""
    while pid in table:
        yield pid
        pid = table[pid].parent


def _is_worker(number: int, process: Process, master: int, line: list[int], table: dict[int, Process]) -> bool:
    if process.parent != master or number in line or not process.is_gateway:
        return False
    if process.title.startswith("nginx: "):
        return process.title.startswith(_WORKER)
    return process.uid != table[master].uid


def _configured(number: int, master: Process, proc: Path) -> set[int]:
    """The user that a master's configuration names; nothing where it can't be read."""
    try:
        words = shlex.split(master.title.removeprefix(_MASTER))
        options = dict(pairwise(words))
        prefix, file = options.get("-p", ""), options.get("-c", "conf/nginx.conf")
        root = proc / str(number) / "root"  # a container's files are seen from outside, too
        found = _USER.search((root / str(Path(prefix, file)).lstrip("/")).read_text(errors="replace"))
        return {pwd.getpwnam(found[1]).pw_uid} if found else set()
    except (OSError, ValueError, KeyError):
        return set()


def _is_mapped(uid: int, proc: Path) -> bool:
    """Whether a user exists in our user namespace: those that don't are all shown as the same one, often `nobody`'s."""
    try:
        ranges = [tuple(map(int, line.split())) for line in (proc / "self" / "uid_map").read_text().splitlines()]
    except OSError:
        return True
    return any(first <= uid < first + count for first, _, count in ranges)
