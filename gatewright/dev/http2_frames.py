"""HTTP/2's frames one by one, and how long a request's headers are in them, which is what nginx counts.

The library that reads them doesn't tell. (`$request_length` has the compressed headers, without padding and priority.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["Frames"]

_HEAD: Final = 9
_HEADERS: Final = 1
_CONTINUATION: Final = 9
_PADDED: Final = 0x8
_PRIORITY: Final = 0x20


class Frames:
    """Divides what comes on a connection.

    Attributes:
        head_sizes: bytes of the headers, by stream.
    """

    def __init__(self, preface: int) -> None:
        """Begin with a connection.

        Args:
            preface: bytes before the first frame.
        """
        self._data = bytearray()
        self._preface = preface
        self.head_sizes: dict[int, int] = {}

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Take bytes in; gives what came before the first frame, and frames once they are whole."""
        self._data += data
        if self._preface and len(self._data) >= self._preface:
            yield self._take(self._preface)
            self._preface = 0
        while not self._preface and len(self._data) >= _HEAD:
            size = _HEAD + int.from_bytes(self._data[:3], "big")
            if len(self._data) < size:
                return
            frame = self._take(size)
            self._count(frame)
            yield frame

    def _take(self, size: int) -> bytes:
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken

    def _count(self, frame: bytes) -> None:
        kind, flags, stream = frame[3], frame[4], int.from_bytes(frame[5:9], "big") & 0x7FFFFFFF
        size = len(frame) - _HEAD
        if kind == _HEADERS and stream not in self.head_sizes:
            if flags & _PADDED and size:
                size -= 1 + frame[_HEAD]
            if flags & _PRIORITY:
                size -= 5
            self.head_sizes[stream] = size
        elif kind == _CONTINUATION and stream in self.head_sizes:
            self.head_sizes[stream] += size
