"""The development gateway that acts as Apache APISIX does."""
