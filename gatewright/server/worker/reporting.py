"""A worker's report, taken from its service."""

from __future__ import annotations

import os
from pathlib import Path

from gatewright.observe.report import TallyReport, WorkerReport
from gatewright.redaction import redact
from gatewright.server.worker.service import Service

__all__ = ["make_report", "resident_memory"]

_MOST_CHAINS = 1000
"""Told one by one; of more, those that can't serve come first. `chains` has the number of all."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


def make_report(service: Service, *, detailed: bool) -> WorkerReport:
    """How a worker is.

    Args:
        service: the worker's service.
        detailed: with its chains and its last failures, for /status.
    """
    bridge, link = service.bridge, service.link
    threads = bridge.threads
    chains = list(service.confs)
    failures: dict[str, dict[str, int]] = {}
    for (kind, plugin), count in service.failures.counts.items():
        failures.setdefault(kind, {})[plugin] = count
    report = WorkerReport(
        pid=os.getpid(),
        uptime=service.loop.time() - service.began,
        connections=len(service.connections),
        calls_under_way=service.calls,
        chains=len(chains),
        chains_not_ready=sum(not chain.ready for chain in chains),
        threads=threads.most,
        threads_busy=min(threads.in_use, threads.most),
        threads_waiting=max(threads.in_use - threads.most, 0),
        threads_abandoned=len(threads.lost),
        strands_waiting=bridge.waiting,
        loop_lag=service.lag.highest,
        memory=resident_memory(),
        descriptors=_descriptors(),
        connections_total=service.connections_total,
        calls=service.calls_by_phase(),
        paths=service.calls_by_path(),
        answered=service.answered,
        bytes_in=service.bytes_in,
        bytes_out=service.bytes_out,
        refused=service.refused,
        failures=failures,
        questions={**service.questions, "pdk": service.pdk_calls} if service.pdk_calls else service.questions,
        tokens_prepared=service.tokens_prepared,
        token_lookups=link.lookups if link is not None else 0,
        token_misses=link.misses if link is not None else 0,
        tallies=[
            TallyReport(*key, tally.counts, tally.seconds)
            for key, tally in service.builder.tallies.items()
            if any(tally.counts)
        ],
        samples=service.own_metrics.samples(),
    )
    if detailed:
        report.last_failures = [{name: _plain(value) for name, value in item.items()} for item in service.failures.last]
        report.routes = [
            {
                "key": chain.key,
                "ready": chain.ready,
                "plugins": [
                    {"name": s.name, "state": s.state.value, "error": redact(str(s.error)) if s.error else None}
                    for s in chain.steps
                ],
            }
            for chain in sorted(chains, key=lambda chain: chain.ready)[:_MOST_CHAINS]
        ]
    return report


def resident_memory() -> int:
    """Resident bytes of this process; 0 where they can't be known."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def _descriptors() -> int:
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        return 0


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
