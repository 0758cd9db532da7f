"""Kong's Plugin Development Kit: every function of it that means something for HTTP.

What Kong refuses is refused here, in its words: a function in the wrong phase, an argument of the wrong type. The log
phase runs after the request, from a saved copy of its data, when nginx itself can no longer be asked.
"""

from gatewright.dev.kong.pdk import client, logs, request, response, service
from gatewright.dev.kong.pdk.core import FUNCTIONS, Pdk
from gatewright.dev.kong.pdk.response import error_body

__all__ = ["FUNCTIONS", "Pdk", "client", "error_body", "logs", "request", "response", "service"]
