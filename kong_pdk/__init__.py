"""The import paths of Kong's Python PDK (kong-pdk): its plugins run unchanged.

Compatibility only: everything here stands for something in `gatewright`.
"""
