--- nginx and OpenResty without a gateway on top: a chain's phases for access_by_lua, header_filter_by_lua, log_by_lua.
--
--     init_by_lua_block {
--         gatewright = require("gatewright.nginx").new({ address = "unix:/tmp/gatewright.sock" })
--         shop = gatewright:chain("shop", { { "greet", '{"greeting": "hi"}' } })
--     }
--     location / {
--         access_by_lua_block { shop:access() }
--         header_filter_by_lua_block { shop:header_filter() }  # with `header_filter = true`
--         log_by_lua_block { shop:log() }                      # with `log = true`
--         proxy_pass http://upstream;
--     }

local apply = require("gatewright.apply")
local answers = require("gatewright.answer")
local facts = require("gatewright.facts")
local respond = require("gatewright.respond")
local runner = require("gatewright.runner")
local upstream = require("gatewright.upstream")

local log = ngx.log

local _M = {}
local mt = { __index = _M }
local chain_mt = {}
chain_mt.__index = chain_mt

local host = apply.into(setmetatable({}, { __index = facts.ngx }))
local answering = answers.host(facts.ngx)

--- A runner.
-- @param options see `runner.new`; `status`: what a refused client gets, 503 unless it says otherwise
function _M.new(options)
    options = options or {}
    options.name = options.name or "nginx"
    return setmetatable({ options = options, status = options.status or 503 }, mt)
end

--- A chain of plugins.
-- @param name what the runner calls it in its logs
-- @param conf pairs of a plugin's name and its configuration, JSON text
-- @param options which other phases are called: `header_filter = true` for the responses of plugins that don't look at
-- them; `upstream`, an internal location such as "/upstream/" that passes requests on, for those that do; `log = true`
function _M.chain(self, name, conf, options)
    options = options or {}
    for _, entry in ipairs(conf) do
        if type(entry[1]) ~= "string" or (entry[2] ~= nil and type(entry[2]) ~= "string") then
            error("a chain is a list of pairs of a plugin's name and its configuration as JSON text", 2)
        end
    end
    local phases = { "request" }
    if options.header_filter or options.upstream then
        phases[#phases + 1] = "response"
    end
    if options.log then
        phases[#phases + 1] = "log"
    end
    return setmetatable({ name = name, conf = conf, phases = phases, options = options, of = self }, chain_mt)
end

local function chain_of(self)
    local chain = self.made
    if not chain then -- in the worker, not in the master
        chain = runner.chain(runner.new(self.of.options), self.name, self.conf, self.phases)
        self.made = chain
    end
    return chain
end

local shared = false -- whether a request's table has been kept in this worker, for another phase or chain

--- The request's own table. Until one is kept there is none to be found: `ngx.ctx` costs as much as a header set.
local function own(self)
    local lasts = #self.phases > 1
    local all = (shared or lasts) and ngx.ctx
    local ctx = all and all.gatewright
    if not ctx then
        ctx = { route = self.name, headers = nil, status = nil, body = nil, kept = nil, consumer = nil, early = nil }
        if lasts then
            shared = true
            all.gatewright = ctx
        end
    end
    return ctx
end

--- Keep the table for further chains, if there is something in it for them.
local function keep(ctx)
    if ctx.kept or ctx.consumer then
        shared = true
        ngx.ctx.gatewright = ctx
    end
end

local function refuse(self, err, status)
    log(ngx.ERR, "gatewright: request refused: ", err, ", chain: ", self.name)
    return ngx.exit(status or self.of.status)
end

--- Answer the client instead of the upstream.
local function answer(ctx)
    local status, body = ctx.status, ctx.body or ""
    ngx.status = status
    if body == "" and status >= 300 then
        return ngx.exit(status) -- with the server's own page
    end
    ngx.header["content-length"] = #body
    ngx.print(body)
    return ngx.exit(ngx.HTTP_OK)
end

--- For access_by_lua.
function chain_mt.access(self)
    local ctx = own(self)
    local chain = chain_of(self)
    local got, err = runner.call(chain, "request", host, ctx)
    if got == nil then
        return refuse(self, err)
    end
    if got then
        local ok
        ok, err = apply.run(host, ctx, got)
        if not ok then
            return refuse(self, err)
        end
        if apply.stops(got) then
            return answer(ctx)
        end
        keep(ctx)
    end
    if chain.plans.response then
        return self:decide(chain, ctx)
    end
end

--- Ask the upstream, and let plugins see its answer. (Apart, since what makes a function isn't compiled.)
local function with_answer(self, chain, ctx, location)
    local ok, err, status = respond.with_answer(chain, answering, ctx, function()
        return upstream.capture(location)
    end)
    if not ok then
        if not status then
            log(ngx.ERR, "gatewright: an answer broke off: ", err, ", chain: ", self.name)
            return ngx.exit(ngx.ERROR)
        end
        return refuse(self, err, status)
    end
    return ngx.exit(ngx.HTTP_OK)
end

--- See to the response phase.
function chain_mt.decide(self, chain, ctx)
    local early, err = respond.early(chain, host, ctx)
    if early == nil then
        return refuse(self, err)
    end
    local location = self.options.upstream
    if location then
        return with_answer(self, chain, ctx, location)
    end
    if not early then
        return refuse(self, "its plugins look at the answer: give the chain an `upstream` location")
    end
end

--- For header_filter_by_lua.
function chain_mt.header_filter(self)
    local ctx = ngx.ctx.gatewright
    if ctx and ctx.early then
        local ok, err = respond.finish(host, ctx)
        if not ok then
            log(ngx.ERR, "gatewright: answer refused: ", err, ", chain: ", self.name)
            return ngx.exit(ngx.ERROR) -- before anything of it is sent
        end
    end
end

--- For log_by_lua.
function chain_mt.log(self)
    local ok = runner.log(chain_of(self), host, own(self))
    if not ok then
        log(ngx.ERR, "gatewright: a log phase is lost, chain: ", self.name)
    end
end

return _M
