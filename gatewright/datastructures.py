"""`Headers` and `Query`: ordered, multi-valued mappings that load late and record what was changed.

A gateway wants to be told only what changed (echoing the rest collapses repeated names), and a plugin seldom looks at
all of what came in. So both classes hold two layers: the *original* entries, loaded when first needed, and the
*changes*, one final state a name. A write never loads anything; a read looks at the changes first.

Text is `str` in both directions and never loses a byte: UTF-8, with *surrogateescape* for bytes that are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Final, Protocol, Self

from gatewright.errors import NotAvailableError

__all__ = ["Change", "CutEntries", "Finder", "Headers", "MultiMapping", "Query", "check_sendable"]

Change = tuple[str, ...] | None
"""The values a name now has, or `None` for deleted."""

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_JOINT: Final = {"cookie": "; "}
_LONGEST_NAME: Final = 8192
"""Characters of a header's name: those of a whole line, where nginx is not told otherwise."""
_FORBIDDEN: Final = re.compile(r"[\r\n\0]")
_UNSENDABLE: Final = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that stand for no byte (see *surrogateescape*)."""
_UNLIKE: Final = re.compile(r"[^0-9a-z]")
_MOST_WORDS: Final = 7
MOST_FINDS: Final = 3  # single look-ups, before all is decoded: that pays from the fourth on


@lru_cache(maxsize=1024)
def _header_key(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a header's name is a str, not {type(name).__name__}: {name!r}")
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"a header's name of {len(name)} characters; the limit is {_LONGEST_NAME}")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a header name")
    return name.lower()


def check_sendable(text: str, what: str) -> None:
    """See that there are bytes for a text.

    Args:
        text: the text.
        what: what it is, for the message.

    Raises:
        ValueError: there are none.
    """
    if _UNSENDABLE.search(text):
        raise ValueError(f"{what} holds a lone surrogate that stands for no byte: {text!r}")


class CutEntries(list[tuple[str, "str | None"]]):
    """Entries that a gateway cut off at a limit: there may be more, and more values of the same names."""


class _Found(list["str | None"]):
    """Values that the gateway has been asked for."""


class Finder(Protocol):
    """Whoever can find what was cut off."""

    def find_header(self, headers: Headers, name: str) -> str | None:
        """All values of one of these headers, joined as the gateway does; `None` where there is none.

        Raises:
            NotAvailableError: it can't be had here; the message says how.
        """


def _pairs(items: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """See that these are pairs: text of two characters could be taken for one."""
    for item in items:
        if isinstance(item, str | bytes):
            raise TypeError(f"names and values are a mapping or pairs, and {item!r} is no pair")
        yield item


class MultiMapping(MutableMapping[str, str]):
    """What `Headers` and `Query` have in common.

    As a mapping it shows the *first* value of each name, as `dict`-minded code expects; `get_all` and `multi_items`
    show all. Setting replaces all values of a name, `add` appends one, deleting removes all.
    """

    # Class-level defaults instead of slots: making a lazy mapping is two stores, and a call makes at least one.
    _original: list[tuple[str, str | None]] | None = None
    _index: dict[str, list[str | None]] | None = None
    _load: Callable[[], Sequence[tuple[str, str | None]]] | None = None
    _has: Callable[[str], bool | None] | None = None
    _finder: Finder | None = None
    _find: Callable[[str], list[str | None] | None] | None = None
    _finds: int = 0
    _is_cut: bool = False
    _plain: type[Self] | None = None  # the class to users, where this one only says how to get at what it holds

    def __init__(self, items: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        """Start from names and values, which count as original, not as changes."""
        pairs = items.items() if isinstance(items, Mapping) else _pairs(items)
        self._original = [(name, self._check(self._key(name), value)) for name, value in pairs]
        self.changes: dict[str, Change] = {}

    @classmethod
    def lazy(
        cls,
        load: Callable[[], Sequence[tuple[str, str | None]]],
        has: Callable[[str], bool | None] | None = None,
        finder: Finder | None = None,
        find: Callable[[str], list[str | None] | None] | None = None,
    ) -> Self:
        """Start from what `load` will give when it is first needed.

        Args:
            load: gives the original entries; called once at most. `CutEntries`: there may be more of them.
            has: tells whether a (normalised) name is there, cheaper than loading all; `None` if that's not known.
            finder: finds what was cut off. (Not the call: that would be a circle for the collector to find.)
            find: gives the values of one (normalised) name, cheaper than loading all; `None` if it can't.
        """
        self = cls.__new__(cls)
        self._load = load
        self._has = has
        self._find = find
        self._finder = finder
        self.changes = {}
        return self

    @staticmethod
    def _key(name: str) -> str:
        return name

    @staticmethod
    def _check(name: str, value: str) -> str:
        if not isinstance(value, str):
            raise TypeError(f"the value of {name!r} must be str, not {type(value).__name__}")
        if not (name.isprintable() and value.isprintable()):
            check_sendable(name, "the name")
            check_sendable(value, f"the value of {name!r}")
        return value

    def _entries(self) -> list[tuple[str, str | None]]:
        original = self._original
        if original is None:
            load = self._load
            assert load is not None  # noqa: S101 - one of the two is always given
            loaded = load()
            if type(loaded) is not list:
                self._is_cut = isinstance(loaded, CutEntries)
                loaded = list(loaded)
            original = self._original = loaded
        return original

    def _whole(self) -> list[tuple[str, str | None]]:
        entries = self._entries()
        if self._is_cut:
            raise NotAvailableError(
                f"the gateway handed over {len(entries)} of the request's headers, and perhaps not all: look up those "
                "that matter by name, or see `headers.complete`"
            )
        return entries

    @property
    def complete(self) -> bool:
        """Whether all that came is known. Otherwise names can be looked up, but not gone through."""
        self._entries()
        return not self._is_cut

    def _values(self, key: str) -> Sequence[str | None]:
        if key in self.changes:
            return self.changes[key] or ()
        index = self._index
        if index is None:
            if self._find is not None and self._original is None and self._finds < MOST_FINDS:
                self._finds += 1
                values = self._find(key)
                if values is not None:
                    return values
            index = self._index = {}
            for name, value in self._entries():
                index.setdefault(self._key_of_peer(name), []).append(value)
        return index.get(key, ()) if not self._is_cut else self._found(key, index)

    def _found(self, key: str, index: dict[str, list[str | None]]) -> Sequence[str | None]:
        """All values of a name of which the gateway may have handed over some, or none."""
        return index.get(key, ())

    @staticmethod
    def _key_of_peer(name: str) -> str:
        """As `_key`, but for names that came in: never refused."""
        return name

    def copied(self, finder: Finder | None = None) -> Self:
        """Another one with the same content and changes: what is changed in one isn't in the other.

        Args:
            finder: finds what was cut off for it.
        """

        def load() -> Sequence[tuple[str, str | None]]:
            entries = self._entries()
            return CutEntries(entries) if self._is_cut else entries

        other = (self._plain or type(self)).lazy(load, self._has if self._original is None else None, finder)
        other.changes = dict(self.changes)
        return other

    def take_changes(self, other: Self) -> None:
        """Have the changes of a copy."""
        self.changes = dict(other.changes)

    # --- reading

    def __getitem__(self, name: str) -> str:
        values = self._values(self._key(name))
        if not values:
            raise KeyError(name)
        return values[0] or ""

    def __contains__(self, name: object) -> bool:
        try:
            key = self._key(name)  # type: ignore[arg-type]  # what is no name is not in here
        except (ValueError, TypeError):
            return False
        if key in self.changes:
            return bool(self.changes[key])
        if self._has is not None and self._original is None:
            found = self._has(key)
            if found is not None:
                return found
        return bool(self._values(key))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self._current()))

    def __len__(self) -> int:
        return len(set(iter(self)))

    def __bool__(self) -> bool:
        return next(self._current(), None) is not None

    def get_all(self, name: str) -> list[str]:
        """All values of a name, in order; empty where there is none."""
        values = self._values(self._key(name))
        return [value or "" for value in values] if len(values) != 1 else [values[0] or ""]  # as it is nearly always

    def multi_items(self) -> list[tuple[str, str]]:
        """Every name and value, repeats apart, in order; changed names where they first stood, new ones last."""
        if not self.changes:
            return self._all_entries()
        return [(name, value or "") for name, value in self._current()]

    def _all_entries(self) -> list[tuple[str, str]]:
        return [(name, value or "") for name, value in self._whole()]

    def _current(self) -> Iterator[tuple[str, str | None]]:
        changes = self.changes
        done: set[str] = set()
        for name, value in self._whole():
            key = self._key_of_peer(name)
            if key not in changes:
                yield key, value
            elif key not in done:
                done.add(key)
                for changed in changes[key] or ():
                    yield key, changed
        for key, values in changes.items():
            if key not in done:
                for changed in values or ():
                    yield key, changed

    def __eq__(self, other: object) -> bool:
        if isinstance(other, MultiMapping):
            return type(self)._key is type(other)._key and self.multi_items() == other.multi_items()
        if isinstance(other, Mapping):
            return dict(self) == dict(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # mutable, as dict is

    def __repr__(self) -> str:
        if self.complete:
            return f"{(self._plain or type(self)).__name__}({self.multi_items()!r})"
        return f"<{type(self).__name__}: cut, {self._entries()!r}, changed: {self.changes!r}>"

    # --- changing

    def __setitem__(self, name: str, value: str) -> None:
        key = self._key(name)
        self.changes[key] = (self._check(key, value),)

    def __delitem__(self, name: str) -> None:
        key = self._key(name)
        if self._original is None and self._has is not None and self._has(key) is None:
            self._entries()
        if not (self._is_cut and key not in self.changes) and name not in self:  # what was cut off is deleted unseen
            raise KeyError(name)
        self.changes[key] = None

    def add(self, name: str, value: str) -> None:
        """Append one more value to a name."""
        key = self._key(name)
        self._check(key, value)
        before = tuple(present or "" for present in self._values(key))
        self.changes[key] = (*before, value)

    def set_all(self, name: str, values: Iterable[str]) -> None:
        """Replace all values of a name; no values delete it."""
        key = self._key(name)
        if isinstance(values, str | bytes | Mapping):
            raise TypeError(
                f"the values of {name!r} are a list, not one {type(values).__name__}: {name!r} can be set to one"
            )
        self.changes[key] = tuple(self._check(key, value) for value in values) or None

    def discard(self, name: str) -> None:
        """Delete a name if it is there. Unlike `pop`, this doesn't look, so nothing is decoded."""
        self.changes[self._key(name)] = None

    def replace(self, items: Mapping[str, str]) -> None:
        """Make these names and values the whole content; what they don't name is deleted."""
        wanted = {self._key(name): (name, value) for name, value in items.items()}
        for name in list(self):
            if self._key(name) not in wanted:
                self.discard(name)
        for key, (name, value) in wanted.items():
            if self.get_all(key) != [value]:
                self[name] = value


