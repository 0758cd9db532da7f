"""Headers and Query: ordered, multi-valued, late to load, and exact about what was changed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright import Headers, NotAvailableError, Query, Response
from gatewright.datastructures import CutEntries


def loaded_once(items: list[tuple[str, str | None]]):
    count = []

    def load() -> list[tuple[str, str | None]]:
        count.append(1)
        assert len(count) == 1, "loaded twice"
        return items

    return load


def never() -> list[tuple[str, str | None]]:
    raise AssertionError("nothing should have been loaded")


def test_names_are_found_in_any_case_and_shown_in_lower_case() -> None:
    headers = Headers.lazy(loaded_once([("X-A", "1"), ("x-a", "2"), ("Host", "h")]))
    assert headers["x-A"] == "1"
    assert headers.get_all("X-a") == ["1", "2"]
    assert "HOST" in headers
    assert list(headers) == ["x-a", "host"]
    assert headers.multi_items() == [("x-a", "1"), ("x-a", "2"), ("host", "h")]
    assert len(headers) == 2


def test_writing_loads_nothing() -> None:
    headers = Headers.lazy(never)
    headers["X-A"] = "1"
    headers.discard("x-b")
    headers.set_all("x-c", ["1", "2"])
    assert headers["x-a"] == "1"
    assert "x-b" not in headers
    assert headers.changes == {"x-a": ("1",), "x-b": None, "x-c": ("1", "2")}


def test_a_membership_test_can_do_without_loading() -> None:
    headers = Headers.lazy(never, has=lambda name: name == "x-there")
    assert "X-There" in headers
    assert "x-not" not in headers


def test_changes_stand_where_the_name_first_stood() -> None:
    headers = Headers([("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")])
    headers.add("a", "3")
    del headers["b"]
    headers["d"] = "4"
    assert headers.multi_items() == [("a", "1"), ("a", "2"), ("a", "3"), ("c", "1"), ("d", "4")]
    assert headers.changes == {"a": ("1", "2", "3"), "b": None, "d": ("4",)}


@pytest.mark.parametrize("name", ["", "a b", "a:b", "ä", "a\r\nb"])
def test_what_is_no_header_name_is_refused(name: str) -> None:
    headers = Headers()
    with pytest.raises(ValueError, match="not a header name"):
        headers[name] = "1"
    assert name not in headers
    assert 5 not in headers


@pytest.mark.parametrize("value", ["a\r\nx: 1", "a\nb", "a\0b"])
def test_a_value_that_would_break_out_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        Headers()["x"] = value
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        Headers({"x": value})


def test_values_are_text() -> None:
    with pytest.raises(TypeError, match="must be str, not int"):
        Headers()["x"] = 1  # type: ignore[assignment]


@pytest.mark.parametrize("values", ["text", b"bytes", {"a": "b"}])
def test_one_text_is_no_list_of_values(values: Any) -> None:
    for mapping in (Headers(), Query()):
        with pytest.raises(TypeError, match="the values of 'x' are a list"):
            mapping.set_all("x", values)


def test_text_of_two_characters_is_no_name_and_value() -> None:
    for items in (["ab"], "ab", [b"ab"]):
        with pytest.raises(TypeError, match="is no pair"):
            Headers(items)


@pytest.mark.parametrize("headers", [0, False, "ab", ["ab"]])
def test_headers_of_an_answer_that_are_none_are_refused(headers: Any) -> None:
    with pytest.raises(TypeError):
        Response(403, headers)


def test_what_json_has_no_words_for_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        Response.json({"share": float("nan")})


def test_deleting_what_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        del Headers()["x"]


def test_replace_touches_only_what_differs() -> None:
    headers = Headers([("a", "1"), ("b", "1"), ("c", "1"), ("c", "2")])
    headers.replace({"A": "1", "b": "2", "c": "1"})
    assert headers.changes == {"b": ("2",), "c": ("1",)}


def test_a_bare_argument_reads_as_empty_and_can_be_told_apart() -> None:
    query = Query.lazy(lambda: [("z", None), ("y", "")])
    assert (query["z"], query["y"]) == ("", "")
    assert query.is_bare("z")
    assert not query.is_bare("y")
    assert not query.is_bare("nope")


def test_arguments_keep_their_case() -> None:
    query = Query([("A", "1")])
    assert "a" not in query
    assert query == {"A": "1"}


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["set", "add", "discard"]), st.sampled_from("abc"), st.text("12", max_size=2)),
    max_size=12,
)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.text("12", max_size=2)), max_size=6), OPERATIONS)
def test_behaves_as_a_dict_of_lists(items: list[tuple[str, str]], operations: list[tuple[str, str, str]]) -> None:
    model: dict[str, list[str]] = {}
    for name, value in items:
        model.setdefault(name, []).append(value)
    mapping = Headers.lazy(lambda: items)
    for operation, name, value in operations:
        if operation == "set":
            mapping[name] = value
            model[name] = [value]
        elif operation == "add":
            mapping.add(name, value)
            model.setdefault(name, []).append(value)
        else:
            mapping.discard(name)
            model.pop(name, None)
    assert {name: mapping.get_all(name) for name in mapping} == model
    assert set(mapping) == set(model)
    assert sorted(mapping.multi_items()) == sorted((n, v) for n, values in model.items() for v in values)


# --- headers that an upstream takes for the same


def test_headers_that_look_alike_are_deleted_together() -> None:
    headers = Headers([("X-User", "a"), ("x_user", "b"), ("X-USER-Id", "c"), ("xuser", "d"), ("x.user", "e")])
    headers.discard_alike("x-user")
    assert headers.changes == {"x-user": None, "x_user": None, "x.user": None}


def test_changes_of_earlier_plugins_count_among_those_that_look_alike() -> None:
    headers = Headers.lazy(list, find=lambda _: [])
    headers.may_have_alike = lambda _: False
    headers["X_User"] = "1"
    headers.discard_alike("x-user")
    assert headers.changes == {"x_user": None, "x-user": None}


def test_where_headers_were_cut_off_all_spellings_are_deleted_unseen() -> None:
    headers = Headers.lazy(lambda: CutEntries([("a", "1")]))
    headers.discard_alike("x-user-id")
    assert headers.changes == dict.fromkeys(["x-user-id", "x-user_id", "x_user-id", "x_user_id"])
    with pytest.raises(NotAvailableError, match="too many spellings"):
        headers.discard_alike("-".join("abcdefgh"))


def test_a_look_at_one_header_decodes_no_others_until_it_pays() -> None:
    loads: list[int] = []
    headers = Headers.lazy(
        lambda: loads.append(1) or [("a", "1"), ("b", "2")], find=lambda name: {"a": ["1"], "b": None}.get(name, [])
    )
    assert headers.get_all("a") == ["1"]
    assert headers.get("c") is None
    assert loads == []
    assert headers["b"] == "2", "the gateway's own look did not know"
    assert loads == [1]
