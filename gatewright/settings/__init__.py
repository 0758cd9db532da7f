"""Settings: flags over environment over file over defaults, in one frozen object that knows where each came from."""

from gatewright.settings.addresses import Address, parse_address
from gatewright.settings.loading import DEFAULT_FILE, Effective, describe_settings, load_settings
from gatewright.settings.table import LOG_LEVELS, PluginSettings, Settings, control_address, worker_count

__all__ = [
    "DEFAULT_FILE", "LOG_LEVELS", "Address", "Effective", "PluginSettings", "Settings", "control_address",
    "describe_settings", "load_settings", "parse_address", "worker_count",
]  # fmt: skip
