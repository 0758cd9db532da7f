"""The development gateway's answer to a call that failed: the cause, and what a real gateway would have sent."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from gatewright.dev.answers import with_page
from gatewright.dev.front import Handler
from gatewright.dev.inspector.inspector import Inspector
from gatewright.dev.inspector.records import record_of
from gatewright.dev.messages import Answer, ClientRequest
from gatewright.dev.trail import Trail, current_trail
from gatewright.redaction import redact

__all__ = ["explaining"]

_WAIT_SECONDS: Final = 0.3
_LOOK_SECONDS: Final = 0.005
_FAILED: Final = ("failed", "timed out", "not called")
_OURS: Final = str(Path(__file__).resolve().parents[1])
_ONLY_HERE: Final = "This page is the development gateway's: a real one tells nobody."


def explaining(
    handler: Handler,
    inspector: Inspector | None,
    why_blocked: Callable[[], list[str]],
    hints: Callable[[str], list[str]] = lambda _: [],
    url_of: Callable[[int], str] = lambda _: "",
) -> Handler:
    """A gateway's handler whose answers to failed calls tell the cause.

    Args:
        handler: the gateway's, followed by the inspector.
        inspector: who follows; without one, answers stay as they are.
        why_blocked: why no request may pass just now; nothing if they may.
        hints: what was found out about a plugin beforehand: what is wrong, where, and how it's mended; for no name,
            what else is known of a failure that nobody told of. It may take its time.
        url_of: gives the inspector's page of a call, by the number of its record; nothing if there is none.
    """

    async def explained(request: ClientRequest) -> Answer:
        blocked = why_blocked()
        if blocked:
            return _told(request, Answer(503, page=True), [_Cause("nothing is guarded as it should be", lines=blocked)])
        answer = await handler(request)
        trail = current_trail()
        if inspector is None or trail is None or answer.status < 500:
            return answer
        await _until_told(trail)
        record = record_of(trail, inspector.gateway)
        causes = await asyncio.to_thread(lambda: list(_causes(record, hints)))
        return _told(request, answer, causes, url_of(record["id"])) if causes else answer

    return explained


async def _until_told(trail: Trail) -> None:
    """Wait a moment for what the runner tells of the call: it comes on another connection."""
    for _ in range(int(_WAIT_SECONDS / _LOOK_SECONDS)):
        if all(phase.record is not None or phase.ticket is None for phase in trail.phases):
            return
        await asyncio.sleep(_LOOK_SECONDS)


class _Cause:
    """Why a call failed.

    Attributes:
        title: in one line.
        lines: more.
        frames: where, the innermost last, as records have them.
    """

    def __init__(self, title: str, *, lines: Sequence[str] = (), frames: Sequence[dict[str, Any]] = ()) -> None:
        self.title = redact(title)
        self.lines = [redact(line) for line in lines]
        self.frames = list(frames)

    def own_frames(self) -> list[dict[str, Any]]:
        """Frames of the author's own code, where it happened first."""
        own = [frame for frame in self.frames if frame.get("own")]
        others = [frame for frame in self.frames[-1:] if not frame["file"].startswith(_OURS)]
        return list(reversed(own or others))


def _causes(record: dict[str, Any], hints: Callable[[str], list[str]]) -> Iterator[_Cause]:
    for phase in record["phases"]:
        told = False
        for plugin in phase["plugins"]:
            if plugin["outcome"] not in _FAILED or (plugin["outcome"] == "not called" and not phase.get("refused")):
                continue
            if plugin["outcome"] == "not called" and str(plugin["why"]).startswith(("not reached", "no handler")):
                continue
            told = True
            error = plugin["error"] or {}
            where = f"{plugin['name']}, on_{phase['name']}" if phase.get("stage") != phase["name"] else plugin["name"]
            title = f"{where}: {error['type']}: {error['text']}" if error.get("type") else f"{where}: {plugin['why']}"
            cause = _Cause(title, frames=error.get("frames", ()))
            if not any(frame.get("own") for frame in cause.frames):
                cause.lines = [redact(line) for line in hints(plugin["name"])]
            yield cause
        if not told and (phase.get("refused") or phase.get("error")):
            why = phase.get("refused") or phase["error"]
            yield _Cause(
                f"{phase.get('stage') or phase['name']}: {why}",
                lines=[*(n["text"] for n in phase["notes"]), *hints("")],
            )


