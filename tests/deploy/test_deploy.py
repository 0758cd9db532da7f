"""What is under deploy/ is checked by its own tools, and against the runner itself.

No image is built and no cluster is started here; what a tool that isn't installed would check is skipped and said.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gatewright.dev.apisix.routes import load_routes
from gatewright.dev.kong.declarative import load_declarative
from gatewright.doctor.apisix import check_apisix_config
from gatewright.observe.control import ask
from gatewright.settings import Settings, load_settings
from gatewright.settings.processors import usable_processors
from tests.conftest import MEASURING, ROOT, RunnerProcess, StartRunner

DEPLOY = ROOT / "deploy"


def tool(name: str) -> str:
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def passes(*command: object) -> str:
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.apisix"])
def test_dockerfiles(name: str) -> None:
    assert passes(tool("hadolint"), DEPLOY / "docker" / name) == ""


def test_the_plugin_server_of_the_kong_compose_file_starts_as_written(tmp_path: Path) -> None:
    services = yaml.safe_load((DEPLOY / "docker" / "compose.kong.yaml").read_text())["services"]
    kong, plugins = services["kong"]["environment"], services["plugins"]
    (script,) = plugins["command"]
    script = script.replace("/run/gatewright", str(tmp_path)).replace("/plugins", str(ROOT / "examples" / "kong"))
    scripts = sysconfig.get_path("scripts")
    environ = {**MEASURING, "PATH": f"{scripts}:{os.environ['PATH']}", "GATEWRIGHT_SOCKET_MODE": "0666"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*plugins["entrypoint"], script], env=environ, stdout=log, stderr=log)
    try:
        socket = Path(kong["KONG_PLUGINSERVER_PY_HELLO_SOCKET"].replace("/run/gatewright", str(tmp_path)))
        deadline = time.monotonic() + 20
        while not socket.exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert stat.S_IMODE(socket.stat().st_mode) == 0o666
        query = kong["KONG_PLUGINSERVER_PY_HELLO_QUERY_CMD"].replace("/run/gatewright", str(tmp_path))
        dump = json.loads(subprocess.check_output(query, shell=True))
        assert dump["Protocol"] == "ProtoBuf:1"
        assert dump["Plugins"][0]["Name"] == kong["KONG_PLUGINSERVER_NAMES"]
        declared = load_declarative(DEPLOY / "docker" / "kong" / "kong.yml")
        assert [plugin.name for plugin in declared.plugins] == [dump["Plugins"][0]["Name"]]
    finally:
        process.terminate()
        assert process.wait(10) == 0, (tmp_path / "log").read_text()


@pytest.mark.parametrize("name", ["compose.yaml", "compose.managed.yaml", "compose.kong.yaml"])
def test_compose_files(name: str) -> None:
    file = DEPLOY / "docker" / name
    passes(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", file)
    for service in yaml.safe_load(file.read_text())["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (file.parent / source).exists(), source
        if "build" in service:
            assert (file.parent / service["build"]["context"] / service["build"]["dockerfile"]).exists()


def test_kubernetes_manifests() -> None:
    directory = DEPLOY / "kubernetes"
    resources = yaml.safe_load((directory / "kustomization.yaml").read_text())["resources"]
    assert sorted(resources) == sorted(p.name for p in directory.glob("*.yaml") if p.name != "kustomization.yaml")
    passes(tool("kubernetes-validate"), "--strict", *(directory / name for name in resources))


def containers() -> Iterator[Any]:
    pod = yaml.safe_load((DEPLOY / "kubernetes" / "deployment.yaml").read_text())["spec"]["template"]["spec"]
    values = yaml.safe_load((DEPLOY / "helm" / "values-apisix.yaml").read_text())
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in (*pod["initContainers"], *pod["containers"]):
        yield container, volumes
    for container in (*values["extraContainers"], {"volumeMounts": values["extraVolumeMounts"]}):
        yield container, {volume["name"] for volume in values["extraVolumes"]}


def test_gateway_and_runner_share_the_sockets_directory() -> None:
    mounts = []
    for container, volumes in containers():
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        mounts += [mount["mountPath"] for mount in container["volumeMounts"] if "socket" in mount["name"]]
        for variable in container.get("env", []):
            name = variable["name"].removeprefix("GATEWRIGHT_").lower()
            assert not variable["name"].startswith("GATEWRIGHT_") or hasattr(Settings(), name)
    assert mounts == ["/run/gatewright"] * 4


def test_the_images_settings_are_settings() -> None:
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    environ = dict(re.findall(r"(GATEWRIGHT_\w+)=(\S+)", text))
    settings = load_settings(flags={}, environ=environ).settings
    assert settings.listen == "unix:/run/gatewright/runner.sock"
    assert settings.workers == "auto"
    assert len(environ) == 4


def gateway_configs() -> Iterator[tuple[str, str]]:
    for name in ("config.yaml", "config.managed.yaml"):
        yield name, (DEPLOY / "docker" / "apisix" / name).read_text()
    (manifest, _) = yaml.safe_load_all((DEPLOY / "kubernetes" / "configmap.yaml").read_text())
    yield "kubernetes", manifest["data"]["config.yaml"]
    values = yaml.safe_load((DEPLOY / "helm" / "values-apisix.yaml").read_text())
    yield "helm", yaml.safe_dump(values["apisix"]["fullCustomConfig"]["config"])


@pytest.mark.parametrize("config", [pytest.param(text, id=name) for name, text in gateway_configs()])
def test_the_gateways_configurations_suit_the_runner(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(config)
    settings = Settings(listen="unix:/run/gatewright/runner.sock")
    findings = [f for f in check_apisix_config(tmp_path / "config.yaml", settings) if f.level in ("warning", "problem")]
    assert [f for f in findings if "no program '/opt/gatewright/bin/gatewright'" not in f.text] == []


def test_routes_are_understood(tmp_path: Path) -> None:
    load_routes(DEPLOY / "docker" / "apisix" / "apisix.yaml")
    (gateway, plugins) = yaml.safe_load_all((DEPLOY / "kubernetes" / "configmap.yaml").read_text())
    (tmp_path / "apisix.yaml").write_text(gateway["data"]["apisix.yaml"])
    load_routes(tmp_path / "apisix.yaml")
    (tmp_path / "greet.py").write_text(plugins["data"]["greet.py"])
    assert "greet" in passes(sys.executable, "-m", "gatewright", "check", tmp_path / "greet.py")


def test_the_plugins_of_the_compose_files_exist() -> None:
    passes(
        *(sys.executable, "-m", "gatewright", "doctor", "-p", ROOT / "examples" / "plugins", "--json"),
        *("--routes", DEPLOY / "docker" / "apisix" / "apisix.yaml", "--listen", "127.0.0.1:9"),
    )


def test_systemd_units() -> None:
    verify = tool("systemd-analyze")
    units = [DEPLOY / "systemd" / "gatewright.service", DEPLOY / "systemd" / "gatewright.socket"]
    run = subprocess.run([verify, "verify", *units], capture_output=True, text=True, timeout=60, check=False)
    said = [line for line in run.stderr.splitlines() if "gatewright" in line]
    assert [line for line in said if "is not executable" not in line] == []


def test_the_settings_file_of_the_unit_is_valid() -> None:
    settings = load_settings(flags={}, environ={}, file=DEPLOY / "systemd" / "gatewright.yaml").settings
    assert settings.workers == "auto"


def test_the_supervisor_file_runs_the_runner(tmp_path: Path) -> None:
    supervisord = tool("supervisord")
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(DEPLOY / "supervisor" / "gatewright.conf")
    program = parser["program:gatewright"]
    socket = tmp_path / "r.sock"
    program["command"] = f"{sys.executable} -m gatewright run -p {ROOT}/examples/plugins --listen unix:{socket}"
    program["stdout_logfile"] = str(tmp_path / "stdout.log")
    program["stderr_logfile"] = str(tmp_path / "runner.log")
    del program["user"]
    parser["supervisord"] = {
        "nodaemon": "true",
        "logfile": "/dev/null",
        "logfile_maxbytes": "0",
        "directory": str(tmp_path),
    }
    with (tmp_path / "supervisord.conf").open("w") as file:
        parser.write(file)
    (tmp_path / "runner.log").touch()
    process = subprocess.Popen(
        [supervisord, "-c", tmp_path / "supervisord.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], **MEASURING},
    )  # fmt: skip
    runner = RunnerProcess(process, socket, tmp_path / "runner.log")  # type: ignore[arg-type]
    try:
        runner.wait_until_listening()
        runner.wait_for_log("listening")
        with runner.peer() as peer:
            assert peer.request(peer.prepare(("greet", "{}"))) is not None
        pid = int(subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, check=True).stdout)
        os.kill(pid, signal.SIGKILL)
        runner.wait_for(lambda: runner.log.count("listening") == 2)
    finally:
        process.terminate()
        process.wait(10)
    assert not socket.exists()


def exposed(start_runner: StartRunner) -> set[str]:
    runner = start_runner("-p", ROOT / "examples" / "plugins")
    with runner.peer() as peer:
        peer.request(peer.prepare(("greet", "{}")))
        runner.wait_for(lambda: runner.status()["ready"])
    text = ask(f"{runner.socket}.control", "/metrics")[1].decode()
    return set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))


def test_dashboard_and_alerts_use_metrics_that_exist(start_runner: StartRunner) -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    queries += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    used = {name for query in queries for name in re.findall(r"\bgatewright_\w+", query)}
    names = exposed(start_runner)
    known = names | {f"{name}{suffix}" for name in names for suffix in ("_bucket", "_sum", "_count")}
    assert used <= known
    assert len(used) > 15
    unseen = {name for name in names if name.startswith("gatewright_") and not any(name in query for query in queries)}
    assert unseen == {
        "gatewright_configurations", "gatewright_connections_accepted_total", "gatewright_info",
        "gatewright_threads_limit",
    }  # fmt: skip


def test_alert_rules() -> None:
    promtool = tool("promtool")
    passes(promtool, "check", "rules", DEPLOY / "prometheus" / "alerts.yaml")
    passes(promtool, "check", "config", DEPLOY / "prometheus" / "prometheus.yaml")


@pytest.mark.long
def test_the_package_runs_when_installed_with_the_images_settings_alone(tmp_path: Path) -> None:
    """As the image does it: install from the source, run with nothing but the environment."""
    wheels = tmp_path / "wheels"
    passes(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT)
    target = tmp_path / "site"
    passes(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, *wheels.glob("*.whl"))
    socket = tmp_path / "runner.sock"
    environ = {
        "PYTHONPATH": str(target), "GATEWRIGHT_LISTEN": f"unix:{socket}", "GATEWRIGHT_WORKERS": "auto",
        "GATEWRIGHT_PLUGINS": str(ROOT / "examples" / "plugins"), "GATEWRIGHT_LOG_FORMAT": "json",
    }  # fmt: skip
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from gatewright.cli import main; main()", "run"], env=environ, cwd=tmp_path,
            stderr=file,
        )  # fmt: skip
    runner = RunnerProcess(process, socket, log)  # type: ignore[arg-type]
    try:
        runner.wait_until_listening()
        runner.wait_for_log('"event": "listening"')
        assert len(runner.workers()) == usable_processors()
        shown = subprocess.run(
            [sys.executable, "-P", "-c", "from gatewright.cli import main; main()", "status"], env=environ,
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert shown.returncode == 0, shown.stderr
    finally:
        process.terminate()
        process.wait(10)
