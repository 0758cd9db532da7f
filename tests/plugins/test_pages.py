"""The pages on plugins that come along: their examples are run, over both gateways, and their tables are the models'.

A page has a route file in APISIX's format and one in Kong's, both for paths that begin with the plugin's name; all
pages' examples are put together and served by one development gateway of each kind. In its `sh` blocks,
`curl ... URL  # 403` is a request and the status that it gets; lines run in order.

`python -m tests.plugins.test_pages` writes the tables of fields anew.
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from click.testing import CliRunner

from gatewright.cli.plugins import plugins
from gatewright.errors import GatewrightError
from gatewright.runtime.shipped import load_shipped, shipped_names
from tests.plugins.lambda_server import LambdaServer
from tests.plugins.ml_models import classifier
from tests.plugins.redis_servers import RedisProcess

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = ROOT / "docs" / "batteries"
_FIELDS = re.compile(r"(<!-- fields: ([\w-]+) -->\n)(.*?)(<!-- fields: end -->)", re.DOTALL)


def pages() -> list[Path]:
    return sorted(page for page in DIRECTORY.glob("*.md") if page.stem in shipped_names())


def table(name: str) -> str:
    result = CliRunner().invoke(plugins, [name, "--markdown"])
    assert result.exit_code == 0, result.output
    return result.stdout  # what others log meanwhile goes to stderr


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def usable(page: Path) -> bool:
    """Whether what the plugin needs is installed."""
    try:
        load_shipped(page.stem)
    except GatewrightError:
        return False
    return True


def test_each_has_a_page_that_the_overview_names() -> None:
    overview = (DIRECTORY / "README.md").read_text(encoding="utf-8")
    assert {page.stem for page in pages()} == shipped_names()
    assert {name for name in shipped_names() if f"[{name}]({name}.md)" not in overview} == set()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_the_fields_are_those_of_the_model(page: Path) -> None:
    if not usable(page):
        pytest.skip("what it needs is not installed")
    found = {name: shown for _, name, shown, _ in _FIELDS.findall(page.read_text(encoding="utf-8"))}
    assert found == {page.stem: table(page.stem)}, "run `python -m tests.plugins.test_pages`"


# --- the examples


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory, redis: RedisProcess) -> Iterator[dict[str, str]]:
    """What the pages say, and what stands in for it here."""
    model = classifier(tmp_path_factory.mktemp("models") / "fraud.onnx")
    redis.client().flushall()
    functions = LambdaServer()
    functions.functions["greet"] = lambda event: {"statusCode": 201, "body": f"hello from {event['rawPath']}"}
    yield {
        "/models/fraud.onnx": str(model),
        "127.0.0.1:6379": redis.address,
        "https://lambda.eu-west-1.amazonaws.com": functions.url,
    }
    functions.close()


def example(page: Path, gateway: str) -> dict[str, Any]:
    mark = {"apisix": "routes", "kong": "_format_version"}[gateway]
    (found,) = (each for each in map(yaml.safe_load, blocks(page, "yaml")) if mark in each)
    return dict(found)


class DevGateway:
    """A development gateway that serves all pages' examples."""

    def __init__(self, directory: Path, gateway: str, stand_ins: dict[str, str]) -> None:
        whole: dict[str, Any] = {}
        for page in filter(usable, pages()):
            for name, value in example(page, gateway).items():
                whole[name] = whole.get(name, []) + value if isinstance(value, list) else value
        text = yaml.safe_dump(whole)
        for said, meant in stand_ins.items():
            text = text.replace(said, meant)
        (directory / "plugins").mkdir()
        (directory / "routes.yaml").write_text(text)
        self._out = directory / "out"
        arguments = [directory / "plugins", "--routes", directory / "routes.yaml", "--port", "0", "--upstream"]
        if gateway == "kong":
            arguments.append("echo")
        else:
            arguments.pop()
        with self._out.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gatewright", "dev", *map(str, arguments)], stdout=file, stderr=file,
                env={**os.environ, "GATEWRIGHT_DRAIN": "5"},
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while "Listening on" not in self.output:
            assert self._process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)
        self.url = self.output.partition("Listening on ")[2].partition(",")[0]

    @property
    def output(self) -> str:
        return self._out.read_text()

    def close(self) -> None:
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(30) == 0, self.output

    def curl(self, line: str) -> int:
        """Do what a curl line says; gives the status."""
        method, headers, body, url = "", {}, None, ""
        words = iter(shlex.split(line)[1:])
        for word in words:
            if word in ("-i", "-s", "-v"):
                continue
            if word in ("-X", "--request"):
                method = next(words)
            elif word in ("-H", "--header"):
                name, _, value = next(words).partition(":")
                headers[name.lower()] = value.strip()
            elif word in ("-d", "--data", "--data-binary", "--json"):
                body = next(words)
                headers.setdefault("content-type", "application/json" if word == "--json" else _FORM)
            elif word in ("-u", "--user"):
                import base64

                headers["authorization"] = "Basic " + base64.b64encode(next(words).encode()).decode()
            else:
                assert not word.startswith("-"), f"the pages' curl knows no {word}"
                url = word
        place, path = urlsplit(self.url), url.partition("9080")[2]
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
        try:
            connection.request(method or ("POST" if body else "GET"), path, body, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()


_FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module", params=["apisix", pytest.param("kong", marks=pytest.mark.long)])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stand_ins: dict[str, str]
) -> Iterator[DevGateway]:
    gateway = DevGateway(tmp_path_factory.mktemp(request.param), request.param, stand_ins)
    yield gateway
    gateway.close()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_the_commands_do_what_the_page_says(served: DevGateway, page: Path, stand_ins: dict[str, str]) -> None:
    if not usable(page):
        pytest.skip("what it needs is not installed")
    lines = [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("curl ")]
    assert lines, "a page shows how to try it"
    for line in lines:
        command, _, expected = line.rpartition("  # ")
        for said, meant in stand_ins.items():
            command = command.replace(said, meant)
        status = served.curl(command)
        if page.stem == "circuit-breaker":
            time.sleep(0.2)  # on Kong an answer is counted in the log phase, when the client has it already
        assert str(status) == expected.strip()[:3], f"{line}\n{served.output}"


if __name__ == "__main__":
    for each in filter(usable, pages()):
        written = _FIELDS.sub(lambda found: f"{found[1]}{table(found[2])}{found[4]}", each.read_text(encoding="utf-8"))
        each.write_text(written, encoding="utf-8")
