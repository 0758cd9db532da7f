--- What Kong's plugins have in common.

local answers = require("gatewright.answer")
local apply = require("gatewright.apply")
local facts = require("gatewright.facts")
local respond = require("gatewright.respond")
local runner = require("gatewright.runner")

local byte, gsub = string.byte, string.gsub
local kong = kong
local ngx = ngx

local _M = {}

local host = apply.into(setmetatable({}, { __index = facts.ngx }))
_M.host = host
local answering = answers.host(host)

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

local function set_response_header(name, value)
    if type(value) == "table" then -- Kong 3.4's set_header takes none
        kong.response.set_headers({ [name] = value })
    else
        kong.response.set_header(name, value)
    end
end

function host.set_response_header(_, _, name, value)
    set_response_header(name, value)
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

host[byte("U")] = function(_, _, name)
    local consumer = kong.client.load_consumer(name, true)
    if not consumer then
        return nil, "there is no consumer " .. name
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
        local place = conf.route_id or conf.service_id or conf.consumer_id or "global"
        chain = runner.chain(client, place, entries, phases)
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
    if not got then
        return
    end
    ctx.body = nil
    local ok
    ok, err = apply.run(host, ctx, got)
    if not ok then
        return _M.refuse(err)
    end
    if apply.stops(got) then
        return kong.response.exit(ctx.status, ctx.body ~= "" and ctx.body or nil)
    end
end

--- Decide what is to be done with an answer that has not come; for the access phase.
function _M.decide(conf, phases)
    local chain, ctx = _M.of(conf, phases)
    local early, err = respond.early(chain, host, ctx)
    if early == nil then
        return _M.refuse(err)
    end
    if not early and chain.plans.response then
        return _M.refuse("its plugins look at the answer: gatewright-response is for them")
    end
end

--- Do what was decided; for the header_filter phase.
function _M.header_filter()
    local ctx = ngx.ctx.gatewright
    if ctx and ctx.early then
        local ok, err = respond.finish(host, ctx)
        if not ok then
            for name in pairs(kong.response.get_headers(1000)) do
                kong.response.clear_header(name)
            end
            return _M.refuse(err) -- with a body: without one, Kong would send the upstream's
        end
    end
end

--- Run a chain's response phase, with the answer in hand.
function _M.response(conf, phases)
    local chain, ctx = _M.of(conf, phases)
    local answer = {
        status = kong.service.response.get_status() or kong.response.get_status(),
        headers = answers.headers(kong.response.get_headers(1000)),
        reader = nil,
    }
    local given = { status = answer.status, headers = {} }
    for name, value in pairs(answer.headers) do
        given.headers[name] = value
    end
    setmetatable(answer, {
        __index = function(_, name)
            return name == "body" and (kong.service.response.get_raw_body() or "") or nil
        end,
    })
    ctx.answer = answer
    local got, err = runner.call(chain, "response", answering, ctx)
    if got == false then
        return
    end
    local ok = got
    if got then
        ok, err = apply.run(answering, ctx, got)
    end
    if not ok then
        for name in pairs(given.headers) do
            kong.response.clear_header(name)
        end
        return _M.refuse(err)
    end
    if answer.changed then
        answer.headers["content-length"] = nil
        for name in pairs(given.headers) do
            kong.response.clear_header(name)
        end
        return kong.response.exit(answer.status, answer.body, answer.headers)
    end
    if answer.status ~= given.status then
        kong.response.set_status(answer.status)
    end
    for name, value in pairs(answer.headers) do
        if given.headers[name] ~= value then
            set_response_header(name, value)
        end
    end
    for name in pairs(given.headers) do
        if answer.headers[name] == nil then
            kong.response.clear_header(name)
        end
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
