"""Import paths of Apache's Python runner 0.1.0 and 0.2.0."""
