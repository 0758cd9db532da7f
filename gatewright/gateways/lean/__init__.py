"""The lean protocol: our own, between a small Lua plugin in the gateway and this runner (see `docs/lean.md`)."""
