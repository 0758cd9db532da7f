"""The inspector beside a development gateway: started before it, stopped after it, or not there at all."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gatewright.dev.front import Handler
from gatewright.dev.inspector.facts import Facts
from gatewright.dev.inspector.inspector import Inspector
from gatewright.dev.inspector.web import Page
from gatewright.errors import ListenError

__all__ = ["NO_INSPECTION", "InspectOptions", "Inspection", "inspecting"]


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """What is wanted.

    Attributes:
        page: serve the page.
        port: where; `None` for the usual one, or any that is free.
        record: a file to write each record to.
        follow: follow requests in any case: somebody wants to know why one failed.
    """

    page: bool = True
    port: int | None = None
    record: Path | None = None
    follow: bool = False


NO_INSPECTION: Final = InspectOptions(page=False)


@dataclass(slots=True)
class Inspection:
    """A running inspector, or none.

    Attributes:
        inspector: the inspector; `None` if none is wanted.
        environ: what runners must have in their environment.
        watch: what the gateway puts around its handler.
    """

    inspector: Inspector | None
    environ: Mapping[str, str]
    watch: Callable[[Handler], Handler]
    options: InspectOptions = NO_INSPECTION
    page: Page | None = None

    def url_of(self, number: int) -> str:
        """The page of one call, by its record's number; nothing without a page."""
        return f"{self.page.url}#/calls/{number}" if self.page is not None else ""

    async def show(self, facts: Facts) -> str:
        """Serve the page, if one is wanted; gives its address, or nothing.

        Raises:
            ListenError: its port is taken.
        """
        if self.inspector is None or not self.options.page:
            return ""
        page = Page(self.inspector, facts)
        try:
            await page.start(self.options.port)
        except OSError as error:
            await page.stop()
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ListenError(
                f"127.0.0.1:{self.options.port}: {reason}; choose another one with --inspect-port"
            ) from None
        self.page = page
        return page.url

    def changed(self, facts: Facts) -> None:
        """Plugins or routes have changed."""
        if self.page is not None:
            self.page.facts = facts


@asynccontextmanager
async def inspecting(
    options: InspectOptions, directory: str, gateway: Mapping[str, str], *, server_header: str, charset: bool
) -> AsyncIterator[Inspection]:
    """Have an inspector for as long as a gateway runs.

    Args:
        options: what is wanted.
        directory: a private one, for the socket that runners tell of their calls on.
        gateway: what the gateway is: `name` (`apisix` or `kong`), `version`.
        server_header: what it calls itself.
        charset: see `answers.response_head`.

    Raises:
        ConfigError: the file can't be written.
    """
    if not options.page and options.record is None and not options.follow:
        yield Inspection(None, {}, lambda handler: handler)
        return
    inspector = Inspector(gateway, server_header=server_header, charset=charset, file=options.record)
    socket = f"{directory}/record.sock"
    inspection: Inspection | None = None
    try:
        await inspector.receiver.start(socket)
        inspection = Inspection(inspector, {"GATEWRIGHT_RECORD": f"unix:{socket}"}, inspector.watch, options)
        yield inspection
    finally:
        if inspection is not None and inspection.page is not None:
            await inspection.page.stop()
        await inspector.receiver.stop()
        inspector.close()
