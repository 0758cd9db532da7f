"""Import paths of the older Python runners, so that their plugins run unchanged. No logic of its own."""
