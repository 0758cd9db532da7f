"""What plugins that come along cost is measured for each of them, by a command that works."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from benchmarks.batteries import CASES
from gatewright.runtime.shipped import shipped_names
from tests.conftest import ROOT


def test_each_has_a_case() -> None:
    assert set(CASES) == shipped_names()


@pytest.mark.long
@pytest.mark.alone
def test_the_command_measures() -> None:
    command = [sys.executable, "-m", "benchmarks.batteries", "--only", "circuit-breaker", "--seconds", "0.2"]
    run = subprocess.run(
        [*command, "--rounds", "1"], capture_output=True, text=True, check=False, timeout=100, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"^  a closed circuit +[\d,]+ +[\d.]+ +-?[\d.]+ +[\d.]+ +\d+$", run.stdout, re.MULTILINE), (
        run.stdout
    )
