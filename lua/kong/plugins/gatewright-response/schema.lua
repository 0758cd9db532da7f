return require("gatewright.kong_schema")("gatewright-response")
