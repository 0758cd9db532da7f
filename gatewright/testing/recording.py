"""Records of a test client's requests, in the form that `gatewright inspect FILE` shows (`docs/inspector.md`)."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter, time

from gatewright.dev.inspector.inspector import Inspector
from gatewright.observe.recording import LogTap, Recorder
from gatewright.runtime.records import CallRecord

__all__ = ["HereRecorder"]


class HereRecorder(Recorder):
    """Records calls, and gives the records to an inspector in the same process."""

    def __init__(self, inspector: Inspector) -> None:
        self.inspector = inspector
        self.at_rest = False
        self.end = self._tell
        self._tap = LogTap()
        self._tap.attach()

    @classmethod
    def to_file(cls, file: Path, gateway: str, version: str, *, server: str, charset: bool) -> HereRecorder:
        """One that writes each request's record to a file.

        Args:
            file: the file.
            gateway: `apisix` or `kong`.
            version: of it.
            server: what the gateway calls itself.
            charset: see `answers.response_head`.

        Raises:
            ConfigError: the file can't be written.
        """
        facts = {"name": gateway, "version": version}
        return cls(Inspector(facts, server_header=server, charset=charset, file=file))

    def _tell(self, record: CallRecord) -> None:
        record.move(time() - perf_counter())
        self.inspector.receiver.on_record(record)

    def close(self) -> None:
        """Write down what is left."""
        self._tap.detach()
        self.inspector.close()
