"""Connections whose calls are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from gatewright.errors import GatewrightError
from gatewright.gateways.events import Session
from gatewright.http import Call, Question, RequestCall
from gatewright.observe.recording import Recorder
from gatewright.runtime.records import CallRecord
from gatewright.runtime.strands import Strand
from gatewright.server.drivers.apisix.connection import Connection
from gatewright.server.worker.service import Service

__all__ = ["RecordedConnection"]


class RecordedConnection(Connection):
    """Begins and ends the record of each call, and notes what is asked in it."""

    def __init__(self, service: Service, session: Session) -> None:
        super().__init__(service, session)
        self._recorder = cast("Recorder", service.recorder)
        self._serve_plainly = super()._serve  # looking it up costs as much as the record

    def _serve(self, strand: Strand, call: Call) -> None:
        recorder = self._recorder
        if recorder.at_rest and not recorder.wake():
            self._serve_plainly(strand, call)
            return
        phase = "request" if type(call) is RequestCall else "response"
        record = call.record = CallRecord(call.source.id, phase, strand.began)
        try:
            self._serve_plainly(strand, call)
        finally:
            call.record = None
            record.route = call.route
            recorder.end(record)
            if recorder.at_rest:
                recorder.flush_soon()

    def _refusal_of(self, error: GatewrightError, call: Call) -> bytes:
        if call.record is not None:
            call.record.refused = str(error)
        return super()._refusal_of(error, call)

    async def ask(self, call: Call, question: Question) -> bytes | None:
        """See `AskingConnection.ask`."""
        record: CallRecord | None = call.record
        if record is None:
            return await super().ask(call, question)
        asked = record.asks(question)
        try:
            answer = await super().ask(call, question)
        except BaseException as error:
            asked.failed(error)
            raise
        asked.answered(answer)
        return answer

    def ask_sync(self, call: Call, question: Question) -> bytes | None:
        """See `AskingConnection.ask_sync`."""
        record: CallRecord | None = call.record
        if record is None:
            return super().ask_sync(call, question)
        asked = record.asks(question)
        try:
            answer = super().ask_sync(call, question)
        except BaseException as error:
            asked.failed(error)
            raise
        asked.answered(answer)
        return answer

    def ask_here(self, call: Call, questions: Sequence[Question]) -> list[bytes | None]:
        """See `AskingConnection.ask_here`."""
        record: CallRecord | None = call.record
        if record is None:
            return super().ask_here(call, questions)
        noted = [record.asks(question) for question in questions]
        try:
            answers = super().ask_here(call, questions)
        except BaseException as error:
            for asked in noted:
                asked.failed(error)
            raise
        for asked, answer in zip(noted, answers, strict=True):
            asked.answered(answer)
        return answers
