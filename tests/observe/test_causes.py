"""A traceback tells of so many causes, however many there are."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest
import structlog

from gatewright.observe import logs
from gatewright.observe.causes import MOST_CAUSES, only_the_last


def tried_again(times: int) -> BaseException:
    """What comes of a plugin that tries again within its `except`, again and again."""
    error: BaseException = ConnectionError("the first")
    for number in range(times - 1):
        try:
            raise ValueError(number)
        except ValueError as another:
            another.__context__ = error
            error = another
    return error


@pytest.fixture(params=["console", "json", "short"])
def formatter(request: pytest.FixtureRequest) -> Iterator[logging.Formatter]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure_logs(format=request.param)
    formatter = root.handlers[0].formatter
    assert formatter is not None
    yield formatter
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def test_a_chain_of_very_many_costs_no_seconds_and_ends_with_the_last(formatter: logging.Formatter) -> None:
    error = tried_again(20_000)
    exc_info = type(error), error, error.__traceback__
    record = logging.getLogger("it").makeRecord("it", logging.ERROR, "it.py", 1, "failed", (), exc_info)
    began = time.thread_time()
    text = formatter.format(record)
    assert time.thread_time() - began < 1
    assert "ValueError: 19998" in text
    assert "ValueError: 19980" in text
    assert "ValueError: 19970" not in text
    assert "the first" not in text


@pytest.mark.parametrize("count", [1, MOST_CAUSES - 1, MOST_CAUSES, MOST_CAUSES + 1])
def test_it_is_left_as_it_was(count: int) -> None:
    def causes(error: BaseException | None) -> list[BaseException]:
        found = []
        while error is not None:
            found.append(error)
            error = error.__context__
        return found

    error = tried_again(count)
    before = causes(error)
    with only_the_last(error) as left_out:
        assert len(causes(error)) == min(count, MOST_CAUSES)
        assert left_out == max(count - MOST_CAUSES, 0)
    assert causes(error) == before
    assert all(not each.__suppress_context__ for each in before)


def test_a_circle_has_an_end() -> None:
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    with only_the_last(first) as left_out:
        assert left_out == 0
