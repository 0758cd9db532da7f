"""The PDK's exceptions."""

from gatewright.errors import GatewrightError as PluginServerException
from gatewright.runtime.pdk import PdkError as PDKException

__all__ = ["PDKException", "PluginServerException"]
