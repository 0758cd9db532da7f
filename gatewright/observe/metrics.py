"""Reports as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gatewright.observe.report import WorkerReport
from gatewright.runtime.stats import BOUNDS

__all__ = ["RunnerCounts", "exposition"]

_PREFIX = "gatewright_"


@dataclass(slots=True)
class RunnerCounts:
    """What the supervisor itself knows."""

    workers: int = 0
    workers_wanted: int = 0
    worker_exits: dict[str, int] = field(default_factory=dict)
    """Workers that ended, by reason."""
    reloads: dict[str, int] = field(default_factory=dict)
    """Reloads by result."""
    configurations: int = 0
    version: str = ""


def exposition(
    accept: str, runner: RunnerCounts, total: WorkerReport, workers: Sequence[tuple[int, WorkerReport]]
) -> tuple[bytes, str]:
    """The metrics in a text format, and its content type.

    Args:
        accept: the request's Accept header, which chooses the format.
        runner: the supervisor's own counts.
        total: all workers, added up.
        workers: number and report of each running worker, for what can't be added up.
    """
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(runner, total, workers))
    body = encode(registry)
    end = b"# EOF\n" if body.endswith(b"# EOF\n") else b""
    return body.removesuffix(end) + _histogram(total) + end, content_type


def _histogram(total: WorkerReport) -> bytes:
    """The one family that may have tens of thousands of samples, which the library takes most of a second for."""
    name = f"{_PREFIX}plugin_seconds"
    lines = [
        f"# HELP {name} Time that a plugin took, waiting included, by phase and route.",
        f"# TYPE {name} histogram",
    ]
    bounds = (*map(str, BOUNDS), "+Inf")
    for tally in total.tallies:
        labels = f'plugin="{_escaped(tally.plugin)}",phase="{tally.phase}",route="{_escaped(tally.route)}"'
        running = 0
        for bound, count in zip(bounds, tally.counts, strict=True):
            running += count
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {running}')
        lines.append(f"{name}_count{{{labels}}} {running}")
        lines.append(f"{name}_sum{{{labels}}} {tally.seconds}")
    return ("\n".join(lines) + "\n").encode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class _Families(Collector):
    def __init__(self, runner: RunnerCounts, total: WorkerReport, workers: Sequence[tuple[int, WorkerReport]]) -> None:
        self._runner = runner
        self._total = total
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        yield from self._runner_families()
        yield from self._counters()
        yield from self._gauges()
        yield from self._of_plugins()

    def _runner_families(self) -> Iterator[Metric]:
        runner = self._runner
        yield _gauge("info", "The runner's version.", ["version"], [([runner.version], 1)])
        yield _gauge("workers", "Workers that are ready.", [], [([], runner.workers)])
        yield _gauge("workers_wanted", "Workers that there should be.", [], [([], runner.workers_wanted)])
        yield _gauge("configurations", "Configurations with a conf token.", [], [([], runner.configurations)])
        exits = [([reason], count) for reason, count in runner.worker_exits.items()]
        yield _counter("worker_exits", "Workers that ended, by reason.", ["reason"], exits)
        reloads = [([result], count) for result, count in runner.reloads.items()]
        yield _counter("reloads", "Reloads, by result.", ["result"], reloads)

    def _counters(self) -> Iterator[Metric]:
        total = self._total
        calls = [([phase], count) for phase, count in total.calls.items()]
        yield _counter("calls", "Calls taken up, by phase.", ["phase"], calls)
        paths = [([path], count) for path, count in total.paths.items()]
        yield _counter("path_calls", "The same, by the protocol that they came over.", ["path"], paths)
        yield _counter("answered", "Requests that a plugin answered itself.", [], [([], total.answered)])
        refused = [([reason], count) for reason, count in total.refused.items()]
        yield _counter("refused", "Calls refused, by reason.", ["reason"], refused)
        failures = [
            ([kind, plugin], count) for kind, by_plugin in total.failures.items() for plugin, count in by_plugin.items()
        ]
        yield _counter("failures", "Failures, by kind and plugin.", ["kind", "plugin"], failures)
        questions = [([kind], count) for kind, count in total.questions.items()]
        yield _counter("extra_info", "Questions put to the gateway in mid-call, by kind.", ["kind"], questions)
        yield _counter("received_bytes", "Bytes from the gateway.", [], [([], total.bytes_in)])
        yield _counter("sent_bytes", "Bytes to the gateway.", [], [([], total.bytes_out)])
        yield _counter("connections_accepted", "Connections taken up.", [], [([], total.connections_total)])
        hits = sum(total.calls.values())
        lookups = [
            (["hit"], max(hits - total.token_lookups + total.token_misses, 0)),
            (["other_worker"], total.token_lookups - total.token_misses),
            (["miss"], total.token_misses),
        ]
        yield _counter("conf_tokens", "Conf tokens presented, by where they were known.", ["result"], lookups)
        yield _counter("conf_prepared", "PrepareConf calls.", [], [([], total.tokens_prepared)])

    def _gauges(self) -> Iterator[Metric]:
        total = self._total
        yield _gauge("calls_under_way", "Calls under way.", [], [([], total.calls_under_way)])
        yield _gauge("calls_waiting", "Calls that wait for the gateway, a plugin's I/O or a thread.", [],
                     [([], total.strands_waiting)])  # fmt: skip
        threads = [
            (["busy"], total.threads_busy),
            (["abandoned"], total.threads_abandoned),
            (["queued"], total.threads_waiting),
        ]
        yield _gauge("threads", "Blocking handlers, by state.", ["state"], threads)
        yield _gauge("threads_limit", "Threads for blocking handlers.", [], [([], total.threads)])
        for name, text, attribute in (
            ("connections", "Open connections.", "connections"),
            ("chains", "Plugin chains in use.", "chains"),
            ("chains_not_ready", "Plugin chains that can't serve: set-up under way or failed.", "chains_not_ready"),
            ("loop_lag_seconds", "Longest delay of the event loop in the last quarter to half minute.", "loop_lag"),
            ("memory_bytes", "Resident memory.", "memory"),
            ("descriptors", "Open file descriptors.", "descriptors"),
        ):
            samples = [([str(number)], getattr(report, attribute)) for number, report in self._workers]
            yield _gauge(name, text, ["worker"], samples)

    def _of_plugins(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for sample in self._total.samples:
            family = families.setdefault(sample.family, Metric(sample.family, sample.help, sample.kind))
            family.add_sample(sample.name, sample.labels, sample.value)
        for name, family in families.items():
            if not name.startswith(_PREFIX):
                yield family


Samples = Sequence[tuple[list[str], "int | float"]]


def _counter(name: str, text: str, labels: list[str], samples: Samples) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, text, labels=labels)
    for values, count in samples:
        family.add_metric(values, count)
    return family


def _gauge(name: str, text: str, labels: list[str], samples: Samples) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
