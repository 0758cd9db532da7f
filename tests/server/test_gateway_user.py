"""Whose the socket is when a gateway starts the runner: the workers', whatever the gateway's program is called."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gatewright.server.host.gateway_user import KEEPER_NAME, find_gateway_user, gateway_master, may_follow
from tests.kong.conftest import wait_until

MASTER = Path(__file__).with_name("gateway_master.py")
NGINX = "nginx: master process /usr/local/openresty/bin/openresty -p /srv/a -c /srv/a/conf/nginx.conf"
Table = Callable[..., Path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give the socket to another user")
@pytest.mark.parametrize("first", [False, True], ids=["", "pid1"])
@pytest.mark.parametrize("program", ["/usr/local/openresty/bin/openresty", "/usr/sbin/nginx"])
def test_a_worker_of_another_user_can_connect(program: str, first: bool, plugin_dir: Callable[..., Path]) -> None:
    plugins = plugin_dir(nop="from gatewright import Plugin\nclass Nop(Plugin):\n    def on_request(self, r): pass\n")
    namespace = ["unshare", "--pid", "--fork", "--mount-proc"] if first else []
    if first and (shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode):
        pytest.skip("no namespace for processes can be made here")
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())  # pytest's own are closed to others
    folder.chmod(0o755)
    try:
        runner = [sys.executable, "-m", "gatewright", "run", "-p", str(plugins), "--no-installed-plugins"]
        done = subprocess.run(
            [*namespace, sys.executable, str(MASTER), program, f"{folder}/r.sock", *runner],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.stdout == "connected\n", done.stdout + done.stderr
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)  # the runner may be about to remove its socket itself


@pytest.mark.skipif(os.geteuid() != 0, reason="the stand-in's worker is of another user")
@pytest.mark.long
def test_a_gateway_that_reloads_always_finds_a_runner(plugin_dir: Callable[..., Path]) -> None:
    """The second runner takes the place of the first one's socket, which serves until then."""
    plugins = plugin_dir(nop="from gatewright import Plugin\nclass Nop(Plugin):\n    def on_request(self, r): pass\n")
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    folder.chmod(0o755)
    try:
        runner = [sys.executable, "-m", "gatewright", "run", "-p", str(plugins), "--no-installed-plugins"]
        done = subprocess.run(
            [sys.executable, str(MASTER), "openresty", f"{folder}/r.sock", *runner],
            env={**os.environ, "RELOADS": "1"}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.stdout == "connected\n", done.stdout + done.stderr
        assert "taken over from an earlier runner" in done.stderr
        wait_until(lambda: not list(folder.iterdir()))  # the last one's keeper ends after the gateway
    finally:
        shutil.rmtree(folder)


def test_another_gateways_runner_is_not_followed(table: Table) -> None:
    proc = table(
        p1=(0, 0, "systemd", "init"), p10=(1, 0, "openresty", NGINX), p20=(10, 0, *AGENT[2:]),
        p30=(20, 0, "python", "gatewright run"), p40=(1, 0, "nginx", NGINX), p50=(40, 0, "python", "x"),
    )  # fmt: skip
    table(**{f"p{os.getppid()}": (20, 0, "sh", "sh")})
    assert may_follow(30, proc)
    assert not may_follow(50, proc)
    assert gateway_master(proc) == 10
    assert may_follow(60, proc), "it has ended: whoever holds its socket is what it left"
    table(p70=(1, 0, KEEPER_NAME, "python"))
    assert may_follow(70, proc)
    assert not may_follow(0, proc), "one that isn't ours to see may well be alive"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A process table: number -> (parent, user, name, title); 20 is who started us."""

    def make(**processes: tuple[int, int, str, str]) -> Path:
        for key, (parent, uid, name, title) in processes.items():
            entry = tmp_path / key.removeprefix("p")
            entry.mkdir(exist_ok=True)
            (entry / "status").write_text(f"Name:\t{name}\nPPid:\t{parent}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
            (entry / "cmdline").write_text(title.replace(" ", "\0") + "\0")
        return tmp_path

    return make


WORKER = (1, 65534, "openresty", "nginx: worker process")
AGENT = (1, 0, "openresty", "nginx: privileged agent process")


def test_the_master_may_be_the_first_process(table: Table) -> None:
    proc = table(p1=(0, 0, "openresty", NGINX), p19=WORKER, p20=AGENT)
    assert find_gateway_user(20, proc).uid == 65534


def test_a_shell_may_stand_in_between(table: Table) -> None:
    proc = table(p1=(0, 0, "docker-init", "docker-init"), p2=(1, 0, "nginx", NGINX), p18=(2, 33, *WORKER[2:]),
                 p19=(2, 0, *AGENT[2:]), p20=(19, 0, "sh", "sh -c run"))  # fmt: skip
    assert find_gateway_user(20, proc).uid == 33


def test_children_of_the_gateway_that_are_no_workers_do_not_count(table: Table) -> None:
    cache = (1, 100, "openresty", "nginx: cache manager process")
    proc = table(p1=(0, 0, "openresty", NGINX), p18=(1, 101, "logger", "logger"), p17=cache, p19=WORKER, p20=AGENT)
    assert find_gateway_user(20, proc).uid == 65534


def test_workers_that_cannot_be_seen_are_known_from_the_configuration(table: Table) -> None:
    proc = table(p1=(0, 0, "openresty", NGINX), p20=AGENT)
    conf = proc / "1" / "root" / "srv" / "a" / "conf" / "nginx.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text("# user other;\nmaster_process on;\n user nobody nogroup;\n")
    found = find_gateway_user(20, proc)
    assert (found.uid, "configuration" in found.why) == (pwd.getpwnam("nobody").pw_uid, True)


def test_workers_of_two_users_are_doubt(table: Table) -> None:
    proc = table(p1=(0, 0, "openresty", NGINX), p18=(1, 33, *WORKER[2:]), p19=WORKER, p20=AGENT)
    found = find_gateway_user(20, proc)
    assert (found.uid, found.why) == (None, "the gateway's master (PID 1) has 2 users: [33, 65534]")


def test_a_user_of_another_namespace_is_doubt(table: Table) -> None:
    proc = table(p1=(0, 0, "openresty", NGINX), p19=WORKER, p20=AGENT)
    (proc / "self").mkdir()
    (proc / "self" / "uid_map").write_text("         0       1000          1\n")
    found = find_gateway_user(20, proc)
    assert (found.uid, "is none in this user namespace" in found.why) == (None, True)


def test_without_a_gateway_there_is_no_user(table: Table) -> None:
    found = find_gateway_user(20, table(p1=(0, 0, "systemd", "/sbin/init"), p20=(1, 0, "bash", "bash")))
    assert (found.uid, found.started_us) == (None, False)
