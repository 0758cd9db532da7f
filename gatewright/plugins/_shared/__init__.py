"""What several of the plugins that come along use."""
