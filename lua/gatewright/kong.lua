--- What Kong's plugins have in common.

local apply = require("gatewright.apply")
local facts = require("gatewright.facts")
local runner = require("gatewright.runner")

local byte, gsub = string.byte, string.gsub
local kong = kong
local ngx = ngx

local _M = {}

local host = apply.into(setmetatable({}, { __index = facts.ngx }))
_M.host = host

function host.ip()
    return kong.client.get_forwarded_ip()
end

function host.consumer()
    local consumer = kong.client.get_consumer()
    return consumer and (consumer.username or consumer.custom_id or consumer.id) or false
end

function host.route()
    local route = kong.router.get_route()
    return route and (route.name or route.id) or false
end

function host.set_header(_, ctx, name, value)
    ctx.headers = nil
    if type(value) == "table" then
        kong.service.request.set_headers({ [name] = value })
    else
        kong.service.request.set_header(name, value)
    end
end

host[byte("d")] = function(_, ctx, name)
    ctx.headers = nil
    kong.service.request.clear_header(name)
end

function host.set_response_header(_, _, name, value)
    kong.response.set_header(name, value)
end

host[byte("x")] = function(_, _, name)
    kong.response.clear_header(name)
end

host[byte("P")] = function(_, _, path)
    local escaped = gsub(path, "[^%w/%-%._~!%$&'%(%)%*%+,;=:@]", function(char)
        return string.format("%%%02X", byte(char))
    end)
    kong.service.request.set_path(escaped)
end

host[byte("Q")] = function(_, _, query)
    kong.service.request.set_raw_query(query)
end

host[byte("B")] = function(_, ctx, body, answer)
    ctx.headers = nil
    kong.service.request.set_raw_body(body or answer.long or "")
end

host[byte("U")] = function(_, ctx, name)
    local consumer = kong.client.load_consumer(name, true)
    if not consumer then
        ctx.failed = "there is no consumer " .. name
        return
    end
    kong.client.authenticate(consumer, nil)
end

local chains = setmetatable({}, { __mode = "k" })

--- The chain of a plugin's configuration, and the request's own table.
function _M.of(conf, phases)
    local chain = chains[conf]
    if not chain then
        local client = runner.new({ address = conf.address, threshold = conf.threshold, name = "kong" })
        local entries = {}
        for number, entry in ipairs(conf.chain) do
            entries[number] = { entry.name, entry.config or "{}" }
        end
        chain = runner.chain(client, "plugin#" .. (conf.__plugin_id or kong.plugin.get_id() or ""), entries, phases)
        chains[conf] = chain
    end
    local ctx = ngx.ctx.gatewright
    if not ctx then
        ctx = {}
        ngx.ctx.gatewright = ctx
    end
    ctx.headers = nil -- others may have changed them
    return chain, ctx
end

function _M.refuse(err)
    kong.log.err("request refused: ", err)
    return kong.response.exit(503, { message = "The service is unavailable" })
end

--- Run a chain's request phase.
function _M.request(conf, phases)
    local chain, ctx = _M.of(conf, phases)
    local got, err = runner.call(chain, "request", host, ctx)
    if got == nil then
        return _M.refuse(err)
    end
    if not got or not got.fields[1] then
        return
    end
    ctx.status, ctx.body, ctx.failed = nil, nil, nil
    local ok
    ok, err = apply.run(host, ctx, got)
    if not ok or ctx.failed then
        return _M.refuse(err or ctx.failed)
    end
    if got.flags == 1 then
        return kong.response.exit(ctx.status, ctx.body ~= "" and ctx.body or nil)
    end
end

--- Run a chain's log phase.
function _M.log(conf, phases)
    local chain, ctx = _M.of(conf, phases)
    local ok, err = runner.log(chain, host, ctx)
    if not ok then
        kong.log.err("the log phase is lost: ", err)
    end
end

return _M
