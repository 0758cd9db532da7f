"""response-transform: edits the upstream's answer on its way to the client: JSON body, headers, status.

The body is fetched from the gateway only where it may have to be edited: a configuration with body edits, a status that
they are for, a content type that is JSON. Packed ones (gzip, deflate, br) are unpacked, edited and packed again.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec

from gatewright import ConfigError, Headers, Plugin, PluginError, Request, Response
from gatewright.plugins._shared.codings import codings_of, pack, unpack
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.model import field
from gatewright.plugins.response_transform.edits import Edit, compile_edit

__all__ = ["ResponseTransform"]

_OFF_THE_LOOP: Final = 1 << 15
"""Bytes of a body (as it came) from which on it's edited in a thread."""
_BOM: Final = b"\xef\xbb\xbf"
_OF_THE_FORMER_BODY: Final = ("content-md5", "digest", "content-digest", "repr-digest", "accept-ranges")
_MOST_UNPACKED: Final = 20


class BodyEdit(msgspec.Struct, kw_only=True, frozen=True):
    """One edit of a JSON body."""

    op: Annotated[Literal["set", "remove", "rename", "mask"], field("What is done at the path.")]
    path: Annotated[
        str,
        field(
            "Where: a JSON pointer (`/user/name`) or a JSONPath (`$.users[*].name`). `set` at a pointer makes the"
            " objects that lead there; everything else does nothing where the path leads nowhere."
        ),
    ]
    value: Annotated[Any, field("For `set`: the new value. On Kong this is text; use `json` for all else.")] = None
    json: Annotated[str | None, field("For `set`: the new value as JSON text, instead of `value`.")] = None
    to: Annotated[str, field("For `rename`: the new name of the object's member.")] = ""
    text: Annotated[str, field("For `mask`: what is shown instead.")] = "***"
    keep: Annotated[
        int,
        field(
            "For `mask`: how much of the end stays visible; nothing of a value shorter than twice that.",
            unit="characters",
            ge=0,
            le=1000,
        ),
    ] = 0


class HeaderEdits(msgspec.Struct, kw_only=True, frozen=True):
    """Edits of the answer's headers, done in this order: rename, remove, set, add."""

    rename: Annotated[dict[str, str], field("Old name: new name, with all values.")] = {}
    remove: Annotated[tuple[str, ...], field("Names of headers to take out.")] = ()
    set: Annotated[dict[str, str], field("Name: value, instead of whatever is there.")] = {}
    add: Annotated[dict[str, str], field("Name: value, beside whatever is there.")] = {}

    def __post_init__(self) -> None:
        tried = Headers()  # now rather than with every answer
        for name in (*self.rename, *self.rename.values(), *self.remove):
            tried.discard(name)
        for name, value in (*self.set.items(), *self.add.items()):
            tried[name] = value


class ResponseTransformConfig(msgspec.Struct, kw_only=True, frozen=True):
    """What is edited, and when."""

    body: Annotated[tuple[BodyEdit, ...], field("Edits of a JSON body, in this order.")] = ()
    headers: Annotated[HeaderEdits, field("Edits of the headers.")] = HeaderEdits()
    status: Annotated[
        dict[str, Annotated[int, field("The status that the client gets.", ge=200, le=599)]],
        field("The upstream's status (`404`, or a class: `5xx`): the client's."),
    ] = {}
    when_status: Annotated[tuple[str, ...], field("Statuses of the upstream (`200`, `2xx`) to edit; none: all.")] = ()
    any_type: Annotated[
        bool, field("Edit bodies that are JSON whatever their `Content-Type` says; others are left alone.")
    ] = False
    max_body: Annotated[
        int, field("What a body may have to be edited, packed and unpacked.", unit="bytes", ge=1, le=16 << 20)
    ] = 1 << 20
    unreadable: Annotated[
        Literal["fail", "pass"],
        field(
            "A body that calls itself JSON and can't be edited (damaged, over `max_body`, a part of one, an unknown "
            "coding): `fail` keeps it from the client, `pass` hands it on as it is."
        ),
    ] = "fail"

    def __post_init__(self) -> None:
        for each in (*self.when_status, *self.status):
            if not (len(each) == 3 and each[0] in "12345" and (each[1:].isdecimal() or each[1:] == "xx")):
                raise ValueError(f"{each!r} is no status: write 404, or 4xx for all of a class")


