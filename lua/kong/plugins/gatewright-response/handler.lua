--- Plugins of the runner in Kong's response phase, for which Kong keeps the whole answer in memory.

local shared = require("gatewright.kong")

local phases = { "response", "log" }

local _M = {
    VERSION = "0.1.0",
    PRIORITY = 2000,
}

function _M:response(conf)
    shared.response(conf, phases)
end

function _M:log(conf)
    shared.log(conf, phases)
end

return _M
