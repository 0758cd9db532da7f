"""Taking snippets and commands out of the documents that describe the older runners, so that nobody retypes them.

Two of the documents lost their indentation when they were published. There, the test gives the depth of each line (and
nothing else): `0` to `9`, one character a line.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import shared

DEVELOPER_GUIDE = "apisix-python-runner-0.1.0-developer-guide.txt"
BLOG_EN = "apisix-python-runner-blog.en.md"
BLOG_ZH = "apisix-python-runner-blog.zh.md"
GUIDE = "python-plugin-guide.zh.txt"


def text(document: str) -> str:
    return shared("seeds", document).read_text(encoding="utf-8")


def fenced(document: str, language: str, containing: str) -> str:
    """The fenced block of a Markdown document that contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", text(document), re.DOTALL)
    found = [block for block in blocks if containing in block]
    assert len(found) == 1, f"{len(found)} blocks of {document} contain {containing!r}"
    return found[0]


def flat(document: str, first: str, last: str, depths: str, after: str = "") -> str:
    """The lines from `first` to `last` (looked for behind `after`), indented to the given depths."""
    lines = [line.strip() for line in text(document).splitlines()]
    start = lines.index(after) if after else 0
    begin = lines.index(first, start)
    end = next(i for i in range(begin, len(lines)) if lines[i] == last)
    chosen = [line for line in lines[begin : end + 1] if line]
    assert len(chosen) == len(depths), f"{len(chosen)} lines from {first!r}, {len(depths)} depths"
    return "\n".join("    " * int(depth) + line for line, depth in zip(chosen, depths, strict=True)) + "\n"


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    return path
