"""Failures are told, and a million of the same are not a million lines."""

from __future__ import annotations

from structlog.testing import capture_logs

from gatewright.runtime.failures import FailureLog


def test_a_failure_that_repeats_is_logged_a_few_times_and_then_counted() -> None:
    now = [0.0]
    failures = FailureLog(lambda: now[0])
    with capture_logs() as lines:
        for _ in range(1000):
            failures.report("plugin failed", kind="plugin_error", plugin="p", route="r", error=OSError("away"))
        at_once = len(lines)
        now[0] = 1.5
        failures.report("plugin failed", kind="plugin_error", plugin="p", route="r", error=OSError("away"))
        failures.report("plugin failed", kind="plugin_error", plugin="p", route="other", error=OSError("away"))
    assert at_once == 5
    assert [line.get("left_out") for line in lines[at_once:]] == [995, None]
    assert lines[0] == {
        "event": "plugin failed", "plugin": "p", "route": "r", "error": "OSError: away", "exc_info": None,
        "log_level": "error",
    }  # fmt: skip
    assert failures.counts == {("plugin_error", "p"): 1002}
