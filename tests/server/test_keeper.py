"""While there is no runner, a keeper has APISIX wait for the next one, and lets nothing of the upstream's out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gatewright.errors import ProtocolError
from gatewright.gateways.apisix import calls, replies
from gatewright.gateways.apisix.frames import FrameType
from gatewright.server.drivers.apisix.stand_in import StandIn
from gatewright.settings import Settings

GATEWAY = Path(__file__).parent / "gateway_gap.py"
SEES = """
from gatewright import Plugin
class Sees(Plugin):
    async def on_response(self, request, response):
        response.headers["x-seen"] = "1"
"""
REFUSED = "503 content-type The service is unavailable."


@pytest.mark.long
def test_calls_wait_for_the_next_runner_and_are_refused_if_none_comes(
    plugin_dir: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "r.sock"
    runner = [sys.executable, "-m", "gatewright", "run", "--listen", f"unix:{path}", "-p", plugin_dir(sees=SEES)]
    done = subprocess.run(
        [sys.executable, GATEWAY, path, "sees", *runner], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "served: 0 content-length,content-type,x-secret,x-seen ",
        "before the next one comes: {}",
        "waited: 0 content-length,content-type,x-secret,x-seen ",
        "waited, pooled: 0 content-length,content-type,x-secret,x-seen ",
        f"given up: {REFUSED} | SERVICE_UNAVAILABLE | True",
    ]


def first(answer: bytes) -> bytes:
    """The frame in front; so much comes after it that the gateway can't have read it."""
    size = int.from_bytes(answer[1:4], "big") + 4
    assert len(answer) - size > 2 * 4096
    return answer[:size]


def test_what_is_said_in_each_phase() -> None:
    prepare = calls.encode_prepare_conf("route#1", [("a", "{}")])
    stand_in = StandIn(Settings())
    assert stand_in.refusal(prepare[:7]) == b""
    assert replies.decode_conf_token(first(stand_in.refusal(prepare[7:]))) > 0
    request = calls.encode_http_req_call(
        id=3, conf_token=1, src_ip=b"\x7f\0\0\1", method="GET", path="/", args=[], headers=[]
    )
    assert replies.decode_error(first(StandIn(Settings()).refusal(request))) == replies.ErrorCode.SERVICE_UNAVAILABLE
    response = calls.encode_http_resp_call(id=4, conf_token=1, status=200, headers=[("X-Secret", "1")])
    number, reply = replies.decode_resp_reply(first(StandIn(Settings()).refusal(response)))
    assert (number, reply.status, reply.body) == (4, 503, b"The service is unavailable.\n")
    left = StandIn(Settings(response_failure="gateway"))
    assert left.refusal(response)[0] == FrameType.ERROR
    with pytest.raises(ProtocolError):
        StandIn(Settings()).refusal(b"GWL1....")


def test_what_the_next_runner_says_ends_with_its_answer() -> None:
    stand_in = StandIn(Settings())
    question = replies.encode_info_request(replies.InfoRequest(replies.InfoType.RESP_BODY))
    answer = replies.encode_no_action(3)
    assert not stand_in.passed_on(b"", question + answer[:5])
    assert stand_in.passed_on(b"", answer[5:])
