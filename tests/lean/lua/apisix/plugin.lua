return {
    plugin_attr = function()
        return _G.attributes
    end,
}
