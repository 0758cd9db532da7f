"""The plugins of this checkout; every `*.py` file here is loaded."""
