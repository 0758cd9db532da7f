"""What gateways, clients and plugins can make longer has an end: configurations, series, labels, log lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from gatewright.datastructures import Headers
from gatewright.gateways.apisix.adapt import _header_rewrite, request_reply
from gatewright.gateways.apisix.calls import HttpReqCall, encode_http_req_call
from gatewright.gateways.apisix.replies import (
    InfoRequest,
    InfoType,
    Rewrite,
    _encode_info_request,
    decode_req_reply,
    encode_info_request,
)
from gatewright.gateways.caches import LONGEST_KEPT, NotKeptError, keep_short
from gatewright.http import RequestCall, Response, SyncRequest
from gatewright.observe.report import Sample, TallyReport, WorkerReport, add_up
from gatewright.runtime.confs import TokenTable
from gatewright.runtime.failures import FailureLog
from gatewright.runtime.stats import BOUNDS, MOST_TALLIES, OTHER_ROUTES, Tallies


class Thing:
    def __init__(self) -> None:
        self.last_used = 0


def digest(number: int) -> bytes:
    return number.to_bytes(16, "big")


# --- configurations


def test_beyond_the_limit_those_go_that_were_never_used_again() -> None:
    gone: list[Thing] = []
    table: TokenTable[Thing] = TokenTable(most=100, on_evict=gone.append)
    live = [Thing() for _ in range(50)]
    tokens = [table.assign(digest(number), thing) for number, thing in enumerate(live)]
    for _ in range(3):
        table.tick()
        for token in tokens:
            table.get(token)
    for number in range(1000, 11_000):
        table.assign(digest(number), Thing())
        assert len(table) <= 100
    assert not set(gone) & set(live)
    assert all(table.get(token) is thing for token, thing in zip(tokens, live, strict=True))


def test_one_use_is_enough_to_stay_and_to_be_prepared_for_several_workers_is_none() -> None:
    table: TokenTable[Thing] = TokenTable(most=10)
    tokens = [table.assign(digest(number), Thing()) for number in range(10)]
    assert table.newly_used() == []
    for number in range(10):
        table.find(digest(number))
    table.by_token[tokens[3]].last_used = table.now  # as a call does
    assert table.newly_used() == [tokens[3]]
    assert table.newly_used() == []
    for number in range(20, 60):
        table.assign(digest(number), Thing())
    assert tokens[3] in table.by_token
    assert not any(token in table.by_token for token in tokens if token != tokens[3])


def test_where_all_are_in_use_those_go_that_were_used_longest_ago() -> None:
    table: TokenTable[Thing] = TokenTable(most=10)
    tokens = [table.assign(digest(number), Thing()) for number in range(10)]
    for _ in range(2):
        table.tick()
    for token in tokens:
        table.tick()
        table.get(token)
    table.assign(digest(99), Thing())
    assert tokens[0] not in table.by_token
    assert all(token in table.by_token for token in tokens[1:])


def test_configurations_together_have_a_size() -> None:
    table: TokenTable[Thing] = TokenTable(most_bytes=1000)
    for number in range(100):
        table.assign(digest(number), Thing(), 90)
        assert table.bytes <= 1000
    table.assign(digest(100), Thing(), 900)
    assert table.bytes <= 1000
    for token in list(table.by_token):
        table.forget(token)
    assert table.bytes == 0


# --- series


def test_series_of_routes_in_use_win_over_those_that_are_gone() -> None:
    tallies = Tallies(most=10)
    for number in range(10):
        tallies.of("p", "request", f"old#{number}").note(0.0)
    for number in range(5):
        tallies.release("p", "request", f"old#{number}")
    live = tallies.of("p", "request", "new#1")
    assert ("p", "request", "new#1") in tallies
    assert tallies["p", "request", OTHER_ROUTES].counts[0] == 5, "no count is lost"
    assert all(("p", "request", f"old#{number}") in tallies for number in range(5, 10))
    for number in range(1000):
        tallies.of("p", "request", f"more#{number}")
    assert len(tallies) <= 11
    assert tallies["p", "request", "new#1"] is live


def test_a_chain_that_is_built_twice_uses_its_tally_until_both_are_gone() -> None:
    tallies = Tallies(most=1)
    tallies.of("p", "request", "r")
    tallies.of("p", "request", "r")
    tallies.release("p", "request", "r")
    tallies.of("p", "request", "other")
    assert ("p", "request", "r") in tallies
    tallies.release("p", "request", "r")
    tallies.of("p", "request", "another")
    assert ("p", "request", "r") not in tallies


@pytest.mark.long
def test_reports_added_up_have_no_more_series_than_some() -> None:
    counts = [1] + [0] * len(BOUNDS)
    total = WorkerReport()
    for generation in range(20):
        routes = [TallyReport("p", "request", f"{generation}#{n}", counts, 0.5) for n in range(MOST_TALLIES)]
        names = {f"{generation}-{n}": 1 for n in range(500)}
        samples = [Sample("f", "counter", "", "f_total", {"n": f"{generation}-{n}"}, 1.0) for n in range(2000)]
        report = WorkerReport(tallies=routes, failures={"conf": names}, samples=samples)
        total = add_up([], gone=[total, report])
    assert len(total.tallies) <= 4 * MOST_TALLIES + 1
    assert sum(sum(tally.counts) for tally in total.tallies) == 20 * MOST_TALLIES, "no count is lost"
    assert len(total.failures["conf"]) <= 1001
    assert sum(total.failures["conf"].values()) == 20 * 500
    assert len(total.samples) <= 20_000
    running = WorkerReport(tallies=[TallyReport("p", "request", "live", counts, 0.5)])
    assert any(tally.route == "live" for tally in add_up([running], gone=[total]).tallies)


# --- labels and lines


@pytest.fixture
def plain_logs() -> Any:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("plain_logs")
def test_names_that_no_plugin_has_are_counted_together_beyond_some() -> None:
    failures = FailureLog()
    failures.known = {"real-1", "real-2"}
    with capture_logs():
        for number in range(10_000):
            failures.report("no such plugin", kind="conf", plugin=f"nonesuch-{number}")
        failures.report("failed", kind="conf", plugin="real-1")
        failures.report("failed", kind="conf", plugin="real-2")
    assert len(failures.counts) < 100
    assert sum(failures.counts.values()) == 10_002
    assert failures.counts["conf", "real-2"] == 1


@pytest.mark.usefixtures("plain_logs")
def test_a_thousand_routes_that_fail_are_not_a_thousand_lines_and_hide_no_other_kind() -> None:
    now = 0.0
    failures = FailureLog(clock=lambda: now)
    with capture_logs() as lines:
        for number in range(10_000):
            failures.report("no such plugin", kind="conf", route=f"route#{number}")
        assert len(lines) == 200
        failures.report("plugin failed", kind="plugin_error", route="route#1")
        assert len(lines) == 201
        now = 10.0
        failures.report("no such plugin", kind="conf", route="later")
    assert lines[-1]["others_left_out"] == 9800


# --- caches


def test_long_frames_are_not_kept() -> None:
    made: list[int] = []

    @keep_short(2)
    def parts(size: int) -> tuple[bytes, bytes]:
        made.append(size)
        return b"", b"x" * size

    for size in (10, 10, LONGEST_KEPT):
        parts(size)
    for _ in range(2):
        with pytest.raises(NotKeptError) as long:
            parts(LONGEST_KEPT + 1)
        assert len(long.value.parts[1]) == LONGEST_KEPT + 1
    assert made == [10, LONGEST_KEPT, LONGEST_KEPT + 1, LONGEST_KEPT + 1]


def request_call() -> RequestCall:
    frame = encode_http_req_call(id=7, conf_token=1, src_ip=b"", method="GET", path="/", args=(), headers=())
    return RequestCall(HttpReqCall(frame), 1)


def replied(changes: dict[str, str]) -> bytes:
    call = request_call()
    for name, value in changes.items():
        call.headers[name] = value
    return request_reply(call, None)


def test_a_reply_is_the_same_whether_it_is_kept_or_not() -> None:
    before = _header_rewrite.cache_info().currsize  # type: ignore[attr-defined]
    for value in ("short", "long" * 5000):
        _, action = decode_req_reply(replied({"x-a": value}))
        assert action == Rewrite(headers=[("x-a", value)])
    assert _header_rewrite.cache_info().currsize <= before + 1  # type: ignore[attr-defined]


def test_questions_of_made_up_names_are_not_kept() -> None:
    before = _encode_info_request.cache_info().currsize
    for number in range(200):
        assert encode_info_request(InfoRequest(InfoType.VAR, "arg_" + "x" * 200 + str(number)))
    assert _encode_info_request.cache_info().currsize == before


def test_a_header_of_a_made_up_name_has_a_length() -> None:
    headers = Headers({"x": "1"})
    assert "n" * 8193 not in headers
    with pytest.raises(ValueError, match="a header's name of 8193 characters"):
        headers["n" * 8193] = "x"


def test_the_text_of_failures_is_not_kept_to_compare_it() -> None:
    failures = FailureLog()
    with capture_logs():
        for number in range(100):
            failures.report("failed", plugin="p", route=f"r{number}", error=ValueError("x" * 1_000_000), traceback=True)
    held = sum(len(repr(told)) for told in failures._last_told.values())
    assert held < 100 * 200


# --- texts that no bytes stand for


@pytest.mark.parametrize(
    "write",
    [
        lambda call, text: call.headers.__setitem__("x", text),
        lambda call, text: call.headers.add("x", text),
        lambda call, text: call.query.__setitem__("x", text),
        lambda call, text: call.query.__setitem__(text, "x"),
        lambda call, text: call.response_headers.set_all("x", [text]),
        lambda call, text: setattr(SyncRequest(call), "path", "/" + text),
        lambda call, text: Response(200, {"x": text}),
        lambda call, text: Response(200, body=text),
    ],
)
def test_a_lone_surrogate_is_refused_where_it_is_written(write: Callable[[Any, str], object]) -> None:
    call = request_call()
    write(call, "caf\udcc3\udca9")
    for text in ("\ud800", "a\udc7f", "\udd00b"):
        with pytest.raises(ValueError, match="surrogate"):
            write(call, text)
