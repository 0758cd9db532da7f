"""A runner that counts nothing: what metrics cost is measured against it (`benchmarks.run --uncounted`).

Takes the lines that count out of the hot path's functions, and runs the usual command.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

from gatewright.cli import main
from gatewright.runtime.chain import Chain
from gatewright.server.drivers.apisix.connection import Connection

_COUNTS = re.compile(
    r"\s*(tally = step\.|tally\.counts\[|tally\.seconds |\w+(\.\w+)*\.(bytes_in|bytes_out|answered) \+= )"
)


def uncounted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without the lines that count."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    left = [line for line in lines if not _COUNTS.match(line)]
    if len(left) == len(lines):
        raise SystemExit(f"{function.__qualname__} counts nothing any more: this benchmark needs mending")
    source = re.sub(r"(if response is not None:\n)(\s*)(elif)", r"\1\2    pass\n\2\3", "\n".join(left))
    space: dict[str, Any] = {}
    exec(compile(source, f"<{function.__qualname__}, uncounted>", "exec"), function.__globals__, space)
    made: Callable[..., Any] = space[function.__name__]
    return made


for owner, name in ((Chain, "run_request"), (Connection, "data_received"), (Connection, "_serve")):
    setattr(owner, name, uncounted(getattr(owner, name)))

if __name__ == "__main__":
    main()
