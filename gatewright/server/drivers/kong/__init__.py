"""Kong's connections."""
