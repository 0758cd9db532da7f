"""`Secret`: a field of a configuration whose value is not to be seen, and need not be in the configuration.

What the gateway's configuration holds is a literal, or says where the secret is: `$env://NAME`, a variable of the
runner's environment, or `file:/path`, a file that is read again when it has changed.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from time import monotonic
from typing import Any, Final

from gatewright.errors import ConfigError

__all__ = ["Secret"]

_ENV: Final = "$env://"
_FILE: Final = "file:"
_ELSEWHERE: Final = ("$secret://", "{vault://")
_LOOK_SECONDS: Final = 1.0
"""How often a file is looked at for changes."""

log = logging.getLogger("gatewright.secret")


class Secret:
    """A secret, or where it is. Use it as a field's type; `reveal()` gives the text.

    Its `repr` and `str` show no secret, and a configuration that holds one can't be turned into JSON by accident.
    """

    __slots__ = ("_known", "_looked", "_place", "_stamp", "_text")

    def __init__(self, text: str) -> None:
        """Take what the configuration says.

        Raises:
            ValueError: it is empty, or a reference that nobody resolves.
        """
        if not isinstance(text, str):
            raise TypeError(f"a secret is a str, not {type(text).__name__}")
        self._text = text
        self._place = ""
        self._known: str | None = None
        self._looked = 0.0
        self._stamp: tuple[int, ...] = ()
        if not text:
            raise ValueError("a secret must not be empty")
        if text.startswith(_ELSEWHERE):
            raise ValueError(
                f"the gateway has not resolved {text!r}; say $env://NAME or file:/path, which the runner looks up"
            )
        if text.startswith(_ENV):
            self._place = text
            if not text.removeprefix(_ENV):
                raise ValueError("$env:// needs the name of a variable: $env://NAME")
        elif text.startswith(_FILE):
            self._place = text
            path = self._path
            if not path.is_absolute():
                raise ValueError(f"file: needs an absolute path, not {str(path)!r}")
        else:
            self._known = text

    @property
    def _path(self) -> Path:
        path = self._text.removeprefix(_FILE)
        return Path(path[2:] if path.startswith("///") else path)

    def reveal(self) -> str:
        """The secret. Cheap: a file is looked at once a second at most.

        Raises:
            ConfigError: it is not where it should be, or empty; the message says what to do.
        """
        known = self._known
        if not self._place:
            assert known is not None  # noqa: S101 - a literal
            return known
        if self._place.startswith(_ENV):
            if known is None:
                known = self._known = self._from_environment()
            return known
        now = monotonic()
        if known is None or now - self._looked > _LOOK_SECONDS:
            known = self._known = self._from_file(known)
            self._looked = now
        return known

    def _from_environment(self) -> str:
        name = self._place.removeprefix(_ENV)
        value = os.environ.get(name)
        if value:
            return value
        raise ConfigError(
            f"the environment has no {name} (or an empty one), which {self._place} refers to. APISIX clears the "
            f"environment of a runner that it starts: name {name} in nginx_config.envs of its config.yaml, "
            "or use file:/path"
        )

    def _from_file(self, known: str | None) -> str:
        path = self._path
        try:
            status = path.stat()
            stamp = status.st_mtime_ns, status.st_size, status.st_ino
            if known is not None and stamp == self._stamp:
                return known
            text = path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            if known is None:
                raise ConfigError(f"a secret can't be read from {path}: {reason}") from None
            log.warning("a secret can't be read again from %s: %s; the one of before is used", path, reason)
            return known
        if not text:
            if known is None:
                raise ConfigError(f"a secret can't be read from {path}: the file is empty")
            return known  # somebody is about to write it
        self._stamp = stamp
        return text

    def __repr__(self) -> str:
        return f"Secret({self._place!r})" if self._place else "Secret([redacted])"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        from pydantic_core import core_schema

        text = core_schema.no_info_after_validator_function(cls, core_schema.str_schema())
        return core_schema.union_schema([core_schema.is_instance_schema(cls), text], mode="left_to_right")

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, _handler: Any) -> dict[str, Any]:
        return dict(SCHEMA)


SCHEMA: Final[dict[str, Any]] = {"type": "string", "minLength": 1, "format": "password"}
"""How a secret looks in a JSON Schema."""
