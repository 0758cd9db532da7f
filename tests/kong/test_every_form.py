"""Every method of the PDK over both protocols, with every form of its arguments; docs/kong.md has the table.

`GATEWRIGHT_WRITE_DOCS=1` has the table written anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from gatewright.errors import PluginError
from gatewright.gateways.kong.answers import captures_of
from gatewright.gateways.kong.arguments import exit_headers
from gatewright.gateways.kong.msgpack_session import MsgPackSession
from gatewright.gateways.kong.pdk import METHODS
from gatewright.gateways.kong.phases import refused_in
from gatewright.gateways.kong.protobuf import Field, Message
from gatewright.gateways.kong.protobuf_session import ProtoBufSession
from tests.conftest import ROOT
from tests.kong.conftest import Start
from tests.kong.messages import messages
from tests.kong.peer import Exited

DOCS = ROOT / "docs" / "kong.md"
BEGIN, END = "<!-- the PDK's methods: made by tests/kong/test_every_form.py -->\n", "<!-- the PDK's methods: end -->"
PHASES = ("rewrite", "access", "response", "log")

_TAKES = {
    "": "", "string": "text", "int": "number", "most": "most = 100", "bool": "allow_terminated", "bytes": "bytes",
    "kv": "name, value", "list": "*what", "struct": "dict", "exit": "status, body, headers", "target": "host, port",
    "consumer_spec": "id, by_username", "authenticate": "consumer, credential",
}  # fmt: skip
_GIVES = {
    "": "", "string": "text, or `None`", "text": "text", "int": "number", "number": "number", "bool": "bool",
    "bytes": "bytes", "struct": "dict of lists", "value": "anything", "raw_body": "bytes", "uri_captures": "dict",
    "route": "dict", "service": "dict", "consumer": "dict, or `None`", "credential": "dict, or `None`",
    "memory_stats": "dict",
}  # fmt: skip
_OVER_PROTOBUF = {
    "kong.request.get_header": "an empty header is `None`, too",
    "kong.response.get_header": "an empty header is `None`, too",
    "kong.service.response.get_header": "an empty header is `None`, too",
    "kong.nginx.get_var": "an empty variable is `None`, too",
    "kong.request.get_query_arg": 'an empty argument is `""`, a bare one `True`, as over MessagePack',
    "kong.request.get_uri_captures": '`unnamed[0]`, the whole match, is `""`',
    "kong.response.exit": "without a body the client gets an empty one, not nginx's page",
    "kong.ctx.shared.set": "`False` is lost; within lists both `False` and `None` are refused",
    "kong.nginx.set_ctx": "`False` is lost; within lists both `False` and `None` are refused",
    "kong.router.get_route": "without the fields that the protocol does not have",
    "kong.router.get_service": "without the fields that the protocol does not have",
}


def table() -> str:
    lines = ["| `kong.` | Gives | Phases | Over Protobuf |", "|---|---|---|---|"]
    for name, method in METHODS.items():
        short = name.removeprefix("kong.")
        phases = [phase for phase in PHASES if name not in refused_in(phase)]
        shown = "all" if len(phases) == len(PHASES) else ", ".join(phases)
        lines.append(
            f"| `{short}({_TAKES[method.takes]})` | {_GIVES[method.gives]} | {shown} | {_OVER_PROTOBUF.get(name, '')} |"
        )
    return "\n".join(lines) + "\n"


def test_the_table_in_the_docs_is_this_one() -> None:
    text = DOCS.read_text()
    before, _, rest = text.partition(BEGIN)
    shown, end, after = rest.partition(END)
    if os.environ.get("GATEWRIGHT_WRITE_DOCS"):
        DOCS.write_text(before + BEGIN + table() + END + after)
    else:
        assert end, "docs/kong.md has no place for the table"
        assert shown == table(), "GATEWRIGHT_WRITE_DOCS=1 writes it anew"


FORMS: dict[str, list[tuple[Any, ...]]] = {
    "": [()], "string": [("a",), ("é",), ("",)], "int": [(1,)], "most": [(), (None,), (5,)], "bool": [(), (True,)],
    "bytes": [(b"\xff",), ("text",), (b"",)], "list": [(), ("a", 1, 2.5, True, ["b"], {"c": "d"})],
    "kv": [("k", "v"), ("k", 1), ("k", True), ("k", ["a", "b"]), ("k", {"a": 1}), ("k", None), ("k", "x" * 300)],
    "struct": [({"a": "b", "c": ["d", "e"]},), ({},)], "target": [("h", 80)],
    "exit": [
        (200,), (403, "no"), (403, b"\xff"), (403, {"a": [1, None]}), (403, [1, 2]), (403, None, {"a": ["b", "c"]}),
        (204,), (204, b"", {"a": "b"}), (204, None, {"Content-Length": "0"}),
    ],
    "consumer_spec": [("id",), ("name", True)],
    "authenticate": [({"id": "1"}, {"id": "2", "consumer_id": "1"}), (None, {"id": "2"}), ({"id": "1"}, None)],
}  # fmt: skip


def asked(frames: bytes) -> tuple[str, list[Any]]:
    """What Kong reads of a call, by Google's own library."""
    size = int.from_bytes(frames[:4], "little")
    name = frames[4 : 4 + size].decode()
    given, _ = messages().methods[name]
    return name, messages().positional(given.FromString(frames[8 + size :]))


