"""Gatewright runs Python plugins inside API gateways.

This module is the API for plugin authors; everything else belongs to the runner.
"""

from gatewright._version import __version__
from gatewright.datastructures import Headers, Query
from gatewright.errors import (
    ConfigError,
    DeadlineExceededError,
    GatewrightError,
    NotAvailableError,
    NotJsonError,
    PluginError,
)
from gatewright.http import Request, Response, SyncRequest, SyncResponse
from gatewright.plugin import Plugin, override
from gatewright.secret import Secret

__all__ = [
    "ConfigError",
    "DeadlineExceededError",
    "GatewrightError",
    "Headers",
    "NotAvailableError",
    "NotJsonError",
    "Plugin",
    "PluginError",
    "Query",
    "Request",
    "Response",
    "Secret",
    "SyncRequest",
    "SyncResponse",
    "__version__",
    "override",
]
