"""The supervising process: sockets, workers, reloads, conf tokens, what is shown of it. Runs no plugin."""
