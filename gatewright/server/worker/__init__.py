"""The working process: loads plugins and serves connections; knows no gateway (see `drivers`)."""
