local typedefs = require("kong.db.schema.typedefs")

return {
    name = "gatewright",
    fields = {
        { protocols = typedefs.protocols_http },
        {
            config = {
                type = "record",
                fields = {
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
                },
            },
        },
    },
}