@pytest.mark.parametrize("name", METHODS)
def test_every_form_of_arguments_can_be_sent(name: str) -> None:
    for args in FORMS[METHODS[name].takes]:
        assert MsgPackSession().call(1, 2, name, args)
        sent, got = asked(ProtoBufSession().call(0, 0, name, args))
        if name == "kong.request.get_query_arg":
            assert (sent, got) == ("kong.request.get_query", [100])
        elif METHODS[name].takes == "most":
            assert (sent, got) == (name, [100 if not args or args[0] is None else args[0]])
        else:
            assert sent == name


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        ({"a": None, "b": {"c": None, "d": 1}}, {"b": {"d": 1.0}}),
        ([1, None, None], [1.0]),
        ([None], []),
        ([{"a": None}, True], [{}, True]),
    ],
)
def test_what_is_nothing_in_lua_is_not_there(value: object, kept: object) -> None:
    """Seen of Kong 3.9: a null in a list or a dict is the text "NULL_VALUE" from then on."""
    assert asked(ProtoBufSession().call(0, 0, "kong.ctx.shared.set", ("k", value)))[1] == ["k", kept]


@pytest.mark.parametrize("value", [5, -1, 2.5, float("inf"), 1e300, {"a": [1, 2.5, 1 << 52]}, 0], ids=repr)
def test_whole_numbers_are_whole_over_protobuf_too(value: object) -> None:
    """Lua has one kind of number, and MessagePack brings what is whole as an int."""
    come = Message(v=Field(1, "value")).decode(Message(v=Field(1, "value")).encode({"v": value}))["v"]
    assert come == value
    assert repr(come) == repr(value)


@pytest.mark.parametrize("value", [[None, 1], [False], [1, [True, False]], {"a": [1, None, 2]}])
def test_a_list_that_kong_would_not_keep_is_refused_over_protobuf(value: object) -> None:
    """Seen of Kong 3.9: it makes nothing of False, and fails when it's to give a list back that begins with nothing."""
    with pytest.raises(PluginError, match="a list with None or False in it"):
        ProtoBufSession().call(0, 0, "kong.ctx.shared.set", ("k", value))
    logged = asked(ProtoBufSession().call(0, 0, "kong.log.notice", ("x", value, {"a": None})))[1]
    assert logged[0] == "x", "a line for the log is written all the same"


def exit_over_protobuf(*args: Any) -> list[Any]:
    return asked(ProtoBufSession().call(0, 0, "kong.response.exit", args))[1]


def test_over_messagepack_lua_gets_as_text_what_it_would_lose() -> None:
    def sent(*args: Any) -> list[Any]:
        data = MsgPackSession().call(0, 0, "kong.response.exit", args)
        return list(msgpack.unpackb(data)[3]["Data"]["Args"])

    as_json = {"Content-Type": "application/json; charset=utf-8"}
    assert sent(403, {"a": [1, {"b": None}]}) == [403, b'{"a":[1,{"b":null}]}', as_json]
    assert sent(403, [], {"x": "y"}) == [403, b"[]", {"x": "y", **as_json}]
    assert sent(403, {"a": []}, {"content_type": "x"}) == [403, b'{"a":[]}', {"content_type": "x"}]
    assert sent(403, {"a": [1, {}]}, {"x": "y"}) == [403, {"a": [1, {}]}, {"x": "y"}]


