"""What plugins count themselves, with prometheus-client as usual.

Whatever they define has to pass through the channel to the supervisor and come out as a text that Prometheus can read.
What can't is left out, and named once; it must not cost the other metrics, nor the worker.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any, Final

from gatewright.observe.report import MOST_SAMPLES, Sample
from gatewright.runtime.failures import FailureLog
from gatewright.server.worker.collectors import Collectors, name_of

__all__ = ["OwnMetrics"]

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_KINDS: Final = frozenset((
    "counter", "gauge", "summary", "histogram", "gaugehistogram", "unknown", "untyped", "info", "stateset",
))  # fmt: skip
_LONGEST: Final = 1000


class OwnMetrics:
    """The metrics that plugins of a process define."""

    def __init__(self, failures: FailureLog) -> None:
        """Look at none yet.

        Args:
            failures: where it's told what is left out.
        """
        self._failures = failures
        self._collectors = Collectors(failures)

    def samples(self) -> list[Sample]:
        """All samples that can be told; the others' metrics are reported."""
        library = sys.modules.get("prometheus_client")
        if library is None:
            return []
        failures = self._failures
        out: list[Sample] = []
        for family in self._families(library.REGISTRY):
            name = getattr(family, "name", family)
            if isinstance(name, str) and name.startswith(("python_", "process_")):
                continue
            try:
                samples = [_sample(family, sample) for sample in family.samples]
            except BaseException as error:  # whatever a plugin's own collector gives
                _leave_out(failures, name, error)
                continue
            if len(out) + len(samples) > MOST_SAMPLES:
                _leave_out(failures, name, ValueError(f"plugins have more than {MOST_SAMPLES} samples; fewer labels?"))
                continue
            out += samples
        return out

    def _families(self, registry: Any) -> Iterator[Any]:
        collectors = list(getattr(registry, "_collector_to_names", ())) or [registry]
        self._collectors.keep(collectors)
        for collector in collectors:
            try:
                families = self._collectors.collect(collector)
            except BaseException as error:  # whatever a plugin's own collector raises
                _leave_out(self._failures, name_of(collector), error)
                continue
            yield from families


def _leave_out(failures: FailureLog, name: object, error: BaseException) -> None:
    failures.report(
        "a plugin's metric is left out: it can't be exported", kind="metrics", error=error, metric=str(name)[:_LONGEST]
    )


def _sample(family: Any, sample: Any) -> Sample:
    for name in (family.name, sample.name):
        if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > _LONGEST:
            raise ValueError(f"{str(name)[:_LONGEST]!r} is no name for a metric")
    if family.type not in _KINDS:
        raise ValueError(f"{family.type!r} is no type of a metric")
    labels = dict(sample.labels)
    for label, value in labels.items():
        if not isinstance(label, str) or not _LABEL.fullmatch(label):
            raise ValueError(f"{label!r} is no name for a label")
        if not isinstance(value, str) or len(value) > _LONGEST:
            raise ValueError(f"the value of label {label} is no text, or too long")
    value = sample.value
    if isinstance(value, str | bytes) or value is None:
        raise TypeError(f"the value of {sample.name} is {type(value).__name__}, not a number")
    text = family.documentation
    return Sample(family.name, family.type, text if isinstance(text, str) else "", sample.name, labels, float(value))
