"""Gateway protocols without sockets: bytes in, events out; replies in, bytes out."""
