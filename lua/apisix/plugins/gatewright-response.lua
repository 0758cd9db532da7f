--- The upstream's answer, before the client gets it.

local shared = require("gatewright.apisix")

local name = "gatewright-response"
local phases = { "response", "log" }

local _M = {
    version = 0.1,
    priority = -4000,
    name = name,
    schema = shared.schema,
    check_schema = shared.check_schema,
}

function _M.before_proxy(conf, ctx)
    return shared.response(conf, ctx, name, phases)
end

function _M.header_filter(_, ctx)
    shared.header_filter(name, ctx)
end

function _M.log(conf, ctx)
    shared.log(conf, ctx, name, phases)
end

return _M
