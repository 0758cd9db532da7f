"""What holds for seconds holds for minutes: full load while workers are reloaded or killed, and a soak."""

from __future__ import annotations

import pytest

from benchmarks.endure import soak, under_load

pytestmark = [pytest.mark.long, pytest.mark.soak, pytest.mark.alone, pytest.mark.timeout(300)]


@pytest.mark.parametrize("kind", ["reload", "kill"])
def test_a_minute_under_full_load(kind: str) -> None:
    outcome = under_load(kind, seconds=60, every=5)
    assert outcome.faults == []
    assert outcome.done == 11
    assert outcome.result["refused"] == 0


def test_memory_and_descriptors_stay_where_they_are_under_a_soak() -> None:
    assert soak(120) == []