class ResponseTransform(Plugin[ResponseTransformConfig]):
    """Edits JSON bodies, headers and the status of answers."""

    name = "response-transform"
    version = "1.0.0"
    priority = 800
    Config = ResponseTransformConfig

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        self._edits = [_compiled(edit, f"$.body[{number}]") for number, edit in enumerate(self.config.body)]
        self._statuses = frozenset(self.config.when_status)
        self._answers = counter("response_transform_answers", "Answers by what was done with their body.", ["body"])
        self._decode = msgspec.json.Decoder(float_hook=Decimal).decode  # 1.10 and 1e400 stay what they are
        self._encode = msgspec.json.Encoder(decimal_format="number").encode

    async def on_response(self, request: Request, response: Response) -> None:
        """Edit an answer."""
        status = response.status
        if self._statuses and not self._statuses & {str(status), f"{status // 100}xx"}:
            return
        if self._edits:
            await self._edit_body(response, status)
        self._edit_headers(response)
        new = self.config.status.get(str(status), self.config.status.get(f"{status // 100}xx"))
        if new is not None:
            response.status = new

    def _edit_headers(self, response: Response) -> None:
        edits, headers = self.config.headers, response.headers
        for old, new in edits.rename.items():
            values = headers.get_all(old)
            if values:
                headers.discard(old)
                headers.set_all(new, values)
        for name in edits.remove:
            headers.discard(name)
        for name, value in edits.set.items():
            headers[name] = value
        for name, value in edits.add.items():
            headers.add(name, value)

    async def _edit_body(self, response: Response, status: int) -> None:
        headers = response.headers
        kind, _, parameters = headers.get("content-type", "").lower().partition(";")
        is_json = _is_json(kind.strip())
        if status == 206 and (is_json or kind.startswith("multipart/byteranges")):
            self._unreadable("a part of a body (206) can't be edited")
            return
        if not is_json and not self.config.any_type:
            return
        body = await response.body()
        if not body:  # of a HEAD or a 304: it stands for one that would be edited
            self._weaken_etag(response)
            headers.discard("content-length")  # of the body that isn't sent as it is
            return
        codings = codings_of(headers.get_all("content-encoding"))
        try:
            if len(body) > self.config.max_body:
                raise PluginError(f"the body has {len(body)} bytes, more than `max_body`: {self.config.max_body}")
            if len(body) > _OFF_THE_LOOP or (codings and len(body) > _OFF_THE_LOOP // _MOST_UNPACKED):
                edited = await asyncio.to_thread(self._edited, body, codings, parameters, is_json)
            else:
                edited = self._edited(body, codings, parameters, is_json)
        except PluginError as error:
            self._unreadable(str(error))
            return
        if edited is None:
            self._answers.add("unchanged")
            return
        self._answers.add("edited")
        response.set_body(edited)
        for name in _OF_THE_FORMER_BODY:
            headers.discard(name)
        self._weaken_etag(response)
        if "charset=" in parameters:
            headers["content-type"] = f"{kind.strip()}; charset=utf-8"

    @staticmethod
    def _weaken_etag(response: Response) -> None:
        etag = response.headers.get("etag", "")
        if etag.startswith('"'):  # the client's bytes are not those that it stood for
            response.headers["etag"] = f"W/{etag}"

    def _edited(self, body: bytes, codings: tuple[str, ...], parameters: str, is_json: bool) -> bytes | None:
        """A body with the edits done; `None` where there are none to do."""
        plain = _as_utf8(unpack(body, codings, self.config.max_body), parameters)
        try:
            root = [self._decode(plain)]
        except (msgspec.DecodeError, RecursionError) as error:
            if not is_json:
                return None
            raise PluginError(f"the body isn't JSON that can be read: {error}") from None
        changed = False
        for edit in self._edits:
            changed |= edit.apply(root)
        if not changed:
            return None
        try:
            return pack(self._encode(root[0]), codings)
        except RecursionError:
            raise PluginError("the body is too deep to be written") from None

    def _unreadable(self, why: str) -> None:
        self._answers.add("unreadable")
        if self.config.unreadable == "fail":
            raise PluginError(f"{why}; `unreadable: pass` would hand it on unedited")
        self.log.warning("answer handed on unedited: %s", why)


def _compiled(edit: BodyEdit, where: str) -> Edit:
    value = edit.value
    if edit.json is not None:
        try:
            value = msgspec.json.decode(edit.json)
        except msgspec.DecodeError as error:
            raise ConfigError(f"not valid JSON: {error} - at `{where}.json`") from None
    try:
        return compile_edit(edit.op, edit.path, value=value, to=edit.to, text=edit.text, keep=edit.keep)
    except ConfigError as error:
        raise ConfigError(f"{error} - at `{where}`") from None


def _is_json(kind: str) -> bool:
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def _as_utf8(body: bytes, parameters: str) -> bytes:
    """JSON is UTF-8 (RFC 8259, 8.1); what says that it isn't is taken at its word."""
    charset = parameters.partition("charset=")[2].partition(";")[0].strip(' "')
    if charset in ("", "utf-8", "utf8", "us-ascii"):
        return body.removeprefix(_BOM)
    try:
        return body.decode(charset).encode()
    except (LookupError, UnicodeError, ValueError):
        raise PluginError(f"the body can't be read as {charset[:40]!r}, which its content type names") from None
