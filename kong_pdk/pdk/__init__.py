"""The PDK, for editors."""
