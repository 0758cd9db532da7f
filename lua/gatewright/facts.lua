--- What calls bring: a plan's names, and how each is had from a request.
--
-- `ngx` below does it by nginx's own means; a gateway that knows better has a table of its own with this one behind it.

local single = require("gatewright.headers")
local wire = require("gatewright.wire")

local concat = table.concat
local req = ngx.req
local sub, find, lower = string.sub, string.find, string.lower
local type = type

local MOST_PLANS = 256

local _M = {}

local gatherers = setmetatable({}, { __mode = "k" })
local gatherer_count = 0

--- A function that gathers what a plan names, written out: a loop over getters can't be compiled as one trace, and
-- through the interpreter each of them costs several times as much.
local function compile(host, plan)
    local code, values = { "local plan = ... return function(host, ctx) return { plan" }, 0
    for name in plan:gmatch("[^,]+") do
        values = values + 1
        local kind, rest = name:match("^(%l+):?(.*)$")
        if kind and host[kind] then
            code[#code + 1] = string.format(", host:%s(ctx, %q) or false", kind, rest)
        else
            code[#code + 1] = ", false"
        end
    end
    code[#code + 1] = " }, " .. values + 1 .. " end"
    return assert(loadstring(concat(code), "=plan"))(plan)
end

local function gatherer(host, plan)
    if gatherer_count >= MOST_PLANS then
        gatherers, gatherer_count = setmetatable({}, { __mode = "k" }), 0
    end
    local of = gatherers[host]
    if not of then
        of = {}
        gatherers[host] = of
    end
    local gather = compile(host, plan)
    of[plan] = gather
    gatherer_count = gatherer_count + 1
    return gather
end

--- The fields of a call.
-- @return fields (`false` for what there is not) and how many
function _M.gather(host, ctx, plan)
    local of = gatherers[host]
    local gather = of and of[plan] or gatherer(host, plan)
    return gather(host, ctx)
end

--- One thing that was asked for.
-- @return a string; false if there is no such thing
function _M.get(host, ctx, name)
    local colon = find(name, ":", 1, true)
    local kind, rest = name, nil
    if colon then
        kind, rest = sub(name, 1, colon - 1), sub(name, colon + 1)
    end
    local whole = host["whole_" .. kind] -- however long it is
    local get = whole or host[kind]
    return get and get(host, ctx, rest) or false
end

--- Headers as text, a `name:value` a line.
function _M.text_of_headers(headers)
    local lines, count = {}, 0
    for name, value in pairs(headers) do
        if type(value) == "table" then
            for _, each in ipairs(value) do
                count = count + 1
                lines[count] = name .. ":" .. each
            end
        else
            count = count + 1
            lines[count] = name .. ":" .. (value == true and "" or value)
        end
    end
    return concat(lines, "\n")
end

local function joined(value)
    if type(value) == "table" then
        return concat(value, "\n")
    end
    return value == true and "" or value
end

--- A header by its name in lower case, all values.
function _M.header_of(headers, name)
    local value = rawget(headers, name)
    return value and joined(value) or false
end

--- The client's body, from memory or from the file that nginx has put it into.
--
-- Some versions of the Lua module read none under HTTP/2 that comes without a content-length. Where there should be
-- none, there is none then: whatever comes is thrown away, so that the upstream gets no other body than plugins saw.
-- @return the body; false and why if it can't be had
function _M.read_body()
    if not pcall(req.read_body) then
        local method = req.get_method()
        if method ~= "GET" and method ~= "HEAD" then
            return false, "a body under HTTP/2 without a content-length can't be read"
        end
        req.discard_body()
        return ""
    end
    local body = req.get_body_data()
    if body then
        return body
    end
    local name = req.get_body_file()
    if not name then
        return ""
    end
    local file = io.open(name, "rb")
    if not file then
        return false
    end
    body = file:read(wire.MAX_BODY + 1)
    file:close()
    if not body or #body > wire.MAX_BODY then
        return false, "the client's body is too long"
    end
    return body
end

local host = {}
_M.ngx = host

function host.method()
    return req.get_method()
end

function host.path()
    return ngx.var.uri
end

function host.query()
    return ngx.var.args or ""
end

function host.ip()
    return ngx.var.remote_addr
end

function host.ctx(_, ctx)
    return ctx.kept
end

function host.consumer(_, ctx)
    return ctx.consumer
end

function host.route(_, ctx)
    return ctx.route
end

function host.request_headers(_, ctx)
    local headers = ctx.headers
    if not headers then
        headers = req.get_headers(0)
        ctx.headers = headers
    end
    return headers
end

function host.response_headers(_, ctx)
    return ctx.answer and ctx.answer.headers or ngx.resp.get_headers(0)
end

function host.headers(self, ctx)
    return _M.text_of_headers(self:request_headers(ctx))
end

function host.h(self, ctx, name)
    if not ctx.headers then -- of few that are brought, each is looked for; many are brought as all
        local value = single.named(name)
        if value ~= nil then
            return value
        end
    end
    return _M.header_of(self:request_headers(ctx), name)
end

function host.v(_, _, name)
    local value = ngx.var[name]
    return value and tostring(value)
end

--- Brought only if it is short; a longer one is asked for, and comes in parts.
function host.body(self, ctx)
    local headers = self:request_headers(ctx)
    local length = tonumber(joined(rawget(headers, "content-length") or "") or "")
    if not length or length > wire.CHUNK then
        return false
    end
    return _M.read_body()
end

function host.whole_body()
    return _M.read_body()
end

function host.early()
    return ""
end

function host.status()
    return tostring(ngx.status)
end

function host.rheaders(self, ctx)
    return _M.text_of_headers(self:response_headers(ctx))
end

function host.r(self, ctx, name)
    return _M.header_of(self:response_headers(ctx), lower(name))
end

function host.rbody(_, ctx)
    return ctx.body and #ctx.body <= wire.CHUNK and ctx.body or false
end

function host.whole_rbody(_, ctx)
    return ctx.body or false
end

return _M