def _told(request: ClientRequest, answer: Answer, causes: Sequence[_Cause], url: str = "") -> Answer:
    """The page instead of an answer, with the same status and headers."""
    accept = next((value for name, value in request.headers if name.lower() == "accept"), "")
    as_html = "text/html" in accept
    would = with_page(answer)
    text = _html(would, causes, url) if as_html else _text(would, causes, url)
    kept = [
        (n, v) for n, v in answer.headers if n.lower() not in ("content-type", "content-length", "content-encoding")
    ]
    kind = "text/html; charset=utf-8" if as_html else "text/plain; charset=utf-8"
    body = text.encode("utf-8", "surrogateescape")
    headers = [
        *kept,
        ("X-Gatewright-Development", "failure"),
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
    ]
    return Answer(would.status, headers, body, framing="content-length", close=would.close, server=answer.server)


def _production(would: Answer) -> str:
    body = (would.body or b"")[:2000].decode("utf-8", "replace").strip()
    return f"{would.status}" + (f"\n{body}" if body else ", without a body")


def _text(would: Answer, causes: Sequence[_Cause], url: str) -> str:
    out = []
    for cause in causes:
        out += [cause.title, *(f"  {line}" for line in cause.lines)]
        for frame in cause.own_frames():
            out += [f"  {frame['file']}:{frame['line']}, in {frame['function']}", *_source(frame)]
        out.append("")
    out += [f"All of this call: {url}", ""] if url else []
    out += [
        f"(development only: a real gateway would have sent {would.status} and its own page, and told nobody why)",
        "",
    ]
    return "\n".join(out)


def _source(frame: dict[str, Any]) -> list[str]:
    first = frame.get("first", frame["line"])
    return [
        f"  {'>' if number == frame['line'] else ' '} {number:4d}  {redact(line.rstrip())}"
        for number, line in enumerate(frame.get("source") or (), first)
    ]


def _marked_source(frame: dict[str, Any]) -> str:
    """The source as HTML, the line in question marked."""
    lines = (html.escape(line) for line in _source(frame))
    return "\n".join(f"<mark>{line}</mark>" if line.startswith("  &gt;") else line for line in lines)


def _html(would: Answer, causes: Sequence[_Cause], url: str) -> str:
    parts = []
    for cause in causes:
        parts.append(f"<h1>{html.escape(cause.title)}</h1>")
        parts += [f"<p>{html.escape(line)}</p>" for line in cause.lines]
        for frame in cause.own_frames():
            place = f"{frame['file']}:{frame['line']}, in {frame['function']}"
            parts.append(f"<h2>{html.escape(place)}</h2><pre>{_marked_source(frame)}</pre>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A plugin failed</title>'
        '<meta name="viewport" content="width=device-width"><style>'
        ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;"
        "padding:0 1rem}"
        "h1{font-size:1.2rem;color:#c33}h2{font-size:.9rem;font-weight:600}pre{overflow:auto;padding:.8rem;"
        "background:color-mix(in srgb,currentColor 8%,transparent);border-radius:6px}"
        "mark{background:color-mix(in srgb,#c33 25%,transparent);color:inherit}</style></head><body>"
        + "".join(parts)
        + (f'<p><a href="{html.escape(url)}">All of this call, in the inspector</a></p>' if url else "")
        + f"<p>{html.escape(_ONLY_HERE)}</p><details><summary>What a real gateway would have sent</summary>"
        + f"<pre>{html.escape(_production(would))}</pre></details></body></html>\n"
    )
