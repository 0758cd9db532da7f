"""What is kept of requests, within bounds, and who is told."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from gatewright.dev.inspector.book import Book
from gatewright.dev.inspector.exports import curl_of
from gatewright.dev.inspector.exports import test_of as export_test
from gatewright.dev.inspector.facts import Facts, plugins_view
from gatewright.dev.inspector.records import redacted, summary_of
from gatewright.dev.messages import ClientRequest
from gatewright.dev.trail import Trail, body_form
from gatewright.observe.recording import LogTap
from gatewright.testing import TestClient
from tests.dev.inspector.plugins import Greet


def record(number: int, **more: Any) -> dict[str, Any]:
    request = {"method": "GET", "target": f"/{number}", "headers": [], "body": None}
    return {
        "id": number, "at": 1.0, "seconds": 0.1, "replay_of": None, "request": request, "phases": [], "notes": [],
        "answer": {"status": 200}, "gateway": {"name": "apisix", "version": "3.9"}, "upstream": [], **more,
    }  # fmt: skip


def test_the_oldest_go_when_there_are_too_many_or_they_are_too_large() -> None:
    book = Book(most=3)
    for number in range(1, 6):
        book.put(record(number))
    assert [summary["id"] for summary in book.summaries()] == [3, 4, 5]
    assert book.dropped == 2
    small = Book(most_bytes=600)
    for number in range(1, 20):
        small.put(record(number))
    assert 1 <= len(small) < 5


def test_one_that_was_dropped_can_still_be_read_for_a_while() -> None:
    book = Book(most=3)
    for number in range(1, 6):
        book.put(record(number))
    assert (book.get(1) or {})["id"] == 1
    book.put(record(1, seconds=0.5))  # told late: it's not a new one
    assert [summary["id"] for summary in book.summaries()] == [3, 4, 5]
    assert (book.get(1) or {})["seconds"] == 0.5
    for number in range(6, 1100):
        book.put(record(number))
    assert book.get(1) is None
    book.clear()
    assert book.get(1096) is None
    assert book.get(1099) is None


def test_bytes_of_a_body_stay_base64_whatever_is_blacked_out_in_them() -> None:
    long = bytes(range(256)) * 256
    shown = redacted({"body": body_form(long)})["body"]
    assert base64.b64decode(shown["base64"]) == long
    telling = b"\xff\0 password=hunter2 \xfe"
    shown = redacted({"body": body_form(telling)})["body"]
    assert base64.b64decode(shown["base64"]) == b"\xff\0 password=[redacted] \xfe"


def test_a_newer_state_of_a_record_takes_the_place_of_the_older() -> None:
    book = Book()
    book.put(record(1, seconds=0.1))
    book.put(record(1, seconds=0.2))
    assert len(book) == 1
    assert (book.get(1) or {})["seconds"] == 0.2


async def test_listeners_are_told_and_one_that_is_far_behind_begins_anew() -> None:
    book = Book()
    with book.listening() as listener:
        book.put(record(1))
        anew, told, gone = await listener.next(1)
        assert (anew, [summary["id"] for summary in told], gone) == (False, [1], [])
        for number in range(2, 2100):
            book.put(record(number))
        anew, told, gone = await listener.next(1)
        assert anew
        asyncio.get_running_loop().call_later(0.01, book.wake)
        assert await listener.next(5) == (False, [], [])


async def test_listeners_are_told_what_is_no_longer_kept() -> None:
    book = Book(most_bytes=3000)
    with book.listening() as listener:
        for number in range(1, 40):
            book.put(record(number))
        anew, told, gone = await listener.next(1)
    assert not anew
    assert gone == list(range(1, gone[-1] + 1))
    assert [summary["id"] for summary in told] == [summary["id"] for summary in book.summaries()]


def test_summaries_have_the_worst_outcome_of_each_plugin() -> None:
    def phase(outcome: str) -> dict[str, Any]:
        return {"plugins": [{"name": "greet", "outcome": outcome}], "error": "", "refused": "", "notes": []}

    assert summary_of(record(1, phases=[phase("went on"), phase("failed")]))["plugins"] == {"greet": "failed"}
    assert summary_of(record(1, phases=[phase("went on"), phase("failed")]))["mark"] == "failed"
    assert summary_of(record(1, phases=[phase("answered")]))["mark"] == "stopped"
    assert summary_of(record(1, phases=[phase("went on")]))["mark"] == ""


def test_secrets_of_headers_arguments_changes_questions_and_configurations_are_blacked_out() -> None:
    shown = redacted(
        {
            "headers": [["Authorization", "Basic abc"], ["X-Plain", "shown"]],
            "query": [["api_key", "abc"], ["z", None]],
            "changes": [{"of": "header", "name": "cookie", "before": ["abc"], "after": ["a=abc"]}],
            "asked": [
                {"what": "var", "name": "http_authorization", "answer": "abc"},
                {"what": "var", "name": "cookie_session", "answer": "abc"},
                {"what": "var", "name": "uri", "answer": "/shown"},
            ],
            "config": '{"secret": "abc", "plain": "shown"}',
            "body": {"size": 20, "text": '{"password": "abc", "user": "shown"}'},
        }
    )
    assert "abc" not in str(shown)
    assert str(shown).count("shown") == 4


def test_many_answers_of_a_phase_are_kept_in_part_only() -> None:
    trail = Trail(1, ClientRequest("GET", "/", [], "127.0.0.1"))
    with trail.phase("request", "request", [("greet", "{}")], "key") as phase:
        for _ in range(600):
            phase.ask("request_body", "", body_form(b"x" * 10_000), 0.0)
    assert len(phase.asked) == 500
    assert len(phase.asked[0]["answer"]["text"]) == 10_000
    assert phase.asked[499]["answer"] == {"size": 10_000, "text": "x" * 256, "cut": True}


def test_a_body_that_is_cut_in_a_character_is_still_text() -> None:
    whole = "ä" * 40_000
    form = body_form(whole.encode()[:65537], len(whole.encode())) or {}
    assert form["text"] == "ä" * 32768
    assert form["cut"]
    assert "base64" in (body_form(b"\xff\xfe") or {})


def test_a_curl_command_carries_bytes_and_quotes() -> None:
    request = {"method": "PUT", "target": "/a'b?x=1", "headers": [["X-Empty", ""]], "body": body_form(b"\xff\x00'")}
    command = curl_of(record(1, request=request), "http://127.0.0.1:9080")
    assert command.startswith("printf '%s' /wAn | base64 -d | curl -i --path-as-is --globoff -X PUT -H 'X-Empty;'")
    assert "--data-binary @-" in command
    request = {"method": "OPTIONS", "target": "*", "headers": [], "body": body_form(b"x" * 3000 + b"\0")}
    command = curl_of(record(1, request=request), "http://127.0.0.1:9080")
    assert "--request-target '*' -X OPTIONS" in command
    assert command.endswith("--data-binary @- http://127.0.0.1:9080/")


@pytest.mark.parametrize("gateway", ["apisix", "kong"])
def test_an_exported_test_says_where_it_has_to_run(gateway: str) -> None:
    def exported(**plugin: Any) -> str:
        told = {"name": "greet", "config": "{}", "why": "", "outcome": "went on", "changes": [], "answer": None}
        phase = {"stage": "s", "name": "request", "plugins": [{**told, **plugin}], "refused": str(plugin), "made": []}
        made = record(1, gateway={"name": gateway, "version": "3.9"}, phases=[phase])
        return export_test(made, {"greet": "elsewhere/greet.py"})

    with pytest.raises(AssertionError, match=r"elsewhere/greet\.py: run this where `gatewright dev` ran"):
        exec(exported(), {})
    with pytest.raises(LookupError, match="what was refused is the route"):
        exported(outcome="not called", why="greet has no on_request, so it must not be named for requests")


def test_why_a_plugin_is_not_called_is_told() -> None:
    def plugin(name: str, *phases: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "phases": list(phases), "source": "x.py", "schema": None, "needs": None, **more}

    facts = Facts(
        plugins=[
            plugin("wrong", "on_response"), plugin("needy", "on_request", needs="config: key is missing"),
            plugin("bare"), plugin("fine", "on_request"), plugin("unfit", "on_request", needs="config: key is missing"),
            plugin("astray", "on_request", faults=["a.yaml:3: astray has no on_response: ...; define it"]),
        ],
        routes=[
            {
                "id": "1", "name": "", "paths": ["/*"],
                "plugins": [("ext-plugin-pre-req", name, "{}") for name in ("wrong", "gone", "fin", "fine")]
                + [("ext-plugin-pre-req", name, "{}") for name in ("bare", "unfit")]
                + [("ext-plugin-post-resp", "astray", "{}")],
            }
        ],
    )  # fmt: skip
    seen = {"fine": {"went on": (3, ""), "not called": (1, "not reached: wrong failed")}}
    told = {plugin["name"]: plugin["why_not"] for plugin in plugins_view(facts, seen)}
    assert "for which it has no on_request" in told["wrong"][0]
    assert told["gone"] == ["a route names it, but no plugin of this name was found"]
    assert told["fin"] == ["a route names it, but no plugin of this name was found; did you mean fine?"]
    assert told["needy"] == ["it is on no route, since it needs a configuration: config: key is missing"]
    assert "no handler" in told["bare"][0]
    assert told["unfit"] == ["route 1 refuses requests: its configuration doesn't fit: config: key is missing"]
    assert told["astray"] == ["a.yaml:3: astray has no on_response: ...; define it"]
    assert told["fine"] == ["not called 1 time, the last time because: not reached: wrong failed"]


@pytest.mark.parametrize("gateway", ["apisix", "kong"])
def test_a_test_client_s_records_have_the_lines_that_handlers_log(tmp_path: Path, gateway: Any) -> None:
    file = tmp_path / "record.jsonl"
    with TestClient(Greet, gateway=gateway, record=file) as client:
        client.get("/x", headers={"x-user": "ada"})
    (line,) = file.read_text().splitlines()
    record = json.loads(line)
    greet = record["phases"][0]["plugins"][0]
    assert greet["outcome"] == "went on"
    assert [line["text"] for line in greet["log"]] == ["greeting ada"]
    assert ["x-greeting", "hello"] in record["upstream"][0]["headers"]
    assert not any(isinstance(handler, LogTap) for handler in logging.getLogger().handlers)
