"""A gateway for development that behaves as Kong does towards plugin servers and clients.

After Kong's own Lua code (3.9 and later): nothing here was compared with a running Kong.
"""
