--- What APISIX's three plugins have in common.

local answers = require("gatewright.answer")
local apply = require("gatewright.apply")
local core = require("apisix.core")
local facts = require("gatewright.facts")
local plugin = require("apisix.plugin")
local respond = require("gatewright.respond")
local runner = require("gatewright.runner")
local upstream = require("gatewright.apisix_upstream")

local byte, find, gsub, sub = string.byte, string.find, string.gsub, string.sub
local get_phase = ngx.get_phase
local req = ngx.req

local chains = core.lrucache.new({ type = "plugin" })

local _M = {
    schema = {
        type = "object",
        properties = {
            conf = {
                type = "array",
                items = {
                    type = "object",
                    properties = {
                        name = { type = "string", minLength = 1, maxLength = 128 },
                        value = { anyOf = { { type = "string" }, { type = "object" } } },
                    },
                    required = { "name" },
                    additionalProperties = false,
                },
                minItems = 1,
            },
        },
        required = { "conf" },
        additionalProperties = false,
    },
}

function _M.check_schema(conf)
    return core.schema.check(_M.schema, conf)
end

local host = apply.into(setmetatable({}, { __index = facts.ngx }))

local function unescaped(text)
    return (gsub(text, "%%(%x%x)", function(digits)
        return string.char(tonumber(digits, 16))
    end))
end

--- The path that the upstream will see, as other plugins have left it.
function host.path(_, ctx)
    local uri = ctx.api.var.upstream_uri
    if not uri or uri == "" then
        return ctx.api.var.uri
    end
    local question = find(uri, "?", 1, true)
    return unescaped(question and sub(uri, 1, question - 1) or uri)
end

function host.query(_, ctx)
    local uri = ctx.api.var.upstream_uri
    local question = uri and find(uri, "?", 1, true)
    return question and sub(uri, question + 1) or ctx.api.var.args or ""
end

function host.ip(_, ctx)
    return ctx.api.var.remote_addr
end

function host.v(_, ctx, name)
    local value = ctx.api.var[name]
    return value ~= nil and tostring(value)
end

function host.consumer(_, ctx)
    return ctx.api.consumer_name or false
end

function host.set_header(_, ctx, name, value)
    ctx.headers = nil
    core.request.set_header(ctx.api, name, value)
    if name == "host" then
        ctx.api.var.upstream_host = value
    end
end

host[byte("d")] = function(_, ctx, name)
    ctx.headers = nil
    core.request.set_header(ctx.api, name, nil)
end

function host.set_response_header(_, _, name, value)
    core.response.set_header(name, value)
end

host[byte("P")] = function(self, ctx, path)
    local query = self:query(ctx)
    ctx.api.var.upstream_uri = core.utils.uri_safe_encode(path) .. (query ~= "" and "?" .. query or "")
end

host[byte("Q")] = function(_, ctx, query)
    local uri = ctx.api.var.upstream_uri
    if uri and uri ~= "" then
        local question = find(uri, "?", 1, true)
        uri = question and sub(uri, 1, question - 1) or uri
        ctx.api.var.upstream_uri = uri .. (query ~= "" and "?" .. query or "")
    end
    ctx.api.req_uri_args = nil
    ctx.api.var.args = nil
    req.set_uri_args(query)
end

host[byte("U")] = function(_, ctx, name)
    local consumers = require("apisix.consumer")
    local list, version = consumers.consumers()
    for _, item in ipairs(list or {}) do
        if type(item) == "table" and item.value and (item.value.username or item.value.id) == name then
            local consumer = core.table.clone(item.value)
            consumer.consumer_name = consumer.id or consumer.username
            consumer.custom_id = consumer.labels and consumer.labels.custom_id
            consumer.modifiedIndex = item.modifiedIndex
            consumers.attach_consumer(ctx.api, consumer, { conf_version = version })
            return
        end
    end
    return nil, "there is no consumer " .. name
end

_M.host = host
local answering = answers.host(host)

