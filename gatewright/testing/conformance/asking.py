"""A gateway's side of APISIX's protocol, as simple as can be: frames out, frames in, a few seconds at most."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence
from typing import Any, Final, Self

from gatewright.gateways.apisix.calls import encode_http_req_call, encode_prepare_conf
from gatewright.gateways.apisix.frames import FrameType
from gatewright.gateways.apisix.replies import decode_conf_token
from gatewright.settings import Address

__all__ = ["Connection", "Runner"]

_SECONDS: Final = 5.0


class Connection:
    """One connection with a runner."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def frame(self) -> bytes:
        """The next frame, header included; empty if the runner closes the connection instead.

        Raises:
            TimeoutError: nothing comes.
        """
        head = self._exactly(4)
        if len(head) < 4:
            return b""
        return head + self._exactly(int.from_bytes(head[1:], "big"))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = self.sock.recv(size - len(data))
            except ConnectionResetError:
                return data
            if not more:
                return data
            data += more
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


class Runner:
    """Whoever listens at an address."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def connect(self) -> Connection:
        """Open a connection."""
        if self._address.path:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(_SECONDS)
            sock.connect(self._address.path)
        else:
            sock = socket.create_connection((self._address.host, self._address.port), _SECONDS)
        return Connection(sock)

    def prepare(self, conf: Sequence[tuple[str, str]] | None = None, key: str = "") -> int:
        """The token for a configuration."""
        with self.connect() as connection:
            connection.send(encode_prepare_conf(key or f"conformance#{secrets.token_hex(8)}", conf))
            frame = connection.frame()
        assert frame, "the runner closes the connection instead of giving a token"  # noqa: S101
        assert frame[0] == FrameType.PREPARE_CONF, f"PrepareConf is answered with a frame of type {frame[0]}"  # noqa: S101
        return decode_conf_token(frame)

    @staticmethod
    def call(token: int, **more: Any) -> bytes:
        """A request's frame."""
        fields: dict[str, Any] = {
            "id": 1, "src_ip": bytes((127, 0, 0, 1)), "method": "GET", "path": "/", "args": [], "headers": [],
        }  # fmt: skip
        return encode_http_req_call(conf_token=token, **{**fields, **more})

    def ask(self, token: int, **more: Any) -> bytes:
        """The frame that a request is answered with."""
        with self.connect() as connection:
            connection.send(self.call(token, **more))
            return connection.frame()
