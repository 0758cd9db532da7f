"""Serves connections that speak our own protocol."""
