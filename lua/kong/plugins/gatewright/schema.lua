return require("gatewright.kong_schema")("gatewright", {
    { early_response = { type = "boolean", default = false } },
})
