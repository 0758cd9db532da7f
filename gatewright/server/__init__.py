"""Sockets, processes and signals: all the I/O, and no knowledge of any gateway's protocol."""
