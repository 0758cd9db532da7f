"""Showing a file of records: the same page, without a gateway."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from gatewright.dev.inspector.book import Book
from gatewright.dev.inspector.facts import Facts
from gatewright.dev.inspector.inspector import Inspector
from gatewright.dev.inspector.records import VERSION
from gatewright.dev.inspector.web import Page
from gatewright.errors import ConfigError, ListenError

__all__ = ["look_at", "read_records"]


async def look_at(file: Path, port: int | None, *, as_json: bool = False) -> None:
    """Serve the page until it's interrupted.

    Args:
        file: the records.
        port: where; `None` for the usual port or any that is free.
        as_json: say what there is as JSON.

    Raises:
        ConfigError: the file is none of records.
        ListenError: the port is taken.
    """
    book, gateway = await asyncio.to_thread(read_records, file)
    inspector = Inspector(gateway, server_header="", charset=True, book=book)
    page = Page(inspector, Facts(live=False))
    try:
        await page.start(port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ListenError(f"127.0.0.1:{port}: {reason}; choose another one with --port") from None
    try:
        kept = f" (the last {len(book)} of {len(book) + book.dropped})" if book.dropped else ""
        count = f"{len(book)} request{'s' * (len(book) != 1)}"
        if as_json:
            told = {"url": page.url, "file": str(file), "requests": len(book), "left_out": book.dropped}
            print(json.dumps(told), flush=True)
        else:
            print(f"{count} of {file}{kept}: {page.url}\nStop with Ctrl-C.", flush=True)
        await asyncio.Event().wait()
    finally:
        await page.stop()
        inspector.close()


def read_records(file: Path) -> tuple[Book, dict[str, str]]:
    """The records of a file, and what gateway they are of.

    Raises:
        ConfigError: it can't be read, or a line is no record; the message says which.
    """
    book, gateway = Book(), {"name": "apisix", "version": ""}
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    record = _record(file, number, line)
                    gateway = record["gateway"]
                    book.put(record)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is no file of records: it is not text") from None
    return book, gateway


def _record(file: Path, number: int, line: str) -> dict[str, Any]:
    where = f"{file}, line {number}"
    try:
        record: dict[str, Any] = json.loads(line)
        version = record["version"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{where}: no record of `gatewright dev --record`") from None
    if version != VERSION:
        raise ConfigError(f"{where}: a record of version {version}; this Gatewright reads version {VERSION}")
    if not (isinstance(record.get("gateway"), dict) and isinstance(record.get("phases"), list)):
        raise ConfigError(f"{where}: no record of `gatewright dev --record`")
    return record
