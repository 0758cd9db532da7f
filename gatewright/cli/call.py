"""`gatewright call`: one request through one plugin, and what it changed."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatewright.cli._failing import fail
from gatewright.cli._found import plugin_named
from gatewright.cli._names import PluginName
from gatewright.cli._output import say
from gatewright.doctor.code import what_fits
from gatewright.errors import ConfigError, GatewrightError
from gatewright.observe.logs import configure_logs
from gatewright.observe.short_traceback import own_frames
from gatewright.plugin import Plugin
from gatewright.runtime.fitting import check_config

if TYPE_CHECKING:
    from gatewright.testing import Answer, Changes, PdkCall

__all__ = ["call"]


@click.command()
@click.argument("plugin", type=PluginName())
@click.argument("path", default="/")
@click.option("--plugins", "-p", "places", multiple=True, metavar="PATH", help="where to look for it (repeatable)")
@click.option("--config", "-c", default="{}", metavar="JSON", help="its configuration; @FILE reads it from a file")
@click.option("--request", "-X", "method", metavar="METHOD", help="the method  [default: GET, or POST with a body]")
@click.option("--header", "-H", "headers", multiple=True, metavar="NAME: VALUE", help="a header (repeatable)")
@click.option("--data", "-d", metavar="BODY", help="the request's body; @FILE reads it from a file")
@click.option("--answer", metavar="BODY", help="what the upstream answers; @FILE reads it from a file")
@click.option("--answer-status", type=click.IntRange(200, 999), default=200, show_default=True, help="its status")
@click.option("--answer-header", "answer_headers", multiple=True, metavar="NAME: VALUE", help="a header of it")
@click.option("--gateway", type=click.Choice(["auto", "apisix", "kong"]), default="auto", show_default=True,
              help="as whom; auto: Kong for a plugin in kong-pdk's form, otherwise APISIX")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def call(
    plugin: str,
    path: str,
    places: tuple[str, ...],
    config: str,
    method: str | None,
    headers: tuple[str, ...],
    data: str | None,
    answer: str | None,
    answer_status: int,
    answer_headers: tuple[str, ...],
    gateway: Any,
    as_json: bool,
) -> None:
    """Send one request through PLUGIN (a name, or a file that holds one) and show what it changed.

    No gateway is needed, and nothing listens: chain, session and frames are those of production.

    Exit codes: 0 the request went through, 1 the plugin failed, 2 it could not be sent.
    """
    try:
        from gatewright.testing import Response, TestClient
    except ImportError as error:
        fail(f"`gatewright call` needs {error.name}: pip install 'gatewright[dev-gateway]'")
    configure_logs(format="short")
    for name in ("runtime", "dev"):  # what they say is shown below
        logging.getLogger(f"gatewright.{name}").setLevel(logging.CRITICAL)
    try:
        found = plugin_named(plugin, places)
        for_kong = hasattr(found.plugin, "kong_schema")  # kong-pdk's form
        if gateway == "auto":
            gateway = "kong" if for_kong else "apisix"
        body = None if data is None else _content(data)
        upstream = Response(answer_status, _pairs(answer_headers), b"" if answer is None else _content(answer))
        given = _content(config).decode()
        client = TestClient(
            found.plugin, given, gateway=gateway, raise_errors=False, lua_style=for_kong,
            upstream=upstream if answer is not None or answer_status != 200 or answer_headers else None,
        )  # fmt: skip
        with client:
            got = client.request(
                method or ("GET" if body is None else "POST"), path, headers=_pairs(headers), body=body
            )
    except (GatewrightError, ValueError, OSError) as error:
        fail(error)
    click.echo(json.dumps(_plain(got), indent=2)) if as_json else _print(got, found.plugin, given)
    sys.exit(1 if got.refused is not None else 0)


def _content(text: str) -> bytes:
    return Path(text[1:]).read_bytes() if text.startswith("@") else text.encode("utf-8", "surrogateescape")


def _pairs(headers: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = []
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon:
            raise GatewrightError(f"a header is NAME: VALUE, not {header!r}")
        pairs.append((name.strip(), value.strip()))
    return pairs


def _plain(got: Answer) -> dict[str, Any]:
    return {
        "status": got.status,
        "headers": got.headers.multi_items(),
        "body": got.text,
        "refused": str(got.refused) if got.refused is not None else None,
        "upstream": [
            {"method": sent.method, "target": sent.target, "headers": sent.headers.multi_items(),
             "body": sent.body.decode("utf-8", "surrogateescape")}
            for sent in got.upstream_requests
        ],
        "runs": [
            {"plugin": run.plugin, "phase": run.phase, "changes": run.changes.as_dict(),
             "answered": run.answer.status if run.answer is not None else None,
             "pdk": [_pdk_call(call) for call in run.pdk],
             "error": f"{type(run.error).__name__}: {run.error}" if run.error is not None else None}
            for run in got.runs
        ],
    }  # fmt: skip


def _print(got: Answer, plugin: type[Plugin], config: str) -> None:
    for run in got.runs:
        say(f"{run.plugin}, {run.phase}", "head")
        for line in _changes(run.changes):
            say(f"  {line}")
        told = run.pdk if hasattr(plugin, "kong_schema") else []  # ours call the PDK for what is told above
        for line in map(_pdk_call, told):
            say(f"  {line}")
        if run.answer is not None:
            say(f"  answered with {run.answer.status}", "note")
        if run.error is not None:
            say(f"  failed: {type(run.error).__name__}: {run.error}", "problem")
            for frame in reversed(own_frames(run.error)):  # where it happened comes first
                say(f"    {frame.filename}:{frame.lineno}, in {frame.name}\n        {frame.line}")
        if not run.changes and not told and run.answer is None and run.error is None:
            say("  changed nothing")
    if got.refused is not None:
        cause = got.refused.__cause__
        say(f"refused: {got.refused}{f': {cause}' if cause is not None else ''}", "problem")
        if not _fits(plugin, config):
            say(f"  -> -c '{{...}}'; {what_fits(plugin)}")
    for sent in got.upstream_requests:
        say("to the upstream", "head")
        say(f"  {sent.method} {sent.target}")
        for name, value in sent.headers.multi_items():
            say(f"  {name}: {value}")
        _body(sent.body)
    say("to the client", "head")
    say(f"  {got.status}")
    for name, value in got.headers.multi_items():
        say(f"  {name}: {value}")
    _body(got.body)


def _fits(plugin: type[Plugin], config: str) -> bool:
    try:
        check_config(plugin, config)
    except ConfigError:
        return False
    return True


def _changes(changes: Changes) -> list[str]:
    lines = []
    for place, change in changes.as_dict().items():
        what = place.replace("_", " ")
        if isinstance(change, dict):
            for name, values in change.items():
                lines.append(f"{what}: - {name}" if values is None else f"{what}: {name} = {', '.join(values)}")
        else:
            lines.append(f"{what} = {change!r}")
    return lines


def _pdk_call(call: PdkCall) -> str:
    value = "" if call.value is None else f" -> {call.value!r}"
    return f"{call.method}({', '.join(map(repr, call.args))}){value}"


def _body(body: bytes) -> None:
    if body:
        say("")
        for line in body.decode("utf-8", "replace").splitlines():
            say(f"  {line}")
