"""The client of a runner's control socket."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

from gatewright.errors import GatewrightError

__all__ = ["ControlError", "ask", "ask_json"]


class ControlError(GatewrightError):
    """The runner could not be asked; the message says why and what to do."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: str, target: str, *, method: str = "GET", timeout: float = 10.0) -> tuple[int, bytes]:
    """Ask a runner over its control socket.

    Args:
        path: the control socket's.
        target: what to ask for, e.g. `/status`.
        method: GET, or POST for what changes something.
        timeout: seconds to wait for an answer.

    Returns:
        Status and body.

    Raises:
        ControlError: nobody answers.
    """
    connection = _Connection(path, timeout)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read()
    except FileNotFoundError:
        raise ControlError(
            f"{path} is not there: no runner runs with this control socket; name it: --listen, or --control"
        ) from None
    except ConnectionRefusedError:
        raise ControlError(f"{path}: nobody listens; the runner that made it was killed") from None
    except PermissionError:
        raise ControlError(f"{path}: only the user who runs the runner, or root, may do this") from None
    except TimeoutError:
        raise ControlError(f"{path}: no answer within {timeout:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise ControlError(f"{path}: {error}") from None
    finally:
        connection.close()


def ask_json(path: str, target: str, *, method: str = "GET", timeout: float = 10.0) -> tuple[int, dict[str, Any]]:
    """As `ask`, with the body read as JSON."""
    status, body = ask(path, target, method=method, timeout=timeout)
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ControlError(f"{path}: not a Gatewright runner's control socket: it answered {status} {body[:80]!r}")
    return status, content
