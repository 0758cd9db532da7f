--- What the configurations of Kong's two plugins have in common.

local typedefs = require("kong.db.schema.typedefs")

--- A plugin's schema.
-- @param name the plugin's
-- @param more further fields
return function(name, more)
    local fields = {
        { address = { type = "string", required = true, default = "unix:/tmp/gatewright.sock" } },
        { threshold = { type = "integer", between = { 0, 10000 } } },
        {
            chain = {
                type = "array",
                required = true,
                len_min = 1,
                elements = {
                    type = "record",
                    fields = {
                        { name = { type = "string", required = true, len_min = 1 } },
                        { config = { type = "string" } },
                    },
                },
            },
        },
    }
    for _, field in ipairs(more or {}) do
        fields[#fields + 1] = field
    end
    return {
        name = name,
        fields = {
            { protocols = typedefs.protocols_http },
            { config = { type = "record", fields = fields } },
        },
    }
end
