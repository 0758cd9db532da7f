--- Plugins of the runner in Kong's access and log phases.

local shared = require("gatewright.kong")

local phases = { "request", "log" }

local _M = {
    VERSION = "0.1.0",
    PRIORITY = 2000, -- before Kong's own authentication; KONG's dynamic ordering may say otherwise
}

function _M:access(conf)
    shared.request(conf, phases)
end

function _M:log(conf)
    shared.log(conf, phases)
end

return _M
