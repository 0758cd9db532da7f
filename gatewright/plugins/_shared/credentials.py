"""Credentials in a request: where they may stand, that there is one only, and taking them out of what goes upstream."""

from __future__ import annotations

from dataclasses import dataclass

from gatewright import Request

__all__ = ["AmbiguousCredentialsError", "Place", "cookie_values", "without_cookie"]


class AmbiguousCredentialsError(Exception):
    """A request has several credentials, so the upstream might look at another than was checked."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a credential may stand in a request; an empty name means nowhere there.

    Attributes:
        header: a header's name.
        scheme: what stands before the credential in the header, in lower case; empty: nothing.
        cookie: a cookie's name.
        argument: the name of an argument of the query.
    """

    header: str = ""
    scheme: str = ""
    cookie: str = ""
    argument: str = ""

    def find(self, request: Request) -> str | None:
        """The one credential of a request; `None` where it has none.

        Raises:
            AmbiguousCredentialsError: it has more.
        """
        found: list[str] = []
        if self.header:
            values = request.headers.get_all(self.header)
            if len(values) > 1:
                raise AmbiguousCredentialsError(f"the header {self.header} is there {len(values)} times")
            for value in values:
                credential = self._of_header(value)
                if credential is not None:
                    found.append(credential)
        if self.cookie:
            found += cookie_values(request, self.cookie)
        if self.argument:
            found += request.query.get_all(self.argument)
        if len(found) > 1:
            raise AmbiguousCredentialsError("the request has more than one credential")
        return found[0] if found else None

    def remove(self, request: Request) -> None:
        """Don't send the credential on."""
        if self.header:
            request.headers.discard_alike(self.header)
        if self.cookie:
            without_cookie(request, self.cookie)
        if self.argument and self.argument in request.query:
            del request.query[self.argument]

    def _of_header(self, value: str) -> str | None:
        if not self.scheme:
            return value.strip()
        scheme, _, credential = value.strip().partition(" ")
        return credential.strip() if scheme.lower() == self.scheme else None


def cookie_values(request: Request, name: str) -> list[str]:
    """All values of a cookie (RFC 6265, 5.4: pairs with `; ` between them)."""
    pairs = [pair.partition("=") for line in request.headers.get_all("cookie") for pair in line.split(";")]
    return [value.strip().strip('"') for key, equals, value in pairs if equals and key.strip() == name]


def without_cookie(request: Request, name: str) -> None:
    """Take a cookie out of the request, and leave the others as they are."""
    lines = request.headers.get_all("cookie")
    kept = [
        "; ".join(pair.strip() for pair in line.split(";") if pair.partition("=")[0].strip() != name) for line in lines
    ]
    if kept != lines:
        request.headers.set_all("cookie", [line for line in kept if line])
