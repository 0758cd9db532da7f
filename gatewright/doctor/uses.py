"""What handlers do with what they are given, and give back: attributes that there aren't, values that mean nothing.

Found by reading the code: a handler that is wrong on a path which no test takes is told before a gateway takes it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from gatewright.doctor.findings import Finding, problem
from gatewright.http import Request, Response, SyncRequest, SyncResponse

__all__ = ["check_answers", "check_attributes", "check_config_fields"]

_GIVEN: Final = {"on_request": 1, "on_response": 2}
_ASYNC: Final = (Request, Response)
_SYNC: Final = (SyncRequest, SyncResponse)
_NO_ANSWERS: Final = (
    ast.Tuple, ast.Dict, ast.List, ast.Set, ast.JoinedStr, ast.Compare, ast.DictComp, ast.ListComp, ast.SetComp,
)  # fmt: skip
_NO_KINDS: Final = frozenset(("str", "bool", "int", "float", "bytes", "dict", "tuple", "list"))
_SETTERS: Final = {
    "body": "{0}.set_body(...)", "headers": "{0}.headers[NAME] = VALUE", "query": "{0}.query[NAME] = VALUE",
    "response_headers": "{0}.response_headers[NAME] = VALUE", "ctx": "{0}.ctx[NAME] = VALUE",
}  # fmt: skip
_MODELS: Final = frozenset(("Struct", "BaseModel", "dataclass"))
_OF_ANY_MODEL: Final = ("model_", "dict", "json", "copy", "__")

Method = ast.FunctionDef | ast.AsyncFunctionDef


def check_attributes(file: Path, owner: str, method: Method) -> Iterator[Finding]:
    """Look for attributes of a request or a response that it doesn't have, or that can't be set.

    Args:
        file: where it is, for messages.
        owner: the class.
        method: a method of it.
    """
    kinds = _ASYNC if isinstance(method, ast.AsyncFunctionDef) else _SYNC
    arguments = method.args.args[1 : 1 + _GIVEN.get(method.name, 0)]
    given: dict[str, type[Any]] = dict(zip((each.arg for each in arguments), kinds, strict=False))
    for item in ast.walk(method):  # a name that stands for something else, too, is left alone
        if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store | ast.Del):
            given.pop(item.id, None)
    for item in ast.walk(method):
        if not (isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name) and item.value.id in given):
            continue
        name, kind = item.value.id, given[item.value.id]
        where = f"{file}:{item.lineno}: {owner}.{method.name}"
        known = [each for each in dir(kind) if not each.startswith("_")]
        if item.attr not in known and not item.attr.startswith("_"):
            near = get_close_matches(item.attr, known, 1)
            cure = f"did you mean {name}.{near[0]}?" if near else f"it has {', '.join(known)}"
            yield problem(f"{where}: a {kind.__name__} has no {item.attr!r}", cure)
        elif isinstance(item.ctx, ast.Store) and getattr(getattr(kind, item.attr, None), "fset", None) is None:
            yield problem(
                f"{where}: {name}.{item.attr} can't be assigned to",
                _SETTERS.get(item.attr, "leave it as it is").format(name),
            )


def check_answers(file: Path, owner: str, method: Method) -> Iterator[Finding]:
    """Look for what a handler gives back that is no answer.

    Args:
        file: where it is, for messages.
        owner: the class.
        method: a method of it.
    """
    if method.name not in _GIVEN:
        return
    name = f"{owner}.{method.name}"
    cure = "return Response(403, body=...), or Response.json(...), or None to go on"
    said = method.returns
    if isinstance(said, ast.Name) and said.id in _NO_KINDS:
        yield problem(f"{file}:{method.lineno}: {name} says that it returns a {said.id}", "-> Response | None")
    for item in _returns(method):
        value = item.value
        if isinstance(value, _NO_ANSWERS) or (isinstance(value, ast.Constant) and value.value is not None):
            yield problem(f"{file}:{item.lineno}: {name} returns {ast.unparse(value)}, which is no answer", cure)


def check_config_fields(file: Path, plugin: ast.ClassDef, method: Method) -> Iterator[Finding]:
    """Look for fields of the configuration that its model doesn't have.

    Args:
        file: where it is, for messages.
        plugin: the class.
        method: a method of it.
    """
    model = next((each for each in plugin.body if isinstance(each, ast.ClassDef) and each.name == "Config"), None)
    if model is None or not {_last(each) for each in (*model.bases, *model.decorator_list)} & _MODELS:
        return
    if any(_last(base) not in _MODELS for base in model.bases):
        return  # it has more fields elsewhere
    fields = [each for part in model.body for each in _defined(part)]
    for item in ast.walk(method):
        if not (isinstance(item, ast.Attribute | ast.Subscript) and _is_config(item.value)):
            continue
        where = f"{file}:{item.lineno}: {plugin.name}.{method.name}"
        if isinstance(item, ast.Subscript):
            key = str(item.slice.value) if isinstance(item.slice, ast.Constant) else "..."
            yield problem(f"{where}: self.config is a {plugin.name}.Config, and no mapping", f"self.config.{key}")
        elif item.attr not in fields and not item.attr.startswith(_OF_ANY_MODEL):
            near = get_close_matches(item.attr, fields, 1)
            cure = f"did you mean self.config.{near[0]}?" if near else f"it has {', '.join(fields) or 'none'}"
            yield problem(f"{where}: {plugin.name}.Config has no field {item.attr!r} ({file}:{model.lineno})", cure)


def _returns(method: Method) -> Iterator[ast.Return]:
    """Those of the method itself, not of functions in it."""
    waiting: list[ast.AST] = [*method.body]
    while waiting:
        item = waiting.pop(0)
        if isinstance(item, ast.Return):
            yield item
        if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            waiting.extend(ast.iter_child_nodes(item))


def _last(expression: ast.expr) -> str:
    """`Struct` of `msgspec.Struct`, `dataclass` of `dataclasses.dataclass(frozen=True)`."""
    if isinstance(expression, ast.Call):
        return _last(expression.func)
    return str(getattr(expression, "attr", None) or getattr(expression, "id", ""))


def _defined(part: ast.stmt) -> Iterator[str]:
    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
        yield part.target.id
    elif isinstance(part, ast.Assign):
        yield from (each.id for each in part.targets if isinstance(each, ast.Name))
    elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield part.name


def _is_config(expression: ast.expr) -> bool:
    return (
        isinstance(expression, ast.Attribute)
        and expression.attr == "config"
        and isinstance(expression.value, ast.Name)
        and expression.value.id == "self"
    )
