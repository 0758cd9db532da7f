"""The lean path in development gateways: what the Lua files do in real ones."""
