"""How many processors a runner takes to be its own, in containers of both kinds of control groups."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from gatewright.settings import Settings, worker_count
from gatewright.settings.processors import _limit, usable_processors

V2 = "proc/self/cgroup", "0::/kube/pod\n"
V1 = "proc/self/cgroup", "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n0::/\n"
TOP = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        pytest.param({}, math.inf, id="no groups"),
        pytest.param(dict([V2]), math.inf, id="nothing mounted"),
        pytest.param(dict([V2]) | {f"{TOP}/kube/pod/cpu.max": "max 100000\n"}, math.inf, id="no limit"),
        pytest.param(dict([V2]) | {f"{TOP}/kube/pod/cpu.max": "150000 100000\n"}, 1.5, id="a limit"),
        pytest.param(
            dict([V2]) | {f"{TOP}/kube/pod/cpu.max": "300000 100000\n", f"{TOP}/kube/cpu.max": "50000 100000\n"},
            0.5,
            id="a parent's limit",
        ),
        pytest.param(dict([V2]) | {f"{TOP}/cpu.max": "200000 100000\n"}, 2.0, id="the host's path in a container"),
        pytest.param(dict([V2]) | {f"{TOP}/kube/pod/cpu.max": "something\n"}, math.inf, id="no numbers"),
        pytest.param(dict([V2]) | {f"{TOP}/kube/pod/cpu.max": "10 0\n"}, math.inf, id="no period"),
        pytest.param({"proc/self/cgroup": "nothing of the kind\n"}, math.inf, id="another form"),
        pytest.param(
            dict([V1])
            | {f"{TOP}/cpu/docker/1/cpu.cfs_quota_us": "-1\n", f"{TOP}/cpu/docker/1/cpu.cfs_period_us": "100000\n"},
            math.inf,
            id="version 1, no limit",
        ),
        pytest.param(
            dict([V1])
            | {f"{TOP}/cpu/docker/1/cpu.cfs_quota_us": "250000\n", f"{TOP}/cpu/docker/1/cpu.cfs_period_us": "100000\n"},
            2.5,
            id="version 1, a limit",
        ),
        pytest.param(
            dict([V1])
            | {f"{TOP}/cpu,cpuacct/cpu.cfs_quota_us": "50000\n", f"{TOP}/cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            0.5,
            id="version 1, the host's path in a container",
        ),
    ],
)
def test_the_limit_of_a_container(tmp_path: Path, files: dict[str, str], limit: float) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert _limit(tmp_path) == limit
    own = len(os.sched_getaffinity(0))
    assert usable_processors(tmp_path) == max(min(own, math.ceil(limit) if limit < math.inf else own), 1)


def test_auto_is_what_may_be_used() -> None:
    assert worker_count(Settings(workers="auto")) == usable_processors()
    assert worker_count(Settings(workers="3")) == 3
