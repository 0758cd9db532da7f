"""`request.ctx` on its way to the response phase: what arrives, what is missed in words, and how much it may be."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.errors import NotAvailableError
from gatewright.runtime.copies import Copies
from gatewright.runtime.kept import MOST_BYTES, KeptContext, pack, unpack

PLAIN = {"user": "ada", 5: "five", None: 1, b"raw": b"\xff", 2.5: [1, {"a": None}], "pair": (1, (2,)), "odd": "\udcff"}


def arrived(ctx: dict[Any, Any]) -> KeptContext:
    packed = pack(ctx)
    assert len(packed) <= MOST_BYTES
    return unpack(packed)


def test_plain_data_arrives_under_plain_names() -> None:
    assert dict(arrived(PLAIN)) == {**PLAIN, "pair": [1, [2]]}


@pytest.mark.parametrize(
    "odd",
    [threading.Lock(), {1}, OrderedDict(), {(1, 2): "x"}, "\ud800", 1 << 70, {"deep": {(1,): 1}}],
    ids=["lock", "set", "a kind of dict", "dict of tuples", "lone surrogate", "long number", "deeper"],
)  # fmt: skip
def test_what_is_not_plain_is_missed_by_its_name_and_the_rest_arrives(odd: object) -> None:
    ctx: Any = arrived({"odd": odd, "user": "ada"})
    assert dict(ctx) == {"user": "ada"}
    for look in (lambda: ctx["odd"], lambda: "odd" in ctx, lambda: ctx.get("odd"), lambda: ctx.pop("odd", None),
                 lambda: ctx.setdefault("odd", 1)):  # fmt: skip
        with pytest.raises(NotAvailableError, match="something other than plain data"):
            look()
    assert ctx.get("never") is None
    ctx["odd"] = "put anew"
    assert ctx.pop("odd") == "put anew"


def test_a_name_that_is_a_tuple_stays_behind_alone() -> None:
    ctx: Any = arrived({("a", "b"): 1, "user": "ada", 5: 1})
    assert dict(ctx) == {"user": "ada", 5: 1}
    with pytest.raises(NotAvailableError, match="a name is a str, not tuple"):
        ctx[("a", "b")]


@pytest.mark.parametrize(
    "ctx",
    [
        {f"name-{number}": object() for number in range(10_000)},
        {"n" * 100_000: object()},
        {f"name-{number}": number for number in range(10_000)},
        {"much": "x" * MOST_BYTES},
        {"\ud800": 1},
        {10**5000: object()},
    ],
    ids=["many objects", "a long name", "many names", "much", "a name that can't be sent", "a long number"],
)
def test_whatever_it_is_it_has_an_end_and_what_is_missing_is_told(ctx: dict[Any, Any]) -> None:
    kept = arrived({**ctx, "user": "ada"})
    assert kept["user"] == "ada"
    missing = [name for name in ctx if name not in dict(kept) and type(name) is str]
    for name in missing[:100] + missing[-100:]:
        with pytest.raises(NotAvailableError, match="has not come from the request phase"):
            kept[name]


def test_what_stayed_behind_once_is_missed_in_all_later_phases() -> None:
    first = arrived({f"name-{number}": object() for number in range(100)})
    first["more"] = object()
    second = arrived(first)
    assert second.more
    with pytest.raises(NotAvailableError):
        second["more"]
    with pytest.raises(NotAvailableError):
        second["name-99"]


names = st.text(max_size=5) | st.integers() | st.tuples(st.integers())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5) | st.just(object()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5) | names, inner) | st.tuples(inner),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(names, values, max_size=5))
def test_any_context_can_be_packed_and_read(ctx: dict[Any, Any]) -> None:
    kept = arrived(ctx)
    assert set(kept) <= set(ctx)


# --- copies for plugins that may be skipped


def test_changes_in_a_copy_come_back_only_when_wanted_and_in_place() -> None:
    inner = {"roles": ["user"], "seen": {1}, "raw": bytearray(b"a")}
    ctx: dict[str, Any] = {"user": inner, "again": inner, "pair": ([1], "x"), "lock": threading.Lock()}
    ctx["self"] = ctx
    copies = Copies()
    copy = copies.copied(ctx)
    assert copy["self"] is copy
    assert copy["user"] is copy["again"] is not inner
    assert copy["lock"] is ctx["lock"]
    roles, pair = inner["roles"], ctx["pair"]
    copy["user"]["roles"].append("admin")
    copy["user"]["seen"].add(2)
    copy["user"]["raw"] += b"b"
    copy["pair"][0].append(2)
    copy["new"] = copy["user"]
    del copy["lock"]
    assert inner == {"roles": ["user"], "seen": {1}, "raw": bytearray(b"a")}
    assert ctx["pair"] == ([1], "x")
    assert "new" not in ctx
    inner["roles"] = roles
    copies.write_back()
    assert ctx["user"] is inner
    assert inner["roles"] is roles == ["user", "admin"]
    assert (inner["seen"], inner["raw"]) == ({1, 2}, bytearray(b"ab"))
    assert ctx["pair"] is pair == ([1, 2], "x")
    assert ctx["new"] is inner
    assert "lock" not in ctx
    assert ctx["self"] is ctx


def test_what_the_copy_leaves_alone_is_left_alone_in_the_original() -> None:
    ctx: dict[str, Any] = {"events": [], "user": {}}
    copies = Copies()
    copy = copies.copied(ctx)
    copy["user"]["name"] = "ada"
    ctx["events"].append("by a task of an earlier plugin, meanwhile")
    copies.write_back()
    assert ctx == {"events": ["by a task of an earlier plugin, meanwhile"], "user": {"name": "ada"}}