class Headers(MultiMapping):
    """HTTP headers: names in any case (shown in lower case), values without CR, LF or NUL.

    Raises:
        ValueError: on writing a name that is not an HTTP token, or a value that would break the header apart.
    """

    _key = staticmethod(_header_key)
    _key_of_peer = staticmethod(str.lower)  # type: ignore[assignment]  # positional only, as it is used

    def _all_entries(self) -> list[tuple[str, str]]:
        return [(name.lower(), value or "") for name, value in self._whole()]

    may_have_alike: Callable[[tuple[str, ...]], bool] | None = None
    """Tells whether any header may be one that looks like one of these (in lower case), cheaper than loading all."""

    def replace_alike(self, changes: Mapping[str, Change]) -> None:
        """As `discard_alike` with these names (in lower case), and then set them; `None` leaves a name deleted."""
        names = tuple(changes)
        if self.changes or self._original is not None or self.may_have_alike is None or self.may_have_alike(names):
            self.discard_alike(*names)
        self.changes.update(changes)

    def discard_alike(self, *names: str) -> None:
        """Delete headers, and those that an upstream may take for the same: `X_User` for `x-user`, say.

        CGI, WSGI and PHP make one variable of all of them (RFC 3875, 4.1.18), so a header that an upstream believes
        has to be free of them, too.
        """
        keys, alike = _alike(names)
        changes, may_have = self.changes, self.may_have_alike
        quick = self._original is None and may_have is not None and not may_have(keys)
        for name in [*changes, *(() if quick else (name for name, _ in self._entries()))]:
            key = name.lower()
            if _UNLIKE.sub("-", key) in alike:
                changes[key] = None
        for key in keys:
            changes[key] = None
        if self._is_cut:
            for key in keys:
                for variant in _spellings(key):
                    changes[variant] = None

    def _found(self, key: str, index: dict[str, list[str | None]]) -> Sequence[str | None]:
        """All values of a name of which the gateway may have handed over some, or none."""
        known = index.get(key, [])
        if key != "host" and self._finder is not None and not isinstance(known, _Found):
            answer = self._finder.find_header(self, key)
            together = _JOINT.get(key, ", ").join(value or "" for value in known)
            if answer is not None and answer != together:
                rest = answer.removeprefix(together + _JOINT.get(key, ", ")) if known else answer
                known = [*known, rest] if rest != answer or not known else known
            known = index[key] = _Found(known)
        return known

    @staticmethod
    def _check(name: str, value: str) -> str:
        if not isinstance(value, str):
            raise TypeError(f"the value of header {name!r} must be str, not {type(value).__name__}")
        if not value.isprintable():
            if _FORBIDDEN.search(value):
                raise ValueError(f"the value of header {name!r} must not contain CR, LF or NUL: {value!r}")
            check_sendable(value, f"the value of header {name!r}")
        return value


