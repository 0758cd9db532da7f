"""How a command ends that can't do what it was asked for: one line for people, one JSON object for machines.

The object is `{"error": {"what": ..., "where": ..., "cure": ...}}`, on standard output, where a command was given
`--json`. Messages are made for people: they begin with the place, and end with the cure.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import click

__all__ = ["JsonErrors", "fail", "in_parts"]

_PLACE: Final = re.compile(
    r"(?P<where>environment \w+|--[\w-]+(?: [^\s:]+)?|(?:unix:|tcp:(?://)?)?[^\s:]*[./\[][^\s:]*(?::\d+){0,2})"
    r"(?::| is (?=not there))\s*(?P<rest>.+)",
    re.DOTALL,
)
_CURE: Final = re.compile(
    r"(?P<what>.+?)(?:;|[:.,]? \(?(?=(?i:did you mean))|: (?=pip install)) *(?P<cure>.+)", re.DOTALL
)


def in_parts(message: str) -> dict[str, str]:
    """A message by what it says: `what` is wrong, `where` and which `cure` there is; empty where it doesn't say."""
    place = _PLACE.fullmatch(message)
    where, rest = (place["where"], place["rest"]) if place else ("", message)
    said = _CURE.fullmatch(rest)
    return {"what": said["what"] if said else rest, "where": where, "cure": said["cure"] if said else ""}


def fail(error: object) -> NoReturn:
    """End the command with one line that says why, or with JSON if that was asked for, and exit code 2."""
    context = click.get_current_context(silent=True)
    if context is not None and context.params.get("as_json"):
        _print(in_parts(str(error)))
    else:
        click.echo(f"gatewright: {error}", err=True)
    sys.exit(2)


def _print(told: dict[str, str]) -> None:
    click.echo(json.dumps({"error": told}, ensure_ascii=False))


class JsonErrors(click.Group):
    """A group that tells mistakes in a command's words as JSON, too, where `--json` is among them."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **others: Any) -> Any:
        """Run a command."""
        words = sys.argv[1:] if args is None else list(args)
        if "--json" not in words or not others.get("standalone_mode", True):
            return super().main(args, *more, **others)
        others["standalone_mode"] = False
        try:
            code = super().main(args, *more, **others)
        except click.ClickException as error:
            context = error.ctx if isinstance(error, click.UsageError) else None
            told = {"where": context.command_path, "cure": f"{context.command_path} --help"} if context else {}
            said = in_parts(error.format_message())
            _print({**said, **told, **({"cure": said["cure"]} if said["cure"] else {})})
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)
