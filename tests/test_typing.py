"""What type checkers say to a plugin's author: `make lint` asks mypy, this asks pyright."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.long
def test_pyright_says_what_mypy_says(tmp_path: Path) -> None:
    pytest.importorskip("pyright", reason="pyright is not installed")
    shutil.copytree(ROOT / "typing_tests", tmp_path / "typing_tests")
    # An error that is expected and doesn't come is one itself.
    rules = {"include": ["typing_tests"], "typeCheckingMode": "standard", "reportUnnecessaryTypeIgnoreComment": "error"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(rules))
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 errors" in run.stdout
