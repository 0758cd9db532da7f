"""`gatewright profile`: where a running worker spends its time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import click

from gatewright.cli._control import ask_runner, control_options, control_path
from gatewright.cli._failing import fail

__all__ = ["profile"]

_FORMATS = {".svg": "flamegraph", ".json": "speedscope", ".txt": "raw"}


@click.command()
@control_options
@click.option("--worker", "-w", default=1, show_default=True, help="which worker, by its number in `gatewright status`")
@click.option("--seconds", "-s", default=10, show_default=True, type=click.IntRange(min=1), help="how long to look")
@click.option("--rate", "-r", default=200, show_default=True, type=click.IntRange(1, 1000), help="looks a second")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("profile.svg"),
    show_default=True,
    help="file to write: .svg a flame graph, .json for speedscope, .txt folded stacks",
)
@click.option("--pid", type=int, help="a process, instead of a worker of a runner that can be asked")
@click.option("--json", "as_json", is_flag=True, help="print JSON: which file was written, of which process")
def profile(
    config_file: Path | None,
    listen: str | None,
    control: str | None,
    worker: int,
    seconds: int,
    rate: int,
    output: Path,
    pid: int | None,
    as_json: bool,
) -> None:
    """Watch a running worker with py-spy and write a flame graph. The worker goes on serving meanwhile.

    Exit codes: 0 the file is written, 2 it isn't.
    """
    form = _FORMATS.get(output.suffix)
    if form is None:
        fail(f"--output ends in {', '.join(_FORMATS)}, not {output.suffix or output}")
    tool = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")
    if tool is None:
        fail("profiling needs py-spy: pip install 'gatewright[profile]'")
    if pid is None:
        pid = _pid_of(control_path(config_file, listen, control), worker)
    click.echo(f"watching process {pid} for {seconds} s", err=as_json)
    command = [tool, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(rate)]
    command += ["--format", form, "--output", str(output), "--nonblocking"]
    run = _run(command)
    if run.returncode and "stack counts" in run.stderr + run.stdout:
        click.echo("it did nothing meanwhile; looking once more, at what it waits in", err=as_json)
        run = _run([*command, "--idle"])
    if run.returncode or not output.exists():
        said = (run.stderr.strip() or run.stdout.strip()).splitlines()
        cure = ""
        if any("ermission" in line or "ptrace" in line for line in said):
            cure = "; to look into another process takes root, or SYS_PTRACE in a container"
        fail(f"py-spy failed: {said[-1] if said else run.returncode}{cure}")
    done = {"written": str(output), "format": form, "pid": pid, "seconds": seconds}
    click.echo(json.dumps(done) if as_json else f"written: {output}")
    sys.exit(0)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our words and numbers


def _pid_of(path: str, worker: int) -> int:
    _, content = ask_runner(path, "/status")
    for entry in content["workers"]:
        if entry["number"] == worker and entry["stage"] == "ready":
            return int(entry["pid"])
    known = ", ".join(str(entry["number"]) for entry in content["workers"]) or "none"
    return fail(f"there is no worker {worker}; there are: {known}")
