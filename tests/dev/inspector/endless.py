"""The inspector's page with as many calls as it keeps, while more come.

`python -m tests.dev.inspector.endless FILE MOST RATE`: all calls are copies of FILE's record, RATE of them a second.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from gatewright.dev.inspector.book import Book
from gatewright.dev.inspector.facts import Facts
from gatewright.dev.inspector.inspector import Inspector
from gatewright.dev.inspector.web import Page


async def main(file: Path, most: int, rate: float) -> None:
    record = json.loads(file.read_text())
    book = Book(most=most)
    inspector = Inspector(record["gateway"], server_header="", charset=True, book=book)
    page = Page(inspector, Facts())
    await page.start(0)

    def put(number: int) -> None:
        record["request"]["target"] = f"/orders/{number}"
        book.put({**record, "id": number})

    for number in range(1, most + 1):
        put(number)
    print(page.url, flush=True)
    number = most
    while True:
        await asyncio.sleep(1 / rate)
        number += 1
        put(number)


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
