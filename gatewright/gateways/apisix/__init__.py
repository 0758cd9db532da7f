"""The APISIX ext-plugin protocol without a socket: frames and messages, a session, and its plugins' view of it."""
