--- Answers carried out: each operation by a function of the host (see `facts`), by nginx's own means unless it knows
-- better.

local req = ngx.req
local byte = string.byte

local STOP = 1

local _M = {}

local function is_status(text)
    local status = text and #text == 3 and tonumber(text)
    return status and status >= 200 and status <= 999 and status % 1 == 0
end

local function flush(ctx, host, set, name, value)
    if name then
        host[set](host, ctx, name, value)
    end
end

--- Whether it is the client that an answer is for.
function _M.stops(answer)
    return answer[0] == STOP
end

--- Carry out what plugins want of a request.
-- @param host how to get at the request
-- @param ctx the request's own table
-- @param answer its fields and flags (see `exchange.call`)
-- @return true; nil and why if an operation is unknown or cut off, and then the request has to be refused
function _M.run(host, ctx, answer)
    local ops, flags = answer[1], answer[0]
    if flags > STOP then
        return nil, "an unknown flag: this side is older than the runner"
    end
    if not ops then
        if flags == STOP then
            return nil, "an answer for the client that says nothing"
        end
        return true
    end
    ctx.status = nil
    local at = 2
    local set, name, value -- a header that may have further values
    for number = 1, #ops do
        local op = byte(ops, number)
        local first = answer[at]
        if op == 104 or op == 114 then -- "h", "r": one more value
            if not name then
                return nil, "a value without a header"
            end
            if type(value) ~= "table" then
                value = { value }
            end
            value[#value + 1] = answer[at + 1]
            at = at + 2
        else
            flush(ctx, host, set, name, value)
            name = nil
            if op == 72 or op == 82 then -- "H", "R"
                set = op == 72 and "set_header" or "set_response_header"
                name, value = first, answer[at + 1]
                if not name or not value then
                    return nil, "a header without a value"
                end
                at = at + 2
            elseif op == 97 then -- "a"
                if not first or not answer[at + 1] then
                    return nil, "a header without a value"
                end
                host:append_response_header(ctx, first, answer[at + 1])
                at = at + 2
            else
                local run = host[op]
                if not run then
                    return nil, "an unknown operation: this side is older than the runner"
                end
                if first == nil then
                    return nil, "an answer is cut off"
                end
                if op == 83 and not is_status(first) then -- "S"
                    return nil, "a status that is none"
                end
                local _, err = run(host, ctx, first, answer)
                if err then
                    return nil, err
                end
                at = at + 1
            end
        end
    end
    flush(ctx, host, set, name, value)
    if flags == STOP and not ctx.status then
        return nil, "an answer for the client without a status"
    end
    return true
end

--- Operations by nginx's own means, in a host's table.
function _M.into(host)
    function host.set_header(_, ctx, name, value)
        ctx.headers = nil
        req.set_header(name, value)
    end

    function host.set_response_header(_, _, name, value)
        ngx.header[name] = value
    end

    --- Add a value to what the upstream has sent. `ngx.header` gives a list only where there are several.
    function host.append_response_header(_, _, name, value)
        local present = ngx.header[name]
        if present == nil then
            ngx.header[name] = value
            return
        end
        local values = type(present) == "table" and present or { present }
        values[#values + 1] = value
        ngx.header[name] = values
    end

    host[byte("d")] = function(_, ctx, name)
        ctx.headers = nil
        req.clear_header(name)
    end

    host[byte("x")] = function(_, _, name)
        ngx.header[name] = nil
    end

    host[byte("P")] = function(_, _, path)
        req.set_uri(path, false, true)
    end

    host[byte("Q")] = function(_, _, query)
        req.set_uri_args(query)
    end

    host[byte("B")] = function(_, ctx, body, answer)
        ctx.headers = nil
        if not pcall(req.read_body) then
            return nil, "under HTTP/2 a body without a content-length can't be replaced"
        end
        req.set_body_data(body or answer.long or "")
    end

    host[byte("S")] = function(_, ctx, status)
        ctx.status = tonumber(status)
    end

    host[byte("b")] = function(_, ctx, body, answer)
        ctx.body = body or answer.long or ""
    end

    host[byte("C")] = function(_, ctx, kept)
        ctx.kept = kept
    end

    host[byte("U")] = function(_, ctx, consumer)
        ctx.consumer = consumer
    end

    host[byte("N")] = function() end
    return host
end

return _M
