--- Plugins of the runner in Kong's access, header_filter and log phases.

local shared = require("gatewright.kong")

local usual = { "request", "log" }
local with_early_response = { "request", "response", "log" }

local _M = {
    VERSION = "0.1.0",
    PRIORITY = 2000, -- before Kong's own authentication
}

local function phases(conf)
    return conf.early_response and with_early_response or usual
end

function _M:access(conf)
    shared.request(conf, phases(conf))
    if conf.early_response then
        shared.decide(conf, with_early_response)
    end
end

function _M:header_filter()
    shared.header_filter()
end

function _M:log(conf)
    shared.log(conf, phases(conf))
end

return _M
