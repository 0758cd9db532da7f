--- nginx and OpenResty without a gateway on top: a chain's phases for access_by_lua, header_filter_by_lua, log_by_lua.
--
--     init_by_lua_block {
--         gatewright = require("gatewright.nginx").new({ address = "unix:/tmp/gatewright.sock" })
--         shop = gatewright:chain("shop", { { "greet", '{"greeting": "hi"}' } })
--     }
--     location / {
--         access_by_lua_block { shop:access() }
--         proxy_pass http://upstream;
--     }

local apply = require("gatewright.apply")
local facts = require("gatewright.facts")
local runner = require("gatewright.runner")

local log = ngx.log

local _M = {}
local mt = { __index = _M }
local chain_mt = {}
chain_mt.__index = chain_mt

local host = apply.into(setmetatable({}, { __index = facts.ngx }))

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
function _M.chain(self, name, conf)
    for _, entry in ipairs(conf) do
        if type(entry[1]) ~= "string" or (entry[2] ~= nil and type(entry[2]) ~= "string") then
            error("a chain is a list of pairs of a plugin's name and its configuration as JSON text", 2)
        end
    end
    local phases = { "request" }
    return setmetatable({ name = name, conf = conf, phases = phases, of = self }, chain_mt)
end

local function chain_of(self)
    local chain = self.made
    if not chain then -- in the worker, not in the master
        chain = runner.chain(runner.new(self.of.options), self.name, self.conf, self.phases)
        self.made = chain
    end
    return chain
end

local function own(self)
    local ctx = ngx.ctx.gatewright
    if not ctx then
        ctx = { route = self.name }
        ngx.ctx.gatewright = ctx
    end
    return ctx
end

local function refuse(self, err)
    log(ngx.ERR, "gatewright: request refused: ", err, ", chain: ", self.name)
    return ngx.exit(self.of.status)
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
    local got, err = runner.call(chain_of(self), "request", host, ctx)
    if got == nil then
        return refuse(self, err)
    end
    if not got or not got.fields[1] then
        return
    end
    local ok
    ok, err = apply.run(host, ctx, got)
    if not ok then
        return refuse(self, err)
    end
    if got.flags == 1 then
        return answer(ctx)
    end
end

--- For header_filter_by_lua.
function chain_mt.header_filter()
end

--- For log_by_lua.
function chain_mt.log(self)
    runner.log(chain_of(self), host, own(self))
end

return _M
