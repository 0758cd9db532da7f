"""What an `async def` forgets to wait for, and what a `def` doesn't get: found by reading a plugin's code.

`body = request.body()` without `await` gives no body but a coroutine, which is true, and which nothing runs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gatewright.doctor.findings import Finding, problem, warning

__all__ = ["check_awaits", "check_kinds", "check_own_awaits"]

_WAITED_FOR: Final = ("body", "json", "var")
_HANDLERS: Final = ("on_request", "on_response")
_OF_ASYNC: Final = ("Request", "Response")
_OF_DEF: Final = ("SyncRequest", "SyncResponse")
_USES: Final = (
    ast.Expr, ast.Attribute, ast.Subscript, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.If, ast.IfExp,
    ast.While, ast.For, ast.FormattedValue,
)  # fmt: skip
"""What uses a value on the spot."""


def check_awaits(file: Path, owner: str, method: ast.AsyncFunctionDef) -> Iterator[Finding]:
    """Look for questions to the gateway that nobody waits for.

    Only what can't be anything else is told: one that is used on the spot, or kept under a name that is never waited
    for or handed to anybody.

    Args:
        file: where it is, for messages.
        owner: the class.
        method: a method of it.
    """
    asked_of = {argument.arg for argument in _messages(method)}
    waited = {name.id for item in ast.walk(method) for name in _handed_over(item)}
    for item in ast.walk(method):
        for child in _parts(item):
            if not (isinstance(child, ast.Call) and _is_question(child, asked_of)):
                continue
            if isinstance(item, ast.Assign | ast.AnnAssign | ast.NamedExpr):
                targets = item.targets if isinstance(item, ast.Assign) else [item.target]
                if any(not isinstance(each, ast.Name) or each.id in waited for each in targets):
                    continue
            elif not isinstance(item, _USES):
                continue
            asked = ast.unparse(child)
            yield problem(
                f"{file}:{child.lineno}: {owner}.{method.name}: nobody waits for {asked}, so it gives nothing",
                f"await {asked}",
            )


def check_own_awaits(
    file: Path, tree: ast.Module, owner: ast.ClassDef, method: ast.FunctionDef | ast.AsyncFunctionDef
) -> Iterator[Finding]:
    """Look for calls of the author's own `async def`s that nobody waits for: `if not self.allowed():` is never true.

    Args:
        file: where it is, for messages.
        tree: the whole file.
        owner: the class.
        method: a method of it.
    """
    own_names = {each.arg for each in ast.walk(method) if isinstance(each, ast.arg)}
    own_names |= {
        each.id for each in ast.walk(method) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    }
    functions, methods = set(_coroutines(tree.body)) - own_names, set(_coroutines(owner.body))
    uses = (*_USES, ast.Return) if method.name in _HANDLERS else _USES
    for item in ast.walk(method):
        if not isinstance(item, uses):
            continue
        for child in _parts(item):
            if not isinstance(child, ast.Call):
                continue
            function = child.func
            own = isinstance(function, ast.Attribute) and function.attr in methods and _is_self(function.value)
            if not (own or (isinstance(function, ast.Name) and function.id in functions)):
                continue
            called = ast.unparse(child)
            cure = f"await {called}"
            if isinstance(method, ast.FunctionDef):
                cure = f"async def {method.name}, and {cure}; or make it a `def`"
            yield problem(
                f"{file}:{child.lineno}: {owner.name}.{method.name}: "
                f"nobody waits for {called}, so it never runs, and counts as true",
                cure,
            )


def _parts(item: ast.AST) -> Iterator[ast.AST]:
    """What it uses: of `one() if condition else other()` the condition; the rest is for whoever uses that."""
    return iter([item.test]) if isinstance(item, ast.IfExp) else ast.iter_child_nodes(item)


def _coroutines(body: list[ast.stmt]) -> Iterator[str]:
    for item in body:
        if not isinstance(item, ast.AsyncFunctionDef) or item.decorator_list:
            continue
        if not any(isinstance(each, ast.Yield) for each in ast.walk(item)):
            yield item.name


def _is_self(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Name) and expression.id == "self"


def check_kinds(file: Path, owner: str, method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Finding]:
    """Look whether a handler says that it is given what it is.

    Args:
        file: where it is, for messages.
        owner: the class.
        method: a method of it.
    """
    if method.name not in _HANDLERS:
        return
    is_async = isinstance(method, ast.AsyncFunctionDef)
    wrong = dict(zip(_OF_DEF, _OF_ASYNC, strict=True) if is_async else zip(_OF_ASYNC, _OF_DEF, strict=True))
    for argument in method.args.args:
        said = argument.annotation
        name = said.value if isinstance(said, ast.Constant) else said.id if isinstance(said, ast.Name) else ""
        if name in wrong:
            kind, other = ("async def", "def") if is_async else ("def", "async def")
            yield warning(
                f"{file}:{argument.lineno}: {owner}.{method.name}, which is `{kind}`, is given a {wrong[str(name)]}, "
                f"not a {name}",
                f"{argument.arg}: {wrong[str(name)]}; or `{other}`",
            )


def _messages(method: ast.AsyncFunctionDef) -> Iterator[ast.arg]:
    """The parameters that are a request or a response."""
    for number, argument in enumerate(method.args.args[1:]):
        said = argument.annotation
        if (isinstance(said, ast.Name) and said.id in _OF_ASYNC) or (method.name in _HANDLERS and number < 2):
            yield argument


def _is_question(call: ast.Call, asked_of: set[str]) -> bool:
    function = call.func
    return (
        isinstance(function, ast.Attribute)
        and function.attr in _WAITED_FOR
        and isinstance(function.value, ast.Name)
        and function.value.id in asked_of
    )


def _handed_over(item: ast.AST) -> Iterator[ast.Name]:
    """Names that are waited for, or may be, by whoever gets them."""
    handed: list[ast.AST | None] = []
    if isinstance(item, ast.Await | ast.Return | ast.Yield | ast.Starred):
        handed = [item.value]
    elif isinstance(item, ast.Call):
        handed = [*item.args, *(keyword.value for keyword in item.keywords)]
    elif isinstance(item, ast.List | ast.Tuple | ast.Set):
        handed = [*item.elts]
    yield from (each for each in handed if isinstance(each, ast.Name))
