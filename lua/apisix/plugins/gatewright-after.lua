--- After APISIX's own plugins.

local shared = require("gatewright.apisix")

local name = "gatewright-after"
local phases = { "request", "log" }

local _M = {
    version = 0.1,
    priority = -3000,
    name = name,
    schema = shared.schema,
    check_schema = shared.check_schema,
}

function _M.access(conf, ctx)
    return shared.request(conf, ctx, name, phases)
end

function _M.log(conf, ctx)
    shared.log(conf, ctx, name, phases)
end

return _M
