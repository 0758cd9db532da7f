"""What a record tells of a request, with a real runner or plugin server behind a development gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gatewright import Plugin, SyncRequest, SyncResponse
from gatewright.testing import TestClient
from tests.dev.inspector.conftest import Development


def plugin(record: dict[str, Any], name: str, *phases: str) -> dict[str, Any]:
    """What a plugin did in the first of these phases."""
    return next(
        each
        for phase in record["phases"]
        if phase["name"] in phases
        for each in phase["plugins"]
        if each["name"] == name
    )


def changes(of: dict[str, Any]) -> dict[tuple[str, str], tuple[Any, Any]]:
    return {(change["of"], change["name"]): (change["before"], change["after"]) for change in of["changes"]}


REQUEST = ("request", "access")


def test_what_each_plugin_changed_asked_and_logged(development: Development) -> None:
    record = development.recorded("POST", "/a?b=c", {"X-User": "ada"}, b"hi")
    greet, keep = plugin(record, "greet", *REQUEST), plugin(record, "keep", *REQUEST)
    assert ["x-user", "ada"] in [[name.lower(), value] for name, value in record["phases"][0]["came"]["headers"]]
    assert greet["outcome"] == keep["outcome"] == "went on"
    assert changes(greet)["header", "x-greeting"] == (None, ["hello"])
    assert changes(greet)["header", "x-user"] == (["ada"], ["one", "two"])
    logged, printed = greet["log"]
    assert (logged["text"], logged["fields"]["how"]) == ("greeting ada", "kindly")
    assert (printed["level"], printed["text"]) == ("print", "said 2 words")
    (before, after) = changes(keep)["body", ""]
    assert after["text"] == "kept: hi"
    if development.gateway == "apisix":
        assert changes(greet)["query", "added"] == (None, ["1"])
        assert [(asked["what"], asked["name"], asked["answer"]) for asked in greet["asked"]] == [
            ("var", "request_uri", "/a?b=c")
        ]
        assert [asked["what"] for asked in keep["asked"]] == ["request_body"]
        assert before["text"] == "hi"
        assert keep["asked"][0]["answer"]["text"] == "hi"
        assert ("header", "x-greeting") not in changes(keep)
    else:
        assert before["text"] == "hi"
        assert "kong.nginx.get_var('request_uri')" in [asked["name"] for asked in greet["asked"]]
    assert all(0 <= each["at"] <= record["seconds"] and each["seconds"] >= 0 for each in (greet, keep))


def test_what_went_upstream_what_came_back_and_what_the_client_got(development: Development) -> None:
    record = development.recorded("POST", "/a?b=c", body=b"hi")
    (sent,) = record["upstream"]
    assert ["x-greeting", "hello"] in [[name.lower(), value] for name, value in sent["headers"]]
    assert sent["body"]["text"] == "kept: hi"
    assert sent["answer"]["status"] == 200
    assert '"body": "kept: hi"' in sent["answer"]["body"]["text"]
    assert record["request"]["body"]["text"] == "hi"
    assert record["request"]["target"] == "/a?b=c"
    assert record["answer"]["status"] == 299
    assert ["x-served-by", "gatewright"] in [[name.lower(), value] for name, value in record["answer"]["headers"]]
    if development.gateway == "apisix":
        made = {change["name"]: (change["before"], change["after"]) for change in record["phases"][-1]["made"]}
        assert made["x-served-by"] == (None, ["gatewright"])
        assert "x-upstream" not in made
    greet = plugin(record, "greet", "response")
    assert changes(greet)["response header", "x-served-by"] == (None, ["gatewright"])
    assert changes(greet)["status", ""] == (200, 299)


def test_a_failure_has_its_traceback_with_source_and_no_secrets(development: Development) -> None:
    record = development.recorded("GET", "/", {"x-break": "it"})
    keep = plugin(record, "keep", *REQUEST)
    assert keep["outcome"] == "failed"
    error = keep["error"]
    assert error["type"] == "ValueError"
    assert error["text"] == "no help for it, password=[redacted]"
    last = error["frames"][-1]
    assert last["own"]
    assert last["file"].endswith("plugins.py")
    assert "raise ValueError" in last["source"][last["line"] - last["first"]]
    assert record["answer"]["status"] == (503 if development.gateway == "apisix" else 500)


def test_a_plugin_that_answers_ends_the_chain(development: Development) -> None:
    record = development.recorded("GET", "/", {"x-stop": "yes"})
    greet = plugin(record, "greet", *REQUEST)
    assert greet["outcome"] == "answered"
    assert record["answer"]["status"] == 401
    assert record["upstream"] == []
    if development.gateway == "apisix":
        assert greet["answer"]["body"]["text"] == "who are you?"
        assert plugin(record, "slow", "request")["why"] == "not reached: greet answered the client"
        assert record["phases"][0]["reply"]["kind"] == "stop"


def test_a_skipped_plugin_is_told_with_its_reason_and_its_changes_are_none(development: Development) -> None:
    record = development.recorded("GET", "/", {"x-slow-down": "yes"})
    slow = plugin(record, "slow", *REQUEST)
    assert slow["outcome"] == "skipped"
    assert "0.2 s" in slow["why"]
    assert slow["changes"] == []
    assert record["answer"]["status"] == 299


def test_lines_that_a_handler_logs_in_a_response_phase_are_its_own(development: Development) -> None:
    record = development.recorded("GET", "/")
    assert [line["text"] for line in plugin(record, "slow", "response")["log"]] == ["seen in a SyncResponse"]


def test_secrets_are_not_written(development: Development) -> None:
    record = development.recorded(
        "GET", "/?api_key=sesame", {"Authorization": "Bearer abcdefghijkl", "Cookie": "session=opensesame"}
    )
    text = str(record)
    assert "abcdefghijkl" not in text
    assert "sesame" not in text
    assert "[redacted]" in text


class Ends(Plugin):
    def on_log(self, request: SyncRequest, response: SyncResponse) -> None:
        self.log.warning("it ended")
        if request.path == "/bad":
            raise ValueError("after all")


def test_on_kong_what_runs_after_the_answer_is_told_too(tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    with TestClient(Ends, gateway="kong", record=file) as client:
        client.get("/good")
        client.get("/bad")
    good, bad = (plugin(json.loads(line), "ends", "log") for line in file.read_text().splitlines())
    assert (good["outcome"], [line["text"] for line in good["log"]]) == ("went on", ["it ended"])
    assert (bad["outcome"], bad["why"], bad["error"]["type"]) == ("failed", "after all", "ValueError")
