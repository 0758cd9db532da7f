"""An editor's debugger on `gatewright dev --debug`: debugpy's own protocol, spoken as an editor does."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

SOURCE = """\
from gatewright import Plugin
class Stops(Plugin):
    async def on_request(self, request):
        shown = "before"
        request.headers["x-shown"] = shown
"""


class Editor:
    """The editor's end: requests with answers, and events."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self._sock = socket.create_connection(("127.0.0.1", port), 30)
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        self._file = self._sock.makefile("rb")
        self._number = 0
        self._read: list[dict[str, Any]] = []

    def send(self, command: str, **arguments: Any) -> int:
        self._number += 1
        body = {"seq": self._number, "type": "request", "command": command, "arguments": arguments}
        data = json.dumps(body).encode()
        self._sock.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        return self._number

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for message in self._read:
            if wanted(message):
                self._read.remove(message)
                return message
        while True:
            size = 0
            while (line := self._file.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    size = int(line.split(b":")[1])
            message = json.loads(self._file.read(size))
            if wanted(message):
                return message
            self._read.append(message)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        number = self.send(command, **arguments)
        answer = self.wait_for(lambda message: message.get("request_seq") == number)
        assert answer["success"], answer
        body: dict[str, Any] = answer.get("body") or {}
        return body

    def event(self, name: str) -> dict[str, Any]:
        return self.wait_for(lambda message: message.get("event") == name).get("body") or {}

    def close(self) -> None:
        self._file.close()
        self._sock.close()


def test_what_the_page_shows_for_editors_is_json() -> None:
    page = (ROOT / "docs" / "debugging.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    launch, attach = json.loads(shown)["configurations"]
    assert (launch["module"], launch["args"][-1]) == ("gatewright", "--debug")
    assert attach["connect"]["port"] == 5678


@pytest.mark.long
def test_a_breakpoint_is_stopped_at_and_variables_can_be_changed(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    file = tmp_path / "plugins" / "stops.py"
    file.write_text(SOURCE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-X", "frozen_modules=off", "-m", "debugpy", "--listen", f"127.0.0.1:{port}"),
                *("--configure-subProcess", "False"),
                *("--wait-for-client", "-m", "gatewright", "dev", "plugins", "--debug", "--port", "0", "--no-inspect"),
            ],
            cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    editor = Editor(port, process)
    try:
        editor.ask("initialize", adapterID="debugpy", clientID="test", pathFormat="path")
        attached = editor.send("attach", justMyCode=True, subProcess=False, connect={"host": "127.0.0.1", "port": port})
        editor.event("initialized")
        (place,) = editor.ask("setBreakpoints", source={"path": str(file)}, breakpoints=[{"line": 5}])["breakpoints"]
        editor.ask("configurationDone")
        editor.wait_for(lambda message: message.get("request_seq") == attached)
        deadline = time.monotonic() + 60
        while "curl -i " not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        url = log.read_text().partition("curl -i ")[2].split()[0]
        got: list[str] = []
        asking = threading.Thread(target=lambda: got.append(urllib.request.urlopen(url, timeout=60).read().decode()))
        asking.start()
        stopped = editor.event("stopped")
        assert stopped["reason"] == "breakpoint", place
        frame = editor.ask("stackTrace", threadId=stopped["threadId"])["stackFrames"][0]
        assert frame["name"].endswith("on_request"), frame
        assert (frame["line"], frame["source"]["path"]) == (5, str(file))
        scope = editor.ask("scopes", frameId=frame["id"])["scopes"][0]["variablesReference"]
        shown = {each["name"]: each["value"] for each in editor.ask("variables", variablesReference=scope)["variables"]}
        assert shown["shown"] == "'before'"
        editor.ask("setVariable", variablesReference=scope, name="shown", value="'by the editor'")
        editor.ask("continue", threadId=stopped["threadId"])
        asking.join(60)
        assert "by the editor" in got[0]
    finally:
        editor.close()
        process.kill()
        process.wait()
