"""Content codings (RFC 9110, 8.4): bodies unpacked within a limit, and packed again the same way.

What unpacks to more than a limit is refused while it is unpacked, so that a small body that stands for gigabytes costs
no more memory than the limit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from typing import Final

from gatewright import PluginError

__all__ = ["CodingError", "codings_of", "pack", "unpack"]

_MOST_CODINGS: Final = 3
"""Nobody packs a body more often; each costs an unpacking up to the limit."""
_PIECE: Final = 1 << 16
_Coding = tuple[Callable[[bytes, int], bytes], Callable[[bytes], bytes]]
"""How it is undone, within a limit, and how it is done."""


class CodingError(PluginError):
    """A body can't be unpacked: damaged, too large, or of a coding that isn't known here."""


def codings_of(values: Iterable[str]) -> tuple[str, ...]:
    """The codings that `Content-Encoding` headers name, in the order in which they were applied."""
    names = (name.strip().lower() for value in values for name in value.split(","))
    return tuple(name for name in names if name not in ("", "identity"))


def unpack(body: bytes, codings: Sequence[str], limit: int) -> bytes:
    """A body without its codings.

    Args:
        body: as it came.
        codings: what `codings_of` gave.
        limit: bytes that it may have at most, at each step.

    Raises:
        CodingError: it can't be unpacked, or not within the limit.
    """
    if len(codings) > _MOST_CODINGS:
        raise CodingError(f"the body has {len(codings)} content codings, more than {_MOST_CODINGS}")
    for coding in reversed(codings):
        body = _coding(coding)[0](body, limit)
    return body


def pack(body: bytes, codings: Sequence[str]) -> bytes:
    """A body with codings applied, in this order.

    Raises:
        CodingError: a coding isn't known here.
    """
    for coding in codings:
        body = _coding(coding)[1](body)
    return body


def _coding(name: str) -> _Coding:
    if name == "br" and find_spec("brotli") is None:
        raise CodingError("the body's content coding is br, which needs brotli: pip install 'gatewright[brotli]'")
    try:
        return _CODINGS[name]
    except KeyError:
        raise CodingError(f"content coding {name[:40]!r} isn't known: there are {', '.join(_CODINGS)}") from None


def _too_large(limit: int) -> CodingError:
    return CodingError(f"the body unpacks to more than {limit} bytes")


def _inflate(body: bytes, limit: int, window: int) -> bytes:
    """Unpack one zlib stream, or, of gzip, any number of members."""
    whole = bytearray()
    while True:
        stream = zlib.decompressobj(window)
        try:
            whole += stream.decompress(body, limit + 1 - len(whole))
        except zlib.error as error:
            raise CodingError(f"the body's compression is damaged: {error}") from None
        if len(whole) > limit:
            raise _too_large(limit)
        if not stream.eof:
            raise CodingError("the body's compression breaks off")
        body = stream.unused_data.lstrip(b"\0") if window > zlib.MAX_WBITS else b""  # gzip may be padded with zeros
        if not body:
            return bytes(whole)


def _gunzip(body: bytes, limit: int) -> bytes:
    return _inflate(body, limit, zlib.MAX_WBITS + 16)


def _undeflate(body: bytes, limit: int) -> bytes:
    # The coding is zlib's format, but some servers send the bare stream, and clients bear it (RFC 9110, 8.4.1.2).
    is_zlib = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return _inflate(body, limit, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)


def _gzip(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=zlib.MAX_WBITS + 16)
    return stream.compress(body) + stream.flush()


def _deflate(body: bytes) -> bytes:
    return zlib.compress(body)


def _unbrotli(body: bytes, limit: int) -> bytes:
    import brotli

    stream, whole = brotli.Decompressor(), bytearray()
    try:
        piece = stream.process(body, output_buffer_limit=_PIECE)
        while piece:
            whole += piece
            piece = stream.process(b"", output_buffer_limit=_PIECE) if len(whole) <= limit else b""
    except brotli.error as error:
        raise CodingError(f"the body's compression is damaged: {error}") from None
    if len(whole) > limit:
        raise _too_large(limit)
    if not stream.is_finished():
        raise CodingError("the body's compression breaks off")
    return bytes(whole)


def _brotli(body: bytes) -> bytes:
    import brotli

    packed: bytes = brotli.compress(body, quality=4)  # higher ones take ten times as long for some percent
    return packed


_CODINGS: Final[dict[str, _Coding]] = {
    "gzip": (_gunzip, _gzip),
    "x-gzip": (_gunzip, _gzip),
    "deflate": (_undeflate, _deflate),
    "br": (_unbrotli, _brotli),
}
