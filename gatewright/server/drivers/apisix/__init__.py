"""APISIX's connections."""