def test_an_exit_takes_what_lua_takes() -> None:
    json = "application/json; charset=utf-8"
    assert exit_over_protobuf(403, {"a": [1, "é"]}) == [403, '{"a":[1,"é"]}'.encode(), {"Content-Type": json}]
    assert exit_over_protobuf(403, [], {"content_type": "x"}) == [403, b"[]", {"content_type": "x"}]
    assert exit_over_protobuf(204) == [204, b"", {"content-length": []}]
    with pytest.raises(PluginError, match="the body can't be JSON"):
        exit_over_protobuf(403, {"a": object()})
    with pytest.raises(PluginError, match="takes 3 arguments at most"):
        exit_over_protobuf(403, {}, {}, 4)
    with pytest.raises(PluginError, match="takes a status"):
        exit_over_protobuf()


def test_an_answer_without_a_body_gets_no_content_length() -> None:
    assert exit_headers(204, b"", {"a": "b"}) == {"a": "b", "content-length": []}
    assert exit_headers(304, None, None) == {"content-length": []}
    assert exit_headers(204, None, {"Content_Length": "0"}) == {"Content_Length": "0"}
    assert exit_headers(200, b"", None) is None
    assert exit_headers(204, None, "wrong") == "wrong"


def test_captures_have_one_form() -> None:
    """Seen of Kong 3.4 and 3.9: a map with 0 over MessagePack, a list from 1 over Protobuf."""
    assert captures_of({"unnamed": {0: "/a/b", 2: "b"}, "named": []}) == {"unnamed": ["/a/b", "", "b"], "named": {}}
    assert captures_of({"unnamed": ["a"], "named": {"n": "a"}}) == {"unnamed": ["", "a"], "named": {"n": "a"}}
    assert captures_of({"unnamed": [], "named": []}) == {"unnamed": [], "named": {}}
    assert captures_of(None) is None


ASKS = """
class Plugin(object):
    def __init__(self, config):
        self.method = config["method"]

    def access(self, kong):
        found = kong
        for part in self.method.split("."):
            found = getattr(found, part)
        kong.response.exit(200, repr(found("x") if self.method.endswith("_arg") else found()))
"""
both = pytest.mark.parametrize("protocol", ["msgpack", "protobuf"])


@both
@pytest.mark.parametrize(
    ("method", "pdk", "value"),
    [
        ("request.get_raw_query", lambda: "", "('', None)"),
        ("request.get_query_arg", lambda: {"x": []}, "(True, None)"),
        ("request.get_query_arg", lambda: {"x": [""]}, "('', None)"),
        ("request.get_query_arg", lambda: {"x": ["1", "2"]}, "('1', None)"),
        ("request.get_query_arg", lambda: {"y": ["1"]}, "(None, None)"),
    ],
)
def test_what_is_empty_or_bare(serve: Start, protocol: str, method: str, pdk: Callable[[], Any], value: str) -> None:
    server = serve(protocol, asks=ASKS)

    def first(_: Any) -> Any:  # what Kong gives over MessagePack
        values = pdk().get("x")
        return values if values is None else values[0] if values else True

    known: dict[str, Any] = {f"kong.{method}": first if method.endswith("_arg") else pdk}
    known["kong.request.get_query"] = lambda _: pdk()
    with server.kong() as kong, pytest.raises(Exited) as exited:
        kong.event(kong.start("asks", {"method": method}), "access", known)
    assert exited.value.body in (value, value.encode())


BUFFERS = """
version, priority, Schema = "1.0.0", 1, ()
class Plugin:
    def __init__(self, config): pass
    def access(self, kong):
        kong.response.set_header("x", str(kong.service.request.enable_buffering()))
    def response(self, kong): pass
"""


@pytest.mark.parametrize("protocol", ["msgpack", "protobuf"])
def test_who_has_a_response_phase_need_not_have_the_answer_buffered(serve: Start, protocol: str) -> None:
    with serve(protocol, buffers=BUFFERS).kong() as kong:
        kong.event(kong.start("buffers", {}), "access", {})
        assert kong.calls == [("kong.response.set_header", ["x", "(None, None)"])]
