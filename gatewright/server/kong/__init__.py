"""Driving Kong's connections: the plugin server."""
