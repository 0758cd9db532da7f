"""The README's table of what fails is true line by line: each of its lines names the tests that show it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

SHOWN_BY = {
    "A plugin raises, or misses its deadline": (
        "server/test_wire_contract.py::test_an_exception_refuses_the_request_with_a_type_0_frame_and_one_log_line",
        "server/test_wire_contract.py::test_a_missed_deadline_refuses_the_request",
        "server/test_promises.py::test_whatever_a_handler_raises_is_answered_and_ends_no_worker",
        "server/test_failing_anywhere.py::test_the_call_is_answered_and_the_worker_lives",
        "server/test_apisix_facts.py::test_a_failure_in_the_response_phase_is_answered_without_anything_of_the_upstreams",
        "dev/test_gateway.py::test_a_failure_is_503_unless_the_route_allows_degradation",
        "runtime/test_failures.py::test_a_failure_that_repeats_is_logged_a_few_times_and_then_counted",
    ),
    "A configuration doesn't fit, a plugin is not there": (
        "server/test_wire_contract.py::test_an_unusable_configuration_gets_a_token_and_each_request_is_refused",
        "test_config_and_discovery.py::test_what_does_not_fit_names_the_field",
    ),
    "A route names a plugin under a phase that it has no handler for": (
        "server/test_named_phases.py::test_a_plugin_without_a_handler_for_the_phase_is_refused_in_words",
        "server/test_named_phases.py::test_a_plugin_may_say_that_it_is_meant",
    ),
    "A plugin file can't be loaded": (
        "test_config_and_discovery.py::test_a_broken_file_is_an_error_with_file_and_line_and_the_others_load",
        "server/test_workers.py::test_a_plugin_file_that_calls_sys_exit_is_an_error_of_its_own",
    ),
    "A body, or headers, that the gateway doesn't hand over": (
        "server/test_apisix_facts.py::test_a_body_that_was_announced_but_not_handed_over_is_refused",
        "server/test_apisix_facts.py::test_no_body_for_http_2_without_a_length_is_not_an_empty_body",
        "server/test_apisix_facts.py::test_going_through_all_when_some_were_cut_off_is_refused",
    ),
    '`on_error = "skip"`': (
        "server/test_wire_contract.py::test_skip_goes_on_without_the_plugin",
        "server/test_promises.py::test_what_a_skipped_plugin_has_changed_is_taken_back",
        "server/test_promises.py::test_a_skipped_plugin_that_goes_on_changes_nothing_any_more",
    ),
    "A `def` handler blocks": (
        "server/test_server_life.py::test_a_handler_that_holds_the_loop_is_moved_to_a_thread_and_named",
        "runtime/test_moving.py::test_all_configurations_and_workers_learn_of_it_and_instances_are_made_anew",
    ),
    "A handler never returns the loop": (
        "server/test_workers.py::test_a_blocked_loop_is_named_with_its_stack_and_its_worker_replaced",
        "runtime/test_moving.py::test_the_successors_of_a_worker_that_was_killed_for_it_know",
        "server/test_stopped_workers.py::"
        "test_connections_that_a_stopped_worker_has_not_come_for_go_to_another_one",
    ),
    "A worker is killed": (
        "server/test_workers.py::test_a_worker_that_dies_costs_only_its_own_call",
        "server/test_last_words.py::test_a_response_phase_under_way_is_refused",
        "server/test_last_words.py::test_what_a_blocked_worker_has_not_read_is_served_by_the_next_one",
    ),
    "The runner is reloaded": (
        "server/test_workers.py::test_reload_brings_new_code_over_the_same_connections",
        "server/test_workers.py::test_a_plugin_that_no_longer_imports_leaves_the_old_workers_in_place",
        "server/test_workers.py::test_under_full_load",
    ),
    "The supervisor is killed": (
        "server/test_outages.py::test_workers_end_with_their_supervisor_whatever_a_plugin_does",
        "server/test_keeper.py::test_calls_wait_for_the_next_runner_and_are_refused_if_none_comes",
    ),
    "Nobody reads the log, or its disk is full": (
        "observe/test_outlet.py::test_requests_and_signals_go_on_while_nobody_reads_the_log",
        "observe/test_outlet.py::test_lines_that_were_lost_are_counted_once_somebody_reads_again",
        "observe/test_outlet.py::test_a_full_disk_stops_no_request_no_worker_and_no_rotation",
    ),
    "The runner is stopped": (
        "server/test_server_life.py::test_sigterm_lets_calls_under_way_end_and_removes_the_socket",
        "server/test_server_life.py::test_sigterm_ends_within_a_second_whatever_plugins_do",
        "server/test_server_life.py::test_sigterm_ends_soon_whatever_hangs_in_plugins",
    ),
    "The runner is restarted": (
        "server/test_workers.py::test_a_restarted_runner_never_takes_a_token_for_another_configuration",
        "dev/test_gateway.py::test_a_restarted_runner_is_given_the_configurations_again",
    ),
}  # fmt: skip


def lines_of_the_table() -> list[str]:
    section = (ROOT / "README.md").read_text().partition("## When something fails")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows]


def test_each_line_has_its_tests() -> None:
    lines = lines_of_the_table()
    assert len(lines) == len(SHOWN_BY)
    assert all(line.startswith(start) for line, start in zip(lines, SHOWN_BY, strict=True)), lines


@pytest.mark.parametrize("test", sorted({test for tests in SHOWN_BY.values() for test in tests}))
def test_they_are_there(test: str) -> None:
    file, _, name = test.partition("::")
    source = (Path(__file__).parents[1] / file).read_text()
    assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), test
