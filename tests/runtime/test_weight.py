"""A configuration that would be too much in memory is told from its text, and not read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gatewright.runtime.weight import MOST_TEXT, MOST_VALUES, expanded_size, too_heavy
from tests.conftest import StartRunner
from tests.peer import Refused


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (json.dumps([[]] * MOST_VALUES), "values"),
        (json.dumps([{}] * MOST_VALUES), "values"),
        (json.dumps(list(range(2 * MOST_VALUES))), "values"),
        ("[" * 2 * MOST_VALUES, "values"),
        ('{"a": "' + "x" * MOST_TEXT + '"}', "characters"),
        (json.dumps({"csv": 'a,b[{"c"}],\\' * MOST_VALUES}), ""),
        ("a,b," * MOST_VALUES, ""),
        (json.dumps([["a,b"]] * (MOST_VALUES // 3)), ""),
        ("", ""),
    ],
)
def test_what_is_too_much(text: str, told: str) -> None:
    assert told in too_heavy(text)
    assert bool(told) == bool(too_heavy(text))


def test_a_value_weighs_more_than_its_text() -> None:
    text = json.dumps([[]] * 1000)
    assert expanded_size(text) == expanded_size(text.encode()) > 60_000
    assert expanded_size("[" * 3 * MOST_VALUES) < 8 << 20, "what is not read has its text only"


def test_its_route_is_refused_and_others_are_served(start_runner: StartRunner, plugin_dir: Callable[..., Path]) -> None:
    source = "from gatewright import Plugin\nclass P(Plugin):\n    def on_request(self, request): pass\n"
    runner = start_runner("-p", plugin_dir(p=source))
    with runner.peer() as peer:
        heavy = peer.prepare(("p", '{"a": [' + "[]," * 1_000_000 + "[]]}"), key="heavy")
        light = peer.prepare(("p", "{}"), key="light")
        with pytest.raises(Refused):
            peer.request(heavy)
        assert peer.request(light) is None
    assert "its configuration is too large to be read: it has about 20000" in runner.log
