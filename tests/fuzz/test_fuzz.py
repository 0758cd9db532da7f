"""A short run of each fuzzer, so that they don't rot; `python -m tests.fuzz.NAME` runs them at length."""

from __future__ import annotations

from tests.fuzz import lean_session


def test_the_lean_session() -> None:
    tally = lean_session.fuzz(4000, seed=1)
    assert tally.refused > 100
    assert tally.calls > 100
    assert set(tally.kinds) == {
        "Hello", "Prepared", "LeanRequestCall", "LeanResponseCall", "Logged", "Told",
    }  # fmt: skip
