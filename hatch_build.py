"""What `pip` runs when it installs or builds the package: the modules in C are built, if that can be done here.

Without them Python does the same, slower, so nothing is lost where there is no compiler: then the wheel is pure Python,
as it is if `GATEWRIGHT_PURE_PYTHON` is set. They keep to Python's stable ABI: one build serves all versions from 3.11.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = (
    "gatewright/_parts.c",
    "gatewright/gateways/apisix/_quick.c",
    "gatewright/gateways/apisix/_turn.c",
    "gatewright/gateways/kong/_steps.c",
    "gatewright/gateways/lean/_brought.c",
    "gatewright/server/drivers/kong/_line.c",
)


class CustomBuildHook(BuildHookInterface):
    """Builds the modules in C beside their sources, where an editable installation finds them, too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and say that the wheel is this platform's."""
        if os.environ.get("GATEWRIGHT_PURE_PYTHON") or sys.implementation.name != "cpython":
            return
        built = [self._built(Path(self.root, source)) for source in SOURCES]
        if not all(built):
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{platform}"
        build_data["artifacts"] += [f"/{path.relative_to(self.root)}" for path in built if path is not None]

    def _built(self, source: Path) -> Path | None:
        target = source.with_suffix(".abi3.so")
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
        shared = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
        include = sysconfig.get_path("include")
        unfinished = target.with_suffix(f".{os.getpid()}")  # a runner may have the one that is there in use
        try:
            subprocess.run(  # noqa: S603 - the compiler that Python was built with, or that CC names
                [*compiler, "-O2", "-fPIC", *shared, f"-I{include}", str(source), "-o", str(unfinished)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            unfinished.replace(target)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", "") or str(error)
            self.app.display_warning(f"{source.name} is not built, Python does its work, slower: {reason.strip()}")
            unfinished.unlink(missing_ok=True)
            target.unlink(missing_ok=True)  # of an earlier source
            return None
        return target
