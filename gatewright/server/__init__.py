"""Sockets, processes and signals: all the I/O.

Two processes and what passes between them: `supervisor` owns the sockets and the workers, a `worker` runs plugins, and
they speak over `ipc`. What a gateway says on a worker's connections is the affair of its sibling in `drivers`.
"""
