"""What `$graphql_name` and `$graphql_operation` say: GraphQL as far as APISIX's parser takes it (the rock `graphql`).

It knows queries, mutations and fragments, and is strict about blanks: none stands before an argument's or an alias's
colon, nor before a field's arguments. Text that it doesn't take has no operation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

__all__ = ["Definition", "first_definition"]

T = TypeVar("T")
_NAME: Final = "[A-Za-z_][A-Za-z0-9_]*"
_BLANKS: Final = re.compile("[ \t\r\n]*")
_BETWEEN: Final = re.compile("[ \t\r\n]*,*[ \t\r\n]*")
_SPREAD_NAME: Final = re.compile(rf"(?!on(?![A-Za-z_])){_NAME}")
_PLAIN_VALUE: Final = re.compile(
    rf'[ \t\r\n]*\${_NAME}|(?!true|false|null){_NAME}|"(?:\\"|[^"\n])*"|true|false'
    r"|-?(?:0|[1-9][0-9]*)(?:(?:\.[0-9]+)?[Ee][+-]?[0-9]+|\.[0-9]+)?"
)
_TYPE_NAME: Final = re.compile(_NAME)


@dataclass(frozen=True, slots=True)
class Definition:
    """An operation, or a fragment.

    Attributes:
        operation: `query` or `mutation`; `None` for a fragment.
        name: its name, empty without one.
        fields: what it asks for; `None` for a fragment without a name.
    """

    operation: str | None
    name: str
    fields: tuple[str | None, ...]


class _NotTakenError(Exception):
    """What comes is something else."""


def first_definition(text: str) -> Definition | None:
    """The first definition of a document; `None` if the parser doesn't take the document, or it's empty."""
    reader = _Reader("\n".join(_without_comment(line) for line in text.split("\n")))
    reader.take(_BLANKS)
    definitions = reader.many(reader.definition)
    return definitions[0] if definitions and reader.at_end else None


def _without_comment(line: str) -> str:
    at = line.find("#")
    while at >= 0:
        if len(re.findall(r'[^\\]"', line[:at])) % 2 == 0:
            return line[:at]
        at = line.find("#", at + 1)
    return line


class _Reader:
    """Where the parser is in a text; each rule takes what is its own, or raises and leaves it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    @property
    def at_end(self) -> bool:
        """All is taken."""
        return self._at == len(self._text)

    def take(self, pattern: re.Pattern[str] | str) -> str:
        """What a pattern finds here."""
        found = re.compile(pattern).match(self._text, self._at)
        if found is None:
            raise _NotTakenError
        self._at = found.end()
        return found[0]

    def perhaps(self, rule: Callable[[], T]) -> T | None:
        """What a rule takes, if it does."""
        before = self._at
        try:
            return rule()
        except (_NotTakenError, RecursionError):
            self._at = before
            return None

    def many(self, rule: Callable[[], T], least: int = 0) -> list[T]:
        """What a rule takes again and again, with commas between or not."""
        found: list[T] = []
        while (one := self.perhaps(lambda: self._item(rule))) is not None:
            found.append(one)
        if len(found) < least:
            raise _NotTakenError
        return found

    def _item(self, rule: Callable[[], T]) -> T:
        taken = rule()
        self.take(_BETWEEN)
        return taken

    def _first(self, *rules: Callable[[], T]) -> T:
        for rule in rules:
            if (taken := self.perhaps(rule)) is not None:
                return taken
        raise _NotTakenError

    def definition(self) -> Definition:
        """An operation or a fragment."""
        return self._first(self._operation, self._shorthand, self._fragment)

    def _operation(self) -> Definition:
        kind = self.take("query|mutation")
        self.take(_BLANKS)
        name = self.perhaps(lambda: self.take(_NAME)) or ""
        self.perhaps(self._variables)
        self.perhaps(self._directives)
        return Definition(kind, name, self._selections())

    def _shorthand(self) -> Definition:
        return Definition("query", "", self._selections())

    def _fragment(self) -> Definition:
        self.take("fragment[ \t\r\n]*")
        name = self.take(_SPREAD_NAME)
        self.take(rf"[ \t\r\n]*on[ \t\r\n]*{_NAME}[ \t\r\n]*")
        return Definition(None, name, self._selections())

    def _selections(self) -> tuple[str | None, ...]:
        self.take("[ \t\r\n]*{[ \t\r\n]*")
        found = self.many(lambda: self._first(self._field, self._spread, self._inline))
        self.take("[ \t\r\n]*}")
        return tuple(each[0] for each in found)

    def _field(self) -> tuple[str | None]:
        name = self.take(rf"[ \t\r\n]*(?:{_NAME}:[ \t\r\n]*)?{_NAME}").rpartition(":")[2].strip(" \t\r\n")
        self.perhaps(self._arguments)
        self.perhaps(self._directives)
        self.perhaps(self._selections)
        return (name,)

    def _spread(self) -> tuple[str | None]:
        self.take(r"[ \t\r\n]*\.\.\.[ \t\r\n]*")
        name = self.take(_SPREAD_NAME)
        self.perhaps(self._directives)
        return (name,)

    def _inline(self) -> tuple[str | None]:
        self.take(rf"[ \t\r\n]*\.\.\.[ \t\r\n]*(?:on[ \t\r\n]*{_NAME})?")
        self.perhaps(self._directives)
        self._selections()
        return (None,)

    def _arguments(self) -> str:
        self.take(r"\(")
        self.many(self._argument, least=1)
        return self.take(r"\)")

    def _argument(self) -> str:
        self.take(rf"[ \t\r\n]*{_NAME}:")
        return self._value()

    def _directives(self) -> str:
        self.take(_BLANKS)
        self.many(self._directive, least=1)
        return self.take(_BLANKS)

    def _directive(self) -> str:
        taken = self.take(f"@{_NAME}")
        self.perhaps(self._arguments)
        return taken

    def _variables(self) -> str:
        self.take(r"[ \t\r\n]*\(")
        self.many(self._variable, least=1)
        return self.take(r"\)")

    def _variable(self) -> str:
        taken = self.take(rf"[ \t\r\n]*\${_NAME}[ \t\r\n]*:[ \t\r\n]*")
        self._type()
        self.perhaps(self._default)
        self.take(_BETWEEN)
        return taken

    def _default(self) -> str:
        self.take("[ \t\r\n]*=")
        return self._value()

    def _type(self) -> str:
        taken = self._first(self._list_type, lambda: self.take(_TYPE_NAME))
        self.take("!?")
        return taken

    def _list_type(self) -> str:
        taken = self.take(r"\[[ \t\r\n]*")
        self._type()
        self.take(r"[ \t\r\n]*\]")
        return taken

    def _value(self) -> str:
        self.take(_BLANKS)
        return self._first(self._object, self._list, lambda: self.take(_PLAIN_VALUE))

    def _list(self) -> str:
        self.take(r"\[")
        self.many(self._value)
        return self.take(r"\]")

    def _object(self) -> str:
        self.take("{[ \t\r\n]*")
        self.many(self._object_field)
        return self.take("[ \t\r\n]*}")

    def _object_field(self) -> str:
        self.take(rf"[ \t\r\n]*{_NAME}[ \t\r\n]*:")
        return self._value()