@lru_cache(maxsize=256)
def _alike(names: tuple[str, ...]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Keys, and all with `-` for what differs between spellings."""
    keys = tuple(_header_key(name) for name in names)
    return keys, frozenset(_UNLIKE.sub("-", key) for key in keys)


@lru_cache(maxsize=256)
def _spellings(key: str) -> tuple[str, ...]:
    """A name with `-` and `_` in all combinations, for where it isn't known which there are."""
    words = _UNLIKE.split(key)
    if len(words) > _MOST_WORDS:
        raise NotAvailableError(
            f"the gateway cut headers off, and {key!r} has too many spellings to delete them all unseen"
        )
    return tuple(
        words[0] + "".join(joint + word for joint, word in zip(joints, words[1:], strict=True))
        for joints in product("-_", repeat=len(words) - 1)
    )


class Query(MultiMapping):
    """The query's arguments, decoded. An argument without `=` (`?z`) reads as `""`; `is_bare` tells it apart."""

    @staticmethod
    def _key(name: str) -> str:
        if not isinstance(name, str):
            raise TypeError(f"an argument's name is a str, not {type(name).__name__}: {name!r}")
        return name

    def is_bare(self, name: str) -> bool:
        """Whether the argument came without `=`. APISIX can't be told to send such an argument itself."""
        return None in self._values(name)
