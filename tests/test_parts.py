"""What a handler touches of every call is the same in C and in Python: results, errors, and what is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright import call as quick_call
from gatewright import parts as quick_parts
from gatewright._plain_parts import Tally as PlainTally
from gatewright.built import parts as built
from gatewright.datastructures import CutEntries
from gatewright.http import SyncRequest
from gatewright.runtime.stats import BOUNDS, new_tally
from tests.gateways.pure import again
from tests.growth import growth

_, plain_parts, plain_call = again("gatewright.built", "gatewright.parts", "gatewright.call")
needs_c = pytest.mark.skipif(built is None, reason="nothing was built in C: no compiler was there")

NAMES: list[Any] = [
    "host", "Host", "x-user", "X-User", "x_user", "absent", "cookie", "x-none", "x-empty", "", "a b", "é", "x\r\n",
    "A" * 70,    "B" * 9000, 7, None, b"host",
]  # fmt: skip
VALUES: list[Any] = [
    "",
    "plain",
    "with space",
    "tab\there",
    "line\nbreak",
    "nul\0",
    "café",
    "caf\udce9",
    "\ud800",
    5,
    None,
    b"x",
]
ENTRIES: list[tuple[str, str | None]] = [
    ("host", "shop"), ("Cookie", "a=1"), ("cookie", "b=2"), ("x-none", None), ("x-empty", ""), ("x_user", "ada"),
]  # fmt: skip


class Source:
    """Headers of which some may be known without the rest."""

    def __init__(self, *, knows: bool, cut: bool) -> None:
        self.knows, self.cut = knows, cut
        self.asked: list[str] = []

    def read_headers(self) -> Any:
        self.asked.append("all")
        return CutEntries(ENTRIES) if self.cut else list(ENTRIES)

    def has_header(self, name: str) -> bool | None:
        self.asked.append(f"has {name}")
        there = any(present.lower() == name for present, _ in ENTRIES)
        return True if there else None if self.cut else False if self.knows else None

    def header_values(self, name: str) -> list[str | None] | None:
        self.asked.append(f"values {name}")
        return [value for present, value in ENTRIES if present.lower() == name] if self.knows else None

    def may_have_alike(self, names: tuple[str, ...]) -> bool:
        return True


class Finder:
    def find_header(self, headers: Any, name: str) -> str | None:
        return "found" if name == "absent" else None


def told(do: Callable[[], Any]) -> Any:
    try:
        return do()
    except Exception as error:
        return type(error), str(error)


DOINGS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "in": lambda headers, name, _: name in headers,
    "item": lambda headers, name, _: headers[name],
    "get": lambda headers, name, _: headers.get(name),
    "get or": lambda headers, name, value: headers.get(name, default=value),
    "set": lambda headers, name, value: headers.__setitem__(name, value),
    "del": lambda headers, name, _: headers.__delitem__(name),
    "add": lambda headers, name, value: headers.add(name, value),
    "discard": lambda headers, name, _: headers.discard(name),
    "all": lambda headers, name, _: headers.get_all(name),
    "pop": lambda headers, name, value: headers.pop(name, value),
    "setdefault": lambda headers, name, value: headers.setdefault(name, value),
    "list": lambda headers, _name, _value: headers.multi_items(),
    "len": lambda headers, _name, _value: (len(headers), bool(headers), list(headers)),
    "alike": lambda headers, name, _: headers.discard_alike(name),
    "copy": lambda headers, _name, _value: headers.copied().changes,
}
steps = st.lists(
    st.tuples(st.sampled_from(sorted(DOINGS)), st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=8
)


def headers_of(module: Any, *, knows: bool, cut: bool) -> tuple[Any, Source]:
    source = Source(knows=knows, cut=cut)
    call = module.Call(source, 1)
    call.asker = Finder()
    return call.headers, source


@needs_c
def test_they_are_two() -> None:
    assert quick_parts.Lookup is not plain_parts.Lookup
    assert quick_call.Call.__mro__[1] is not plain_call.Call.__mro__[1]


@given(steps, st.booleans(), st.booleans())
@settings(max_examples=400)
def test_headers_do_the_same(doings: list[tuple[str, Any, Any]], knows: bool, cut: bool) -> None:
    (one, asked), (other, also_asked) = (headers_of(m, knows=knows, cut=cut) for m in (quick_call, plain_call))
    for what, name, value in doings:
        assert told(lambda: DOINGS[what](one, name, value)) == told(lambda: DOINGS[what](other, name, value))  # noqa: B023
        assert one.changes == other.changes
    assert ("all" in asked.asked) == ("all" in also_asked.asked), "neither decodes more than the other"


@pytest.mark.parametrize("module", [quick_call, plain_call], ids=["c", "python"])
def test_an_error_of_the_source_comes_out(module: Any) -> None:
    headers, source = headers_of(module, knows=True, cut=False)

    def fails(name: str) -> Any:
        raise OSError(f"no {name}")

    source.has_header = source.header_values = fails  # type: ignore[method-assign]
    for look in (lambda: "host" in headers, lambda: headers["host"], lambda: headers.get("Host")):
        assert told(look) == (OSError, "no host")


@pytest.mark.parametrize("parts", [quick_parts, plain_parts], ids=["c", "python"])
def test_a_call_begins_with_nothing_changed(parts: Any) -> None:
    call = parts.CallParts("source", conf_token=3)
    assert (call.source, call.conf_token, call.asker, call.route) == ("source", 3, None, "")
    assert (call.path, call.body, call.asks, call.warning) == (None, None, False, "")
    assert (call.seen_headers, call.seen_query, call.seen_response_headers) == (None, None, None)
    assert call.header_changes() == ()
    for wrong in ((), ("source",), ("source", 3, 4)):
        with pytest.raises(TypeError):
            parts.CallParts(*wrong)


@pytest.mark.parametrize("module", [quick_call, plain_call], ids=["c", "python"])
def test_changes_of_headers_are_told_if_there_are_no_others(module: Any) -> None:
    def changed(**parts: Any) -> Any:
        call = module.Call(Source(knows=True, cut=False), 1)
        call.headers["x-a"] = "1"
        call.headers.discard("host")
        for name, value in parts.items():
            setattr(call, name, value)
        return call

    some = changed().headers
    assert changed().header_changes() == (("x-a", ("1",)), ("host", None))
    assert changed(path="/new").header_changes() is None
    assert changed(body=b"").header_changes() is None
    assert changed(seen_query=some).header_changes() is None
    assert changed(seen_response_headers=some).header_changes() is None
    unchanged = module.Call(Source(knows=True, cut=False), 1).headers
    assert changed(seen_query=unchanged, seen_response_headers=unchanged).header_changes() is not None


@pytest.mark.parametrize("parts", [quick_parts, plain_parts], ids=["c", "python"])
def test_a_view_shows_headers_and_lets_nobody_set_them(parts: Any) -> None:
    call = quick_call.Call(Source(knows=True, cut=False), 1)
    view = parts.View(call)
    assert view.headers is call.headers is view.headers
    assert parts.View(call=call)._call is call
    with pytest.raises(AttributeError):
        view.headers = {}
    for wrong in ((), (call, call)):
        with pytest.raises(TypeError):
            parts.View(*wrong)

    class Own(parts.View):  # type: ignore[misc, name-defined]
        def __init__(self, call: Any, more: str) -> None:
            super().__init__(call)
            self.more = more

    assert Own(call, more="x").headers is call.headers
    with pytest.raises(AttributeError):
        parts.View("no call").headers  # noqa: B018
    with pytest.raises(AttributeError):
        SyncRequest(call).hearders = 1  # type: ignore[attr-defined]


@given(st.lists(st.one_of(st.floats(0, 100), st.sampled_from(BOUNDS)), max_size=50))
def test_tallies_count_the_same(seconds: list[float]) -> None:
    one, other = new_tally(), PlainTally(BOUNDS)
    for took in seconds:
        one.note(took)
        other.note(took)
    assert (one.counts, one.seconds) == (other.counts, other.seconds)
    one.add(one)
    other.add(other)
    assert (one.counts, one.seconds) == (other.counts, other.seconds)


@needs_c
def test_a_tally_refuses_what_it_cannot_count() -> None:
    tally = new_tally()
    wrong: Any
    for wrong in (lambda: tally.note("1"), lambda: tally.add(7), lambda: type(tally)(("x",)), type(tally)):  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="65 bounds"):
        type(tally)(tuple(map(float, range(65))))
    assert sum(tally.counts) == 0


@needs_c
def test_nothing_is_left_behind() -> None:
    """What is made in C goes with its last user, in circles, too; names that are made up fill no cache."""

    def look(prefix: str) -> None:
        for number in range(1500):
            call = quick_call.Call(Source(knows=True, cut=False), 1)
            view = SyncRequest(call)
            view.headers[f"{prefix}-{number}"] = "x"
            view.headers.get("host")
            told(lambda: view.headers["absent"])  # noqa: B023
            told(lambda: view.headers.__setitem__("x", 7))  # type: ignore[arg-type] # noqa: B023
            _ = "host" in view.headers
            call.ctx_source = view  # type: ignore[assignment]  # a circle
            call.header_changes()

    assert growth(look, SyncRequest, quick_call.Call, quick_call.SourceHeaders) < 150_000, (
        "of some 400 bytes for each name, those of one round may be kept"
    )
