"""`on_log` for requests that a plugin answered: the one end of a request that APISIX lets a runner see.

A request that goes on ends where nobody tells the runner of it, unless its answer comes to the response phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from gatewright.datastructures import Headers
from gatewright.errors import NotAvailableError
from gatewright.http import Call, Question, Response
from gatewright.runtime.chain import Chain
from gatewright.runtime.strands import Strand
from gatewright.server.worker.service import Service

__all__ = ["tell_of_answer"]


def tell_of_answer(service: Service, chain: Chain, call: Call, response: Response) -> None:
    """Have plugins told, once the answer is written.

    Args:
        service: the worker's.
        chain: whose plugins want to know.
        call: the request.
        response: what it is answered with.
    """
    service.bridge.start_soon(partial(_tell, service, chain, response), call)


def _tell(service: Service, chain: Chain, response: Response, strand: Strand, call: Call) -> None:
    """Runs in a strand."""
    if service.started - service.ended >= service.max_calls:
        service.count_refused("log")
        return
    service.started += 1
    service.logs += 1
    headers = response.headers.multi_items()
    call.response_status, call.response_source = response.status, lambda: list(headers)
    call.seen_response_headers = None
    call.asker = _Nobody()
    strand.call = call
    try:
        chain.run_log(call, strand)
    except BaseException as error:  # ours, not a plugin's; there is nobody to be answered
        if strand.dies:
            raise
        service.failures.report("a log phase is lost", kind="internal", error=error, traceback=True)
    finally:
        service.ended += 1
        if service.draining:
            service.call_ended()


class _Nobody:
    """The gateway has its answer, and takes no questions about this request any more (see `gatewright.http.Asker`)."""

    is_over = True

    async def ask(self, call: Call, question: Question) -> bytes | None:
        self._refuse()

    def ask_sync(self, call: Call, question: Question) -> bytes | None:
        self._refuse()

    def ask_here(self, call: Call, questions: Sequence[Question]) -> list[bytes | None]:
        self._refuse()

    def reading(self, call: Call, question: Question) -> NoReturn:
        self._refuse()

    def find_header(self, headers: Headers, name: str) -> str | None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise NotAvailableError("the request has its answer: the gateway can't be asked for more of it in on_log")
