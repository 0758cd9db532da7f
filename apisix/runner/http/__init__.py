"""Request and response as the 0.x plugins know them."""
