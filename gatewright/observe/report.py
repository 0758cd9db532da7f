"""What a worker tells of itself; several workers' reports can be added up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from gatewright.runtime.stats import MOST_TALLIES, OTHER_ROUTES

__all__ = ["MOST_SAMPLES", "Sample", "TallyReport", "WorkerReport", "add_up"]

_MOST_SERIES: Final = 4 * MOST_TALLIES
MOST_SAMPLES: Final = 10_000
"""Samples of plugins' own metrics."""
_MOST_NAMES: Final = 1000
_OTHERS: Final = "(others)"


class TallyReport(msgspec.Struct, array_like=True):
    """One plugin in one phase on one route."""

    plugin: str
    phase: str
    route: str
    counts: list[int]
    """Runs by bucket of `runtime.stats.BOUNDS`, not cumulative."""
    seconds: float


class Sample(msgspec.Struct, array_like=True):
    """One sample of a metric that a plugin defined with prometheus-client."""

    family: str
    kind: str
    help: str
    name: str
    labels: dict[str, str]
    value: float


class WorkerReport(msgspec.Struct):
    """One worker's state and counts. All counts are since its start."""

    pid: int = 0
    uptime: float = 0.0
    # gauges
    connections: int = 0
    calls_under_way: int = 0
    chains: int = 0
    chains_not_ready: int = 0
    threads: int = 0
    threads_busy: int = 0
    threads_waiting: int = 0
    threads_abandoned: int = 0
    strands_waiting: int = 0
    loop_lag: float = 0.0
    """The longest delay of a timer in the last quarter to half minute, seconds."""
    memory: int = 0
    """Resident bytes."""
    descriptors: int = 0
    # counters
    connections_total: int = 0
    calls: dict[str, int] = msgspec.field(default_factory=dict)
    """Calls taken up, by phase."""
    paths: dict[str, int] = msgspec.field(default_factory=dict)
    """The same, by the protocol that they came over."""
    answered: int = 0
    """Requests that a plugin answered itself."""
    bytes_in: int = 0
    bytes_out: int = 0
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    """Refused calls by reason."""
    failures: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    """Failures by kind and plugin."""
    questions: dict[str, int] = msgspec.field(default_factory=dict)
    """Questions put to the gateway, by kind."""
    tokens_prepared: int = 0
    token_lookups: int = 0
    """Tokens that this worker had to ask the others about."""
    token_misses: int = 0
    """Tokens that nobody knew."""
    tallies: list[TallyReport] = msgspec.field(default_factory=list)
    samples: list[Sample] = msgspec.field(default_factory=list)
    # for /status only
    last_failures: list[dict[str, Any]] = msgspec.field(default_factory=list)
    routes: list[dict[str, Any]] = msgspec.field(default_factory=list)


_COUNTERS = (
    "connections_total", "answered", "bytes_in", "bytes_out", "tokens_prepared", "token_lookups", "token_misses",
)  # fmt: skip
_GAUGES = (
    "connections", "calls_under_way", "threads", "threads_busy", "threads_waiting", "threads_abandoned",
    "strands_waiting",
)  # fmt: skip


def add_up(reports: Iterable[WorkerReport], *, gone: Iterable[WorkerReport] = ()) -> WorkerReport:
    """One report for many: sums, of chains and lag the highest.

    What has names is bounded: those of workers that run come first, what comes beyond goes to `(other routes)` and
    `(others)`, samples of plugins' own metrics are left out.

    Args:
        reports: of workers that run.
        gone: last reports of workers that have ended; only their counters are added.
    """
    total = WorkerReport()
    tallies: dict[tuple[str, str, str], TallyReport] = {}
    samples: dict[tuple[str, str, tuple[tuple[str, str], ...]], Sample] = {}
    for report, running in [*((report, True) for report in reports), *((report, False) for report in gone)]:
        for name in _COUNTERS:
            setattr(total, name, getattr(total, name) + getattr(report, name))
        _add_counts(total.calls, report.calls)
        _add_counts(total.paths, report.paths)
        _add_counts(total.refused, report.refused)
        _add_counts(total.questions, report.questions)
        for kind, by_plugin in report.failures.items():
            _add_counts(total.failures.setdefault(kind, {}), by_plugin, most=_MOST_NAMES)
        for tally in report.tallies:
            _add_tally(tallies, tally)
        for sample in report.samples:
            if running or sample.kind in ("counter", "histogram", "summary"):
                _add_sample(samples, sample)
        if running:
            for name in _GAUGES:
                setattr(total, name, getattr(total, name) + getattr(report, name))
            total.chains = max(total.chains, report.chains)
            total.chains_not_ready = max(total.chains_not_ready, report.chains_not_ready)
            total.loop_lag = max(total.loop_lag, report.loop_lag)
            total.memory += report.memory
            total.descriptors += report.descriptors
            total.last_failures += report.last_failures
    total.tallies = list(tallies.values())
    total.samples = list(samples.values())
    total.last_failures.sort(key=lambda failure: failure["time"])
    return total


def _add_counts(total: dict[str, int], counts: dict[str, int], most: int = 1 << 30) -> None:
    for name, count in counts.items():
        if name not in total and len(total) >= most:
            name = _OTHERS
        total[name] = total.get(name, 0) + count


def _add_tally(tallies: dict[tuple[str, str, str], TallyReport], tally: TallyReport) -> None:
    key = tally.plugin, tally.phase, tally.route
    if key not in tallies and len(tallies) >= _MOST_SERIES:
        key = tally.plugin, tally.phase, OTHER_ROUTES
    present = tallies.get(key)
    if present is None:
        tallies[key] = TallyReport(*key, list(tally.counts), tally.seconds)
    else:
        present.counts = [a + b for a, b in zip(present.counts, tally.counts, strict=True)]
        present.seconds += tally.seconds


def _add_sample(samples: dict[tuple[str, str, tuple[tuple[str, str], ...]], Sample], sample: Sample) -> None:
    key = sample.family, sample.name, tuple(sorted(sample.labels.items()))
    present = samples.get(key)
    if present is None:
        if len(samples) >= 2 * MOST_SAMPLES:
            return
        samples[key] = msgspec.structs.replace(sample)
    elif sample.name.endswith("_created"):
        present.value = min(present.value, sample.value)
    else:
        present.value += sample.value
