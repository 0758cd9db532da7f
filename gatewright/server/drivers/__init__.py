"""What drives the connections of each gateway, on top of a worker: siblings that do not know each other."""
