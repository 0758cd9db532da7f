"""Import paths of the plugin guide: `apisix.plugin.runner`, `.request`, `.response`. Plugin files here are loaded."""
