"""Seeing into a running runner."""
