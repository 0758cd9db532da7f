--- What calls bring: a plan's names, and how each is had from a request.
--
-- `ngx` below does it by nginx's own means; a gateway that knows better has a table of its own with this one behind it.

local wire = require("gatewright.wire")

local concat = table.concat
local req = ngx.req
local sub, find, lower = string.sub, string.find, string.lower
local type = type

local MOST_PLANS = 256

local _M = {}

local plans = {}
local plan_count = 0

--- The names of a plan, taken apart once.
local function compile(plan)
    local compiled = { plan = plan }
    for name in plan:gmatch("[^,]+") do
        local colon = find(name, ":", 1, true)
        compiled[#compiled + 1] = colon and { sub(name, 1, colon - 1), sub(name, colon + 1) } or { name }
    end
    if plan_count >= MOST_PLANS then
        plans, plan_count = {}, 0
    end
    plans[plan] = compiled
    plan_count = plan_count + 1
    return compiled
end

--- The fields of a call.
-- @return fields (`false` for what there is not) and how many
function _M.gather(host, ctx, plan)
    local compiled = plans[plan] or compile(plan)
    local fields = { plan }
    local n = #compiled
    for number = 1, n do
        local entry = compiled[number]
        local get = host[entry[1]]
        fields[number + 1] = get and get(host, ctx, entry[2]) or false
    end
    return fields, n + 1
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
