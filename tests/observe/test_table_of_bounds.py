"""Each line of the table of bounds in docs/operations.md has tests that reach it; those that have no other place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from structlog.testing import capture_logs

from gatewright import Plugin
from gatewright.observe.report import MOST_SAMPLES
from gatewright.observe.tracing import Tracing
from gatewright.redaction import redact_fields
from gatewright.runtime.executor import PluginExecutor
from gatewright.runtime.failures import FailureLog
from gatewright.server.worker.own_metrics import OwnMetrics
from gatewright.server.worker.reporting import make_report
from gatewright.server.worker.service import Service
from tests.conftest import ROOT
from tests.lean.test_plans import in_service

REACHED_BY = {
    "Input sent ahead while a call is under way":
        ("server/test_backpressure.py::test_while_a_call_is_under_way_no_more_is_read_than_a_little",),
    "Answers that a gateway doesn't take":
        ("server/test_backpressure.py::test_who_does_not_take_answers_gets_no_more_of_them",
         "lean/test_backpressure.py::test_answers_that_are_not_taken_are_not_made",
         "kong/test_adversity.py::test_answers_that_kong_does_not_take_are_not_made"),
    "Input and answers that wait, of all connections":
        ("server/test_backpressure.py::test_all_together_hold_no_more_than_max_buffered",
         "server/test_backpressure.py::test_what_all_leave_untaken_counts_too"),
    "Connections that no worker has taken yet":
        ("server/test_outages.py::test_connections_that_no_worker_takes_wait_in_the_kernel",),
    "Questions that a plugin has open": ("server/test_unheard.py::test_open_questions_of_a_call_have_a_bound",),
    "Threads of `asyncio.to_thread` and the like":
        ("observe/test_table_of_bounds.py::test_a_plugin_has_so_many_threads_of_asyncio",
         "runtime/test_threads.py::"
         "test_threads_that_asyncio_gives_to_one_plugin_are_no_others_and_nobody_waits_for_them"),
    "Plugins in one configuration":
        ("gateways/test_frames_and_session.py::"
         "test_a_configuration_of_too_many_plugins_is_refused_before_it_is_expanded",
         "gateways/test_lean_session.py::test_a_configuration_is_a_key_and_pairs"),
    "Headers, arguments of a request":
        ("gateways/test_frames_and_session.py::test_a_request_of_a_million_headers_is_refused_before_they_are_read",),
    "Text that entries of a frame share":
        ("gateways/test_frames_and_session.py::"
         "test_a_configuration_of_too_many_plugins_is_refused_before_it_is_expanded",),
    "What `request.ctx` keeps for the response phase":
        ("runtime/test_kept.py::test_whatever_it_is_it_has_an_end_and_what_is_missing_is_told",
         "server/test_keep.py::test_a_full_ring_gives_the_oldest_up_and_says_so",
         "server/test_keep.py::test_nothing_is_kept_for_longer_than_it_should"),
    "One plugin's configuration":
        ("runtime/test_weight.py::test_its_route_is_refused_and_others_are_served",
         "kong/test_adversity.py::test_a_configuration_that_is_too_much_is_not_read_and_refuses_all"),
    "Configurations":
        ("runtime/test_bounds.py::test_beyond_the_limit_those_go_that_were_never_used_again",
         "runtime/test_bounds.py::"
         "test_one_use_is_enough_to_stay_and_to_be_prepared_for_several_workers_is_none",
         "server/test_unheard.py::"
         "test_configurations_that_are_only_prepared_do_not_drive_those_out_that_are_used",
         "runtime/test_bounds.py::test_configurations_together_have_a_size",
         "kong/test_owners.py::test_a_kong_that_goes_takes_its_instances_along",
         "server/test_unheard.py::test_instances_that_there_were_too_many_of_are_no_longer_noted"),
    "Length of a plugin's name; of a route's key, in logs and labels":
        ("observe/test_table_of_bounds.py::test_names_and_keys_are_cut",),
    "Names that a plan of the lean path has; that are learnt for one":
        ("lean/test_made_up_names.py::test_what_is_looked_at_by_made_up_names_is_learnt_up_to_a_bound",),
    "Length of a header's name that a plugin uses":
        ("runtime/test_bounds.py::test_a_header_of_a_made_up_name_has_a_length",),
    "Finished frames that are kept": ("runtime/test_bounds.py::test_long_frames_are_not_kept",),
    "Series of plugin, phase and route":
        ("runtime/test_bounds.py::test_series_of_routes_in_use_win_over_those_that_are_gone",
         "runtime/test_bounds.py::test_reports_added_up_have_no_more_series_than_some"),
    "Labels for names that no plugin has":
        ("runtime/test_bounds.py::test_names_that_no_plugin_has_are_counted_together_beyond_some",
         "runtime/test_bounds.py::test_reports_added_up_have_no_more_series_than_some"),
    "Samples of plugins' own metrics":
        ("observe/test_table_of_bounds.py::test_samples_of_plugins_have_a_number",
         "runtime/test_bounds.py::test_reports_added_up_have_no_more_series_than_some"),
    "Log lines of failures":
        ("runtime/test_failures.py::test_a_failure_that_repeats_is_logged_a_few_times_and_then_counted",
         "runtime/test_bounds.py::test_a_thousand_routes_that_fail_are_not_a_thousand_lines_and_hide_no_other_kind"),
    "One text in a log line, in `/status`, in a span":
        ("test_redaction.py::test_a_text_of_megabytes_is_cut",
         "observe/test_table_of_bounds.py::test_a_text_in_a_span_is_cut"),
    "Nesting and length of a logged value":
        ("test_redaction.py::test_what_contains_itself_is_not_followed_for_ever",
         "observe/test_table_of_bounds.py::test_a_long_value_is_cut"),
    "Log lines that can't be written": ("observe/test_outlet.py::test_a_reader_that_stops_costs_lines_and_no_time",),
    "Routes told one by one in `status`":
        ("observe/test_table_of_bounds.py::test_so_many_routes_are_told_those_that_can_not_serve_first",),
    "Clients of the metrics address":
        ("observe/test_admin_server.py::test_clients_that_hold_connections_keep_no_health_check_out",
         "observe/test_admin_server.py::test_a_request_that_does_not_come_whole_ends_soon"),
    "Workers that retire at once": ("server/test_outages.py::test_only_so_many_workers_retire_at_once",),
    "News for a supervisor that is stopped":
        ("server/test_unheard.py::test_news_for_a_supervisor_that_does_not_read_are_few",),
    "Spans that wait for the collector": ("observe/test_table_of_bounds.py::test_spans_that_wait_have_a_number",),
}  # fmt: skip


def test_each_line_has_its_tests() -> None:
    section = (ROOT / "docs" / "operations.md").read_text().partition("## Bounds")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    lines = [row.split(" | ")[0].removeprefix("| ") for row in rows]
    assert len(lines) == len(REACHED_BY)
    assert all(line.startswith(start) for line, start in zip(lines, REACHED_BY, strict=True)), lines


@pytest.mark.parametrize("test", sorted({test for tests in REACHED_BY.values() for test in tests}))
def test_they_are_there(test: str) -> None:
    file, _, name = test.partition("::")
    source = (Path(__file__).parents[1] / file).read_text()
    assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), test


class It(Plugin):
    def on_request(self, request: Any) -> None: ...


def test_names_and_keys_are_cut() -> None:
    def work(service: Service) -> None:
        with capture_logs():
            _, chain, _ = service.confs.prepare("k" * 10_000, [("n" * 10_000, "{}")])
            service.bridge.start(lambda *_: chain.build(), None)
        assert len(chain.key) == 500
        assert len(chain.steps[0].name) == 203

    in_service(It, work)


def test_so_many_routes_are_told_those_that_can_not_serve_first() -> None:
    def work(service: Service) -> None:
        for number in range(1200):
            _, chain, _ = service.confs.prepare(f"route#{number}", [("it", "{}")])
            if number < 1100:
                service.bridge.start(lambda *_, chain=chain: chain.build(), None)
        report = make_report(service, detailed=True)
        assert report.chains == 1200
        assert len(report.routes) == 1000
        assert [route["ready"] for route in report.routes[:101]] == [False] * 100 + [True]

    in_service(It, work)


def test_samples_of_plugins_have_a_number() -> None:
    counter = prometheus_client.Counter("bounds_of_labels", "Too many.", ["n"])

    class Quits:
        def describe(self) -> list[Any]:
            return []

        def collect(self) -> Any:
            raise SystemExit("not now")

    quits: Any = Quits()
    prometheus_client.REGISTRY.register(quits)
    try:
        for number in range(MOST_SAMPLES):
            counter.labels(str(number))
        with capture_logs() as lines:
            samples = OwnMetrics(FailureLog()).samples()
        assert len(samples) <= MOST_SAMPLES
        assert not [sample for sample in samples if sample.name.startswith("bounds_of_labels")]
        assert {line["metric"] for line in lines} >= {"bounds_of_labels", "Quits"}
    finally:
        prometheus_client.REGISTRY.unregister(counter)
        prometheus_client.REGISTRY.unregister(quits)


def test_a_long_value_is_cut() -> None:
    assert len(redact_fields(list(range(10_000)))) == 1000
    assert len(redact_fields({n: n for n in range(10_000)})) == 1000


def test_a_plugin_has_so_many_threads_of_asyncio() -> None:
    import threading

    gate, executor = threading.Event(), PluginExecutor(3)
    try:
        jobs = [executor.submit(gate.wait, 20) for _ in range(20)]
        assert sum(thread.name.startswith("plugin ") for thread in threading.enumerate()) == 3
        gate.set()
        assert all(job.result(20) for job in jobs)
    finally:
        executor.shutdown()


class Span:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def add_event(self, _: str, attributes: dict[str, str]) -> None:
        self.texts += attributes.values()

    def set_status(self, _: object, text: str) -> None:
        self.texts.append(text)


def tracing() -> Tracing:
    pytest.importorskip("opentelemetry.sdk.trace")
    return Tracing.start("http://127.0.0.1:9", 1.0)


def test_a_text_in_a_span_is_cut() -> None:
    started, span = tracing(), Span()
    started._record(span, ValueError("x" * 1_000_000), "y" * 1_000_000)
    started.close(0.0)
    assert max(map(len, span.texts)) == 1 << 14


def test_a_tracestate_that_can_not_be_read_is_no_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    started = tracing()
    started._propagator.extract({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "no pairs"})
    started.close(0.0)
    assert not caplog.text


def test_spans_that_wait_have_a_number() -> None:
    started = tracing()
    (processor,) = started._provider._active_span_processor._span_processors
    started.close(0.0)
    batch = getattr(processor, "_batch_processor", processor)
    assert (batch._queue if hasattr(batch, "_queue") else batch.queue).maxlen == 2048
