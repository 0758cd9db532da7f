"""Stands in for a gateway's processes: a master (root), a worker (nobody) that dials, an agent (root) with the runner.

Called as `gateway_master.py PROGRAM SOCKET COMMAND...`; prints what became of the worker's connections. As APISIX does,
the agent passes two variables. With RELOADS in the environment it starts a second runner before it ends the first. The
processes have the names and titles that nginx gives itself, started as PROGRAM.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import socket
import subprocess
import sys
import time
from pathlib import Path

PR_SET_NAME = 15


def entitle(name: str, title: str) -> None:
    """Be called so in /proc/PID/comm and /proc/PID/cmdline."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)
    start, end = map(int, Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[45:47])
    ctypes.memmove(start, title.encode().ljust(end - start, b"\0"), end - start)


def dial(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
        except OSError as error:
            return error.strerror or str(error)
        return "connected"


def main(program: str, path: str, *command: str) -> None:
    name = Path(program).name
    nobody = pwd.getpwnam("nobody")
    ready, go = os.pipe()
    entitle(name, f"nginx: master process {program} -p /srv/gateway -c conf/nginx.conf")
    worker = os.fork()
    if worker == 0:
        entitle(name, "nginx: worker process")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
        os.read(ready, 1)
        os.set_blocking(ready, False)
        seen = {dial(path)}
        while True:
            try:
                os.read(ready, 1)
                break
            except BlockingIOError:
                seen.add(dial(path))
                time.sleep(0.002)
        print(*sorted(seen), sep=", ", flush=True)
        os._exit(0)
    agent = os.fork()
    if agent == 0:
        entitle(name, "nginx: privileged agent process")
        environ = {"APISIX_LISTEN_ADDRESS": f"unix:{path}", "APISIX_CONF_EXPIRE_TIME": "3600"}
        runner = subprocess.Popen(command, env=environ, stdout=2, stderr=2)
        deadline = time.monotonic() + 20
        while not Path(path).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)  # its file is there a moment before it listens
        os.write(go, b"x")
        if os.environ.get("RELOADS"):
            before = os.stat(path).st_ino
            successor = subprocess.Popen(command, env=environ, stdout=2, stderr=2)
            deadline = time.monotonic() + 20
            while os.stat(path).st_ino == before and time.monotonic() < deadline:
                time.sleep(0.01)
            runner.terminate()
            runner.wait()
            runner = successor
        time.sleep(0.2)
        os.write(go, b"x")
        time.sleep(0.2)
        runner.terminate()
        runner.wait()
        os._exit(0)
    os.waitpid(worker, 0)
    os.waitpid(agent, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
