"""Finding plugins, turning configurations into chains, and running chains."""
