"""Packages that only some plugins need, and only some installations have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gatewright import ConfigError

__all__ = ["extra"]


@contextmanager
def extra(name: str, *, plugin: str) -> Iterator[None]:
    """Around the import of what an extra brings.

    Args:
        name: the extra's name.
        plugin: who needs it, for the message.

    Raises:
        ConfigError: it is not installed; says what to install.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"the plugin {plugin} needs {error.name or 'a package'}, which is not installed ({error}): "
            f"pip install 'gatewright[{name}]'"
        ) from error
