"""The inspector: what became of each request, kept, shown on a page, written to a file (`docs/inspector.md`)."""
