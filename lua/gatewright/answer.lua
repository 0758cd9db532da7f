--- An upstream's answer that is still to be sent: changed by operations, and then sent to the client.
--
-- It has `status`, `headers` (names in lower case; a value or a list of values), and either `body` or `reader`, which
-- gives the body piece by piece; `close(whole)` is called when it is no longer needed.

local apply = require("gatewright.apply")
local wire = require("gatewright.wire")

local byte = string.byte
local lower = string.lower
local concat = table.concat
local ngx_print, flush = ngx.print, ngx.flush

local BODILESS = { [204] = true, [304] = true }
local HOP_BY_HOP = {
    ["connection"] = true,
    ["keep-alive"] = true,
    ["proxy-connection"] = true,
    ["te"] = true,
    ["trailer"] = true,
    ["transfer-encoding"] = true,
    ["upgrade"] = true,
}

local _M = { HOP_BY_HOP = HOP_BY_HOP }

--- Headers as they came, with names in lower case, and without those that belong to one connection.
function _M.headers(given)
    local headers = {}
    for name, value in pairs(given) do
        local key = lower(name)
        if not HOP_BY_HOP[key] then
            local present = headers[key]
            if present then -- in another spelling, too
                local list = type(present) == "table" and present or { present }
                for _, each in ipairs(type(value) == "table" and value or { value }) do
                    list[#list + 1] = each
                end
                value = list
            elseif type(value) == "table" then
                value = { unpack(value) }
            end
            headers[key] = value
        end
    end
    return headers
end

--- The whole body.
-- @return the body; nil and why if it can't be had
function _M.read(answer)
    if answer.body then
        return answer.body
    end
    local pieces, count, size = {}, 0, 0
    while answer.reader do
        local piece, err = answer.reader(wire.CHUNK)
        if err then
            return nil, err
        end
        if not piece then
            break
        end
        size = size + #piece
        if size > wire.MAX_BODY then
            return nil, "the upstream's body is too long"
        end
        count = count + 1
        pieces[count] = piece
    end
    answer.reader = nil
    answer.body = concat(pieces)
    return answer.body
end

--- A host (see `facts`) whose operations change `ctx.answer`.
function _M.host(behind)
    local host = apply.into(setmetatable({}, { __index = behind }))

    function host.status(_, ctx)
        return tostring(ctx.answer.status)
    end

    function host.set_response_header(_, ctx, name, value)
        ctx.answer.headers[name] = value
    end

    function host.append_response_header(_, ctx, name, value)
        local headers = ctx.answer.headers
        local present = headers[name]
        local values = type(present) == "table" and present or { present }
        values[#values + 1] = value
        headers[name] = values
    end

    host[byte("x")] = function(_, ctx, name)
        ctx.answer.headers[name] = nil
    end

    host[byte("S")] = function(_, ctx, status)
        ctx.answer.status = tonumber(status)
    end

    host[byte("b")] = function(_, ctx, body, got)
        ctx.answer.body, ctx.answer.reader = body or got.long or "", nil
        ctx.answer.changed = true
    end

    function host.rbody()
        return false -- it's read if it is asked for
    end

    function host.whole_rbody(_, ctx)
        return _M.read(ctx.answer) or false
    end

    return host
end

--- Send it to the client.
-- @return true; nil and why if it broke off, when some of it may have been sent already
function _M.send(answer)
    local status = answer.status
    local bodiless = ngx.req.get_method() == "HEAD" or BODILESS[status] or status < 200
    ngx.status = status
    if answer.changed and ngx.req.get_method() ~= "HEAD" or status == 204 then
        answer.headers["content-length"] = nil
    end
    if answer.body and not bodiless then
        answer.headers["content-length"] = #answer.body
    end
    for name, value in pairs(answer.headers) do
        ngx.header[name] = value
    end
    if bodiless then
        ngx.send_headers()
        return true
    end
    if answer.body then
        ngx_print(answer.body)
        return true
    end
    while answer.reader do
        local piece, err = answer.reader(wire.CHUNK)
        if err then
            return nil, err
        end
        if not piece then
            answer.reader = nil
            break
        end
        ngx_print(piece)
        local ok
        ok, err = flush(true)
        if not ok then
            return nil, "the client is gone: " .. (err or "")
        end
    end
    return true
end

return _M
