"""Personal data and secrets in texts: found by their form and their check digits, masked, and put back.

What has no form isn't found: names, addresses, what is written in words or in another coding.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Final, NamedTuple

__all__ = ["KINDS", "Masks", "Vault", "restored"]

Vault = dict[str, str]
"""What was masked, by what stands for it."""


def _is_card(text: str) -> bool:
    digits = [int(each) for each in text if each.isdecimal()]
    doubled = [sum(divmod(2 * each, 10)) for each in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


def _is_iban(text: str) -> bool:
    plain = text.replace(" ", "").upper()
    return 15 <= len(plain) <= 34 and int("".join(str(int(each, 36)) for each in plain[4:] + plain[:4])) % 97 == 1


def _is_phone(text: str) -> bool:
    return 8 <= sum(each.isdecimal() for each in text) <= 15


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return any(each.isdecimal() for each in text)  # `::` is no address of anybody's


def _always(text: str) -> bool:
    return True


# Each pattern is linear: no repeat of a repeat, and bounded where two could divide a text between them.
KINDS: Final[Mapping[str, tuple[str, Callable[[str], bool]]]] = {
    "secret": (
        r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bsk-[A-Za-z0-9_-]{20,200}|\bgh[pousr]_[A-Za-z0-9]{36,255}"
        r"|\bxox[abprs]-[A-Za-z0-9-]{10,200}|\beyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}"
        r"|-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----",
        _always,
    ),
    "email": (r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b", _always),
    "iban": (r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", _is_iban),
    "card": (r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.]\d)", _is_card),
    "ssn": (r"(?<!\d)(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?!\d)", _always),
    "ip": (
        r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w:]|\.\d)",
        _is_address,
    ),
    "phone": (
        r"(?<![\w+])(?:\+|00)[1-9](?:[ ()./-]{0,2}\d){6,14}(?!\d)"
        r"|(?<!\w)\(?0[1-9]\d{0,4}\)?[ /-]\d(?:[ /-]?\d){4,10}(?!\d)",
        _is_phone,
    ),
}
"""Kinds of what is looked for, the more certain ones first."""

_HINTS: Final[Mapping[str, tuple[str, ...]]] = {
    "secret": ("AKIA", "ASIA", "sk-", "gh", "xox", "eyJ", "-----BEGIN"),
    "email": ("@",),
    "ssn": ("-",),
    "ip": (".", ":"),
}
"""Of each kind texts of which one is in every find: looking for them costs a hundredth of the pattern."""
_WITH_DIGITS: Final = frozenset(("iban", "card", "ssn", "ip", "phone"))
_DIGIT: Final = re.compile(r"\d")


class _Finder(NamedTuple):
    name: str
    pattern: re.Pattern[str]
    check: Callable[[str], bool]
    hints: tuple[str, ...] = ()
    needs_digit: bool = False

    def may_find(self, text: str, has_digit: bool) -> bool:
        if self.needs_digit and not has_digit:
            return False
        return not self.hints or any(hint in text for hint in self.hints)


class Masks:
    """Finds and masks."""

    def __init__(self, kinds: Iterable[str], patterns: Mapping[str, str]) -> None:
        """Take kinds of `KINDS`, and further patterns by name."""
        wanted = set(kinds)
        self._own = [_Finder(name, re.compile(pattern), _always) for name, pattern in patterns.items()]
        self._finders = self._own + [
            _Finder(kind.upper(), re.compile(pattern), check, _HINTS.get(kind, ()), kind in _WITH_DIGITS)
            for kind, (pattern, check) in KINDS.items()
            if kind in wanted
        ]

    def find(self, text: str) -> str:
        """The name of a kind that is in a text; empty, where there is none."""
        plain, _ = folded(text)
        for read in (text, plain) if plain != text else (text,):
            has_digit = _DIGIT.search(read) is not None
            for each in self._finders:
                if each.may_find(read, has_digit) and any(
                    each.check(found[0]) for found in each.pattern.finditer(read)
                ):
                    return each.name
        return ""

    def mask(self, text: str, vault: Vault) -> str:
        """A text with `<EMAIL_1>` and the like in the place of what was found.

        Args:
            text: the text.
            vault: gets what was masked; the same gets the same name.
        """
        plain, places = folded(text)
        has_digit = _DIGIT.search(plain) is not None
        if plain == text:
            for each in self._finders:
                if each.may_find(text, has_digit):
                    text = each.pattern.sub(partial(_named, each, vault), text)
            return text
        for each in self._own:  # which may mean the letters that there are
            text = each.pattern.sub(partial(_named, each, vault), text)
        plain, places = folded(text)
        for each in self._finders:
            if each.may_find(plain, has_digit):
                masked = _masked_by_place(each, vault, text, plain, places)
                if masked != text:
                    text = masked
                    plain, places = folded(text)
        return text


def _named(finder: _Finder, vault: Vault, match: re.Match[str]) -> str:
    return _name_of(finder, vault, match[0]) if finder.check(match[0]) else match[0]


def _masked_by_place(finder: _Finder, vault: Vault, text: str, plain: str, places: Sequence[int]) -> str:
    """A text with what is found in its plain form masked."""
    pieces, at = [], 0
    for match in finder.pattern.finditer(plain):
        begin, end = places[match.start()], places[match.end() - 1] + 1
        if match[0] and begin >= at and finder.check(match[0]):
            pieces += [text[at:begin], _name_of(finder, vault, text[begin:end])]
            at = end
    return "".join([*pieces, text[at:]])


def _name_of(finder: _Finder, vault: Vault, found: str) -> str:
    name = finder.name
    for placeholder, value in vault.items():
        if value == found:
            return placeholder
    number = 1 + sum(placeholder.startswith(f"<{name}_") for placeholder in vault)
    placeholder = f"<{name}_{number}>"
    vault[placeholder] = found
    return placeholder


# --- what only looks different


def folded(text: str) -> tuple[str, Sequence[int]]:
    """A text as its plain letters, digits and signs, and where in the text each of them stands.

    Models read full-width digits, mathematical letters and what has invisible characters in it as if they were plain.
    """
    if text.isascii() or all(letter < "\x80" or _plain(letter) == letter for letter in set(text)):
        return text, range(len(text))
    letters, places = [], []
    for place, letter in enumerate(text):
        plain = letter if letter < "\x80" else _plain(letter)
        letters.append(plain)
        places += [place] * len(plain)
    return "".join(letters), places


@lru_cache(maxsize=4096)
def _plain(letter: str) -> str:
    match unicodedata.category(letter):
        case "Cf":
            return ""
        case "Pd":
            return "-"
        case "Zs":
            return " "
        case "Nd":
            return str(unicodedata.decimal(letter))
        case "Mn" if unicodedata.name(letter, "").startswith(("VARIATION SELECTOR", "COMBINING GRAPHEME JOINER")):
            return ""
    return unicodedata.normalize("NFKC", letter)


_PLACEHOLDER: Final = re.compile(r"<[A-Z][A-Z0-9_]{0,30}_[0-9]{1,6}>")


def restored(text: str, vault: Vault) -> str:
    """A text with what was masked put back."""
    return _PLACEHOLDER.sub(lambda found: vault.get(found[0], found[0]), text)
