"""`gatewright new`: a plugin to start from, with its configuration, test, settings and README; it runs and passes."""

from __future__ import annotations

import json
import keyword
import re
from pathlib import Path

import click

from gatewright.cli._failing import fail
from gatewright.cli._output import say
from gatewright.cli.templates import KONG_FILES, NATIVE_FILES
from gatewright.plugin import kebab_case

__all__ = ["new"]


@click.command()
@click.argument("name")
@click.option("--kong", is_flag=True, help="a plugin in kong-pdk's form, for Kong alone")
@click.option(
    "--directory", "-C", type=click.Path(path_type=Path), default=Path(), help="where to make it  [default: here]"
)
@click.option("--json", "as_json", is_flag=True, help="print JSON: the files that were made, and those that were kept")
def new(name: str, kong: bool, directory: Path, as_json: bool) -> None:
    """Make a plugin called NAME: code, configuration, test, gatewright.yaml, README. It runs and passes at once.

    Nothing that is there is written over. Exit codes: 0 it's made, 2 it isn't.
    """
    route = kebab_case(name.replace(" ", "-"))
    module = route.replace("-", "_")
    if keyword.iskeyword(module):
        fail(f"{name!r} is a word of Python's own, which no module can be called: {name}-plugin, say")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", route):
        fail(f"a plugin's name has letters, digits and dashes and begins with a letter, not {name!r}: rate-limit, say")
    words = {
        "NAME": route,
        "MODULE": route if kong else module,
        "CLASS": "".join(part.capitalize() for part in route.split("-")),
    }
    files = {
        _filled(path, words): _filled(text, words) for path, text in (KONG_FILES if kong else NATIVE_FILES).items()
    }
    kept = [path for path in files if (directory / path).exists()]
    own = [path for path in kept if words["MODULE"] in path]
    if own:
        fail(f"{directory / own[0]} is there already; nothing was written")
    for path, text in files.items():
        if path not in kept:
            target = directory / path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
            except OSError as error:
                fail(f"{target}: {error.strerror}")
    made = [path for path in files if path not in kept]
    if as_json:
        places = {"made": made, "kept": kept}
        told = {what: [str(directory / path) for path in paths] for what, paths in places.items()}
        click.echo(json.dumps({"name": route, **told}, indent=2))
        return
    for path in made:
        say(f"  made  {directory / path}", "good")
    for path in kept:
        say(f"  kept  {directory / path}, which was there", "note")
    where = "" if directory == Path() else f"cd {directory} && "
    gateway = " --gateway kong" if kong else ""
    say("")
    run = f"{where}gatewright dev{gateway}"
    say(f"  {run}   runs it; edit plugins/{words['MODULE']}.py, and it is reloaded")
    say(f"  {f'{where}pytest':<{len(run)}}   runs its test (pip install 'gatewright[testing]')")


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text
