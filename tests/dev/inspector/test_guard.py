"""Who may ask the inspector, and what it answers: no browser needed."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

import pytest

from tests.dev.inspector.conftest import Development

OWN = {"X-Gatewright-Inspector": "1", "Content-Type": "application/json"}


@pytest.fixture
def page(as_apisix: Development) -> Development:
    return as_apisix


def ask(
    page: Development, path: str, headers: dict[str, str] | None = None, body: Any = None, method: str | None = None
) -> tuple[int, Any, dict[str, str]]:
    port = int(page.page.split(":")[2].partition("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    data = None if body is None else json.dumps(body)
    connection.request(method or ("GET" if data is None else "POST"), path, data, headers or {})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    kind = response.headers.get("Content-Type", "")
    return response.status, json.loads(content) if "json" in kind else content.decode(), dict(response.headers)


def test_the_page_and_its_parts_come_with_a_strict_policy(page: Development) -> None:
    for path, kind in (("", "text/html"), ("assets/app.js", "text/javascript"), ("assets/style.css", "text/css")):
        status, content, headers = ask(page, f"/_gatewright/{path}")
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert content
        assert "default-src 'none'; script-src 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Frame-Options"] == "DENY"
    assert ask(page, "/_gatewright/assets/../web.py")[0] == 404
    assert ask(page, "/")[0] == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Host": "evil.example:9081"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_pages_are_refused(page: Development, headers: dict[str, str]) -> None:
    status, content, _ = ask(page, "/_gatewright/api/calls", headers)
    assert status == 403
    assert "calls" not in content


def test_what_does_something_needs_a_header_that_no_form_can_send(page: Development) -> None:
    assert ask(page, "/_gatewright/api/clear", {"Content-Type": "application/json"}, {})[0] == 403
    assert ask(page, "/_gatewright/api/clear", OWN, {})[0] == 200


def test_localhost_is_this_machine_too(page: Development) -> None:
    port = page.page.split(":")[2].partition("/")[0]
    assert ask(page, "/_gatewright/api/about", {"Host": f"localhost:{port}"})[0] == 200


def test_secrets_are_shown_only_on_request(page: Development) -> None:
    number = page.recorded("GET", "/secret?api_key=sesame", {"Authorization": "Bearer abcdefghijkl"})["id"]
    call = f"/_gatewright/api/calls/{number}"
    shown, summaries = ask(page, call)[1], ask(page, "/_gatewright/api/calls")[1]
    for content in (shown, summaries):
        assert "abcdefghijkl" not in str(content)
        assert "sesame" not in str(content)
    assert ask(page, f"{call}/reveal", method="POST")[0] == 403
    revealed = ask(page, f"{call}/reveal", OWN, {})[1]
    assert ["Authorization", "Bearer abcdefghijkl"] in revealed["request"]["headers"]
    assert "abcdefghijkl" not in ask(page, f"{call}/curl", OWN, {})[1]["text"]
    assert "Bearer abcdefghijkl" in ask(page, f"{call}/curl", OWN, {"revealed": True})[1]["text"]


def test_a_request_is_replayed_with_its_secrets_and_with_edits(page: Development) -> None:
    first = page.recorded("POST", "/replay?x=1", {"Authorization": "Bearer abcdefghijkl", "X-User": "ada"}, b"body")
    call = f"/_gatewright/api/calls/{first['id']}"
    again = ask(page, f"{call}/replay", OWN, {})[1]["id"]
    edits = {
        "method": "PUT", "target": "/edited", "body": "new",
        "headers": [["Host", "a"], ["Authorization", "[redacted]"], ["X-User", "bob"]],
    }  # fmt: skip
    edited = ask(page, f"{call}/replay", OWN, edits)[1]["id"]
    page.wait_for(lambda: len([r for r in page.records() if r["id"] in (again, edited)]) == 2)
    one, other = (ask(page, f"/_gatewright/api/calls/{n}/reveal", OWN, {})[1] for n in (again, edited))
    assert one["replay_of"] == other["replay_of"] == first["id"]
    assert one["request"]["target"] == "/replay?x=1"
    assert one["request"]["body"]["text"] == "body"
    assert ["Authorization", "Bearer abcdefghijkl"] in one["request"]["headers"]
    assert (other["request"]["method"], other["request"]["target"]) == ("PUT", "/edited")
    assert other["request"]["headers"][:3] == [
        ["Host", "a"], ["Authorization", "Bearer abcdefghijkl"], ["X-User", "bob"]
    ]  # fmt: skip
    assert other["request"]["body"]["text"] == "new"


@pytest.mark.parametrize(
    ("edits", "why"),
    [
        ({"target": "/ x"}, "without blanks"),
        ({"headers": [["a", "b\r\nc: d"]]}, "a line break can't be sent"),
        ({"headers": [["X-Token", "[redacted]"]]}, "type the real one"),
        ({"headers": "x"}, "pairs of name and value"),
        ({"method": "GET", "target": "no-slash"}, "did not take it for a request"),
    ],
)
def test_what_can_t_be_sent_again_is_said(page: Development, edits: dict[str, Any], why: str) -> None:
    number = page.recorded("GET", "/")["id"]
    status, answer, _ = ask(page, f"/_gatewright/api/calls/{number}/replay", OWN, edits)
    assert status == 200, "or else the browser's console has a complaint"
    assert why in answer["error"]


def test_plugins_with_their_files_routes_and_schemas(page: Development) -> None:
    plugins = {plugin["name"]: plugin for plugin in ask(page, "/_gatewright/api/plugins")[1]["plugins"]}
    greet = plugins["greet"]
    assert greet["source"].endswith("plugins.py")
    assert {route["where"] for route in greet["routes"]} == {"ext-plugin-pre-req", "ext-plugin-post-resp"}
    assert "greeting" in json.dumps(greet["schema"])
    assert greet["why_not"] == [] or greet["called"]


def test_a_configuration_is_tried_on(page: Development) -> None:
    path = "/_gatewright/api/plugins/greet/try"
    assert ask(page, path, OWN, {"config": '{"greeting": "hi"}'})[1] == {"ok": True}
    assert "greeting" in ask(page, path, OWN, {"config": '{"greeting": 1}'})[1]["error"]
    assert "greting" in ask(page, path, OWN, {"config": '{"greting": "hi"}'})[1]["error"]
    assert ask(page, "/_gatewright/api/plugins/nobody/try", OWN, {"config": "{}"})[0] == 404


def test_a_file_of_records_is_shown_and_what_is_none_is_refused(page: Development, tmp_path: Path) -> None:
    from gatewright.dev.inspector.looking import read_records
    from gatewright.errors import ConfigError

    page.recorded("GET", "/kept")
    book, gateway = read_records(page.record)
    assert len(book) == len(page.records())
    assert gateway == {"name": "apisix", "version": "3.9"}
    for text, why in (("{}\n", "line 1"), ('{"version": 99}\n', "version 99"), ("\n\nnonsense\n", "line 3")):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(ConfigError, match=why):
            read_records(tmp_path / "bad")
