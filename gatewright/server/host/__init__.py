"""What the operating system gives both: listening sockets, and the service manager."""
