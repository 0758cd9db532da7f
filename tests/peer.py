"""The gateway's side of the APISIX protocol over a blocking socket, as small as a test wants it."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from gatewright.gateways.apisix import calls, replies
from gatewright.gateways.apisix.frames import FrameType
from gatewright.gateways.apisix.replies import InfoRequest, RespReply, Rewrite, Stop

Answers = Mapping[str, "bytes | None"] | Callable[[InfoRequest], "bytes | None"]
USUAL: Mapping[str, bytes] = {"request_method": b"GET", "server_protocol": b"HTTP/1.1", "upstream_uri": b""}
"""What is answered unless a test says otherwise."""


class Refused(Exception):
    """The runner answered with an error frame."""

    def __init__(self, code: int) -> None:
        super().__init__(replies.ErrorCode(code).name)
        self.code = replies.ErrorCode(code)


class Peer:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.asked: list[InfoRequest] = []

    @classmethod
    def connect(cls, path: Path | str) -> Peer:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            raise
        return cls(sock)

    def close(self) -> None:
        self.sock.close()

    def is_closed(self) -> bool:
        """Whether the runner has closed the connection, and nothing of what it said is unread."""
        if not select.select([self.sock], [], [], 0)[0]:
            return False
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, frame: bytes) -> None:
        self.sock.sendall(frame)

    def receive(self) -> bytes:
        head = self._exactly(4)
        return head + self._exactly(int.from_bytes(head[1:], "big"))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self.sock.recv(size - len(data))
            if not chunk:
                raise EOFError("the runner closed the connection")
            data += chunk
        return data

    def prepare(self, *conf: tuple[str, str], key: str = "route#1#ext-plugin-pre-req#1") -> int:
        self.send(calls.encode_prepare_conf(key, conf))
        frame = self.receive()
        if frame[0] == FrameType.ERROR:
            raise Refused(replies.decode_error(frame))
        assert frame[0] == FrameType.PREPARE_CONF
        return replies.decode_conf_token(frame)

    def request(
        self,
        token: int,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Sequence[tuple[str, str | None]] = (("host", "example.com"),),
        args: Sequence[tuple[str, str | None]] = (),
        src_ip: bytes = b"\x7f\0\0\1",
        id: int = 0,
        answers: Answers = MappingProxyType({}),
    ) -> Stop | Rewrite | None:
        self.send(
            calls.encode_http_req_call(
                id=id, conf_token=token, src_ip=src_ip, method=method, path=path, args=args, headers=headers
            )
        )
        frame = self._answer(FrameType.HTTP_REQ_CALL, answers)
        got, action = replies.decode_req_reply(frame)
        assert got == id
        return action

    def begin(self, token: int, path: str = "/", headers: Sequence[tuple[str, str | None]] = ()) -> None:
        """Send a request without waiting for its answer."""
        self.send(
            calls.encode_http_req_call(
                id=0, conf_token=token, src_ip=b"\x7f\0\0\1", method="GET", path=path, args=(), headers=headers
            )
        )

    def end(self) -> Stop | Rewrite | None:
        """Wait for the answer to what was begun."""
        return replies.decode_req_reply(self._answer(FrameType.HTTP_REQ_CALL, {}))[1]

    def refuses(self, token: int, path: str = "/", headers: Sequence[tuple[str, str | None]] = ()) -> bool:
        """Whether a request is refused."""
        try:
            self.request(token, path, headers=headers)
        except Refused:
            return True
        return False

    def response(
        self,
        token: int,
        status: int = 200,
        *,
        headers: Sequence[tuple[str, str | None]] = (("Content-Type", "text/plain"),),
        id: int = 0,
        answers: Answers = MappingProxyType({}),
    ) -> RespReply:
        self.send(calls.encode_http_resp_call(id=id, conf_token=token, status=status, headers=headers))
        got, reply = replies.decode_resp_reply(self._answer(FrameType.HTTP_RESP_CALL, answers))
        assert got == id
        return reply

    def _answer(self, kind: int, answers: Answers) -> bytes:
        while True:
            frame = self.receive()
            if frame[0] == FrameType.EXTRA_INFO:
                question = replies.decode_info_request(frame)
                self.asked.append(question)
                name = question.name or replies.InfoType(question.kind).name
                value = answers(question) if callable(answers) else answers.get(name, USUAL.get(name))
                self.send(calls.encode_extra_info_result(value))
                continue
            if frame[0] == FrameType.ERROR:
                raise Refused(replies.decode_error(frame))
            assert frame[0] == kind
            return frame
