"""The development gateway: does to a runner, a client and an upstream what Apache APISIX does. Not for production."""
