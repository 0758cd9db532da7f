"""Plugin base classes as the 0.x plugins know them."""