local function make(conf, key, phases)
    local attr = plugin.plugin_attr("gatewright") or {}
    local client = runner.new({ address = attr.address, threshold = attr.threshold, name = "apisix" })
    local entries = {}
    for number, entry in ipairs(conf.conf) do
        local value = entry.value
        if type(value) == "table" then
            value = core.json.encode(value)
        end
        entries[number] = { entry.name, value or "{}" }
    end
    return runner.chain(client, key, entries, phases)
end

-- By configuration, the chain that it had last, and where that was: APISIX's own cache makes two strings for each look.
local latest = setmetatable({}, { __mode = "k" })

local function chain_of(conf, api_ctx, name, phases)
    local id, version = api_ctx.conf_id, api_ctx.conf_version
    local known = latest[conf]
    if known and known.id == id and known.version == version and known.name == name then
        return known.chain
    end
    local place = (api_ctx.conf_type or "") .. "#" .. (id or "")
    local chain = core.lrucache.plugin_ctx(chains, api_ctx, name, make, conf, place, phases)
    latest[conf] = { id = id, version = version, name = name, chain = chain }
    return chain
end

--- The chain of a plugin's configuration, and the request's own table.
function _M.of(conf, api_ctx, name, phases)
    local chain = chain_of(conf, api_ctx, name, phases)
    local ctx = api_ctx.gatewright
    if not ctx then
        ctx = {
            api = api_ctx,
            route = api_ctx.route_id and tostring(api_ctx.route_id),
            headers = nil,
            status = nil,
            body = nil,
            kept = nil,
            consumer = nil,
            early = nil,
        }
        api_ctx.gatewright = ctx
    end
    ctx.headers = nil -- others may have changed them
    return chain, ctx
end

function _M.refuse(name, err)
    core.log.error(name, ": request refused: ", err)
    return 503
end

--- Run a chain's request phase.
-- @return what a plugin's phase returns
function _M.request(conf, api_ctx, name, phases)
    local chain, ctx = _M.of(conf, api_ctx, name, phases)
    local got, err = runner.call(chain, "request", host, ctx)
    if got == nil then
        return _M.refuse(name, err)
    end
    if not got then
        return
    end
    ctx.body = nil
    local ok
    ok, err = apply.run(host, ctx, got)
    if not ok then
        return _M.refuse(name, err)
    end
    if apply.stops(got) then
        local body = ctx.body
        return ctx.status, body ~= "" and body or nil
    end
end

--- Ask the upstream, and let plugins see its answer. (Apart, since what makes a function isn't compiled.)
local function with_answer(chain, api_ctx, ctx, name)
    local ok, err, status = respond.with_answer(chain, answering, ctx, function()
        return upstream.ask(api_ctx)
    end)
    if not ok then
        core.log.error(name, ": answer refused: ", err)
        if not status then
            return ngx.exit(ngx.ERROR)
        end
        return status
    end
    return ngx.exit(ngx.OK)
end

--- Run a chain's response phase: decided now for plugins that don't look at the answer, or with the answer in hand.
function _M.response(conf, api_ctx, name, phases)
    if get_phase() == "balancer" then -- another node is tried: what there was to decide has been decided
        return
    end
    local chain, ctx = _M.of(conf, api_ctx, name, phases)
    local early, err = respond.early(chain, host, ctx)
    if early == nil then
        return _M.refuse(name, err)
    end
    if early or not chain.plans.response then
        return
    end
    return with_answer(chain, api_ctx, ctx, name)
end

--- Do what was decided before the upstream was asked; for the header_filter phase.
function _M.header_filter(name, api_ctx)
    local ctx = api_ctx.gatewright
    if ctx and ctx.early then
        local ok, err = respond.finish(host, ctx)
        if not ok then
            core.log.error(name, ": answer refused: ", err)
            return ngx.exit(ngx.ERROR)
        end
    end
end

--- Run a chain's log phase.
function _M.log(conf, api_ctx, name, phases)
    local chain, ctx = _M.of(conf, api_ctx, name, phases)
    local ok, err = runner.log(chain, host, ctx)
    if not ok then
        core.log.error(name, ": the log phase is lost: ", err)
    end
end

return _M
