"""Conditions on variables, as routes and plugins have them in `vars` (lua-resty-expr).

A condition is `[name, operator, value]`, with `"!"` before the operator turned round; a list of conditions holds if all
of them do, or one that begins with `OR`, `!OR` or `!AND` as that says. A value that is no number is compared as text,
and never equals one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, Final

__all__ = ["Condition", "LuaValue", "address_matches", "condition_of", "number_of"]

LuaValue = str | int | float | bool | None
Ask = Callable[[str], LuaValue]
"""Gives a variable as Lua sees it."""
Condition = Callable[[Ask], bool]

_NUMBER: Final = re.compile(r"\s*[-+]?(?:0[xX][0-9A-Fa-f]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*")
_LOGIC: Final[dict[str, tuple[Callable[[Any], bool], bool]]] = {
    "AND": (all, True), "OR": (any, True), "!AND": (all, False), "!OR": (any, False),
}  # fmt: skip


def number_of(value: object) -> float | None:
    """Lua's `tonumber`."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    text = str(value)
    if not _NUMBER.fullmatch(text):
        return None
    return float(int(text, 16)) if "x" in text.lower() else float(text)


def _equal(left: LuaValue, right: Any) -> bool:
    if isinstance(right, bool) or isinstance(left, bool) or left is None or right is None:
        return left is right
    if isinstance(right, int | float):
        return number_of(left) == float(right)
    return isinstance(left, str) and left == right


def _same(left: LuaValue, right: Any) -> bool:
    """Lua's `==`, which takes nothing for a number."""
    if isinstance(left, str) != isinstance(right, str) or isinstance(left, bool) != isinstance(right, bool):
        return False
    return bool(left == right)


def _ordered(compare: Callable[[float, float], bool]) -> Callable[[LuaValue, Any], bool]:
    def holds(left: LuaValue, right: Any) -> bool:
        one, other = number_of(left), number_of(right)
        return one is not None and other is not None and compare(one, other)

    return holds


def _matching(flags: int) -> Callable[[LuaValue, Any], bool]:
    def holds(left: LuaValue, right: Any) -> bool:
        return left is not None and re.search(str(right), str(left), flags) is not None

    return holds


def address_matches(address: str, allowed: Sequence[str]) -> bool:
    """Whether an address is among some, or in a network of them."""
    try:
        one = ip_address(address)
    except ValueError:
        return False
    networks = (ip_network(each, strict=False) for each in allowed)
    return any(one in network for network in networks if network.version == one.version)


_OPERATORS: Final[dict[str, Callable[[LuaValue, Any], bool]]] = {
    "==": _equal,
    "~=": lambda left, right: not _equal(left, right),
    ">": _ordered(lambda one, other: one > other),
    ">=": _ordered(lambda one, other: one >= other),
    "<": _ordered(lambda one, other: one < other),
    "<=": _ordered(lambda one, other: one <= other),
    "~~": _matching(0),
    "~*": _matching(re.IGNORECASE),
    "in": lambda left, right: isinstance(right, list) and any(_same(left, each) for each in right),
    "has": lambda _left, _right: False,  # no variable is a list
    "ipmatch": lambda left, right: isinstance(left, str) and address_matches(left, right),
}


def condition_of(rule: object) -> Condition:
    """A condition.

    Args:
        rule: as it's written.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(rule, list):
        raise ValueError(f"conditions are a list of [name, operator, value], not {rule!r}")
    if not rule:
        return lambda _: True
    if not isinstance(rule[0], list) and str(rule[0]).upper() not in _LOGIC:
        raise ValueError(f"conditions are a list of lists: [{rule!r}]")
    return _compiled(rule)


def _compiled(rule: list[Any]) -> Condition:
    if not rule:
        raise ValueError("a condition is empty")
    if isinstance(rule[0], list):
        return _joined("AND", rule)
    logic = str(rule[0]).upper()
    if logic in _LOGIC:
        if len(rule) <= 2:
            raise ValueError(f"{logic} wants two conditions at least")
        return _joined(logic, rule[1:])
    return _single(rule)


def _joined(logic: str, rules: list[Any]) -> Condition:
    parts = [_compiled(rule) for rule in rules]
    joined, straight = _LOGIC[logic]
    return lambda ask: joined(part(ask) for part in parts) is straight


def _single(rule: list[Any]) -> Condition:
    turned = len(rule) == 4
    if turned and rule[1] != "!":
        raise ValueError(f"four parts, and the second is not `!`: {rule!r}")
    name, operator, *values = [rule[0], *rule[2:]] if turned else rule
    value, operator = (values[0] if values else None), str(operator).lower()
    if value is None and operator not in _OPERATORS:
        value, operator = operator, "=="  # an older form
    compare = _OPERATORS.get(operator)
    if compare is None:
        raise ValueError(f"{operator} is not an operator; there are {', '.join(_OPERATORS)}")
    if operator == "ipmatch":
        value = [
            ip_network(str(each), strict=False).compressed for each in (value if isinstance(value, list) else [value])
        ]
    elif operator in ("~~", "~*"):
        re.compile(str(value))
    return lambda ask: compare(ask(str(name)), value) is not turned
