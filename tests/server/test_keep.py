"""Memory that workers share for what one phase leaves for another."""

from __future__ import annotations

import os

import pytest

from gatewright.errors import NotAvailableError
from gatewright.runtime.kept import MOST_BYTES, KeptContext, pack, unpack
from gatewright.server.ipc import keep
from gatewright.server.ipc.keep import Keep, LostError


def test_what_one_process_puts_another_gets_also_after_its_end() -> None:
    memory = Keep(2)
    pid = os.fork()
    if not pid:
        memory.region(1).put(b"name", b"content")
        os._exit(0)
    os.waitpid(pid, 0)
    assert memory.region(0).get(b"name") == [b"content"]
    assert memory.region(0).get(b"other") == []


def test_the_newest_of_a_name_comes_last_and_replaces_its_own() -> None:
    memory = Keep(2)
    one, two = memory.region(0), memory.region(1)
    one.put(b"n", b"old")
    two.put(b"n", b"of another")
    one.put(b"n", b"new")
    assert one.get(b"n") == two.get(b"n") == [b"of another", b"new"]


def test_a_full_ring_gives_the_oldest_up_and_says_so() -> None:
    region = Keep(1).region(0)
    content = bytes(60_000)
    count = keep._RING // 60_000 + 10
    for number in range(count):
        region.put(b"%d" % number, content)
    assert region.get(b"%d" % (count - 1)) == [content]
    with pytest.raises(LostError, match="too much"):
        region.get(b"0")


def test_as_many_small_ones_as_fit_are_found_again() -> None:
    region = Keep(1).region(0)
    fit = keep._RING // keep._SMALLEST - 1
    for number in range(fit + 5000):
        region.put(b"%d" % number, b"%d" % number)
    missing = sum(region.get(b"%d" % number) != [b"%d" % number] for number in range(5001, fit + 5000, 7))
    assert missing == 0


def test_nothing_is_kept_for_longer_than_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    region, now = Keep(1).region(0), [1000.0]
    monkeypatch.setattr(keep, "monotonic", lambda: now[0])
    region.put(b"n", b"content")
    now[0] += keep.LASTS_SECONDS + 1
    with pytest.raises(LostError, match="300 s"):
        region.get(b"n")


def test_a_record_that_is_overwritten_while_it_is_read_is_not_taken_for_another() -> None:
    memory = Keep(1)
    region = memory.region(0)
    region.put(b"n", b"content")
    at = memory._memory.find(b"content")
    memory._memory[at : at + 7] = b"CONTENT"
    with pytest.raises(LostError):
        region.get(b"n")


def test_a_region_whose_worker_has_ended_is_given_out_last() -> None:
    memory = Keep(3)
    first = memory.lease()
    memory.release(first)
    assert [memory.lease() for _ in range(4)] == [1, 2, first, -1]


def test_a_context_keeps_plain_data_and_says_what_it_left() -> None:
    ctx = {"a": ["x", b"\xff", "\udcff", {"n": 1 << 62}], "set": {1}, "much": "x" * MOST_BYTES, "big": 1 << 70}
    kept = unpack(pack(ctx))
    assert dict(kept) == {"a": ctx["a"]}
    assert set(kept.left) == {"set", "much", "big"}
    for look in (lambda: kept["set"], lambda: kept.get("much"), lambda: "big" in kept):
        with pytest.raises(NotAvailableError, match="has not come from the request phase"):
            look()
    assert kept.get("never there") is None
    assert "never there" not in kept
    kept["set"] = [1]
    assert kept["set"] == [1]
    assert len(pack(ctx)) <= MOST_BYTES + 64


def test_what_was_left_stays_told_over_a_further_phase() -> None:
    again = unpack(pack(unpack(pack({"a": 1, "f": print}))))
    assert dict(again) == {"a": 1}
    with pytest.raises(NotAvailableError, match="builtin"):
        again.get("f")
    assert KeptContext() == {}
