--- A connection for each call, kept for the next one: the shortest way while few calls are under way.

local exchange = require("gatewright.exchange")
local wire = require("gatewright.wire")

local now = ngx.now
local sub = string.sub
local tcp = ngx.socket.tcp

local KEEP_MILLISECONDS = 60000
local READ_BYTES = 65536

local _M = {}

local queue = wire.queue() -- for all calls: what is put into it is taken out at once

--- Read a frame, of what has come already or is still to come.
-- @param data, at what has come, and how many bytes of it have been read
-- @return the fields, kind, flags, id, argument; and `data` and `at` behind the frame; nil and why if there is none
local function read(sock, client, deadline, data, at)
    while true do
        local size, kind, flags, count, id, argument = wire.head(data, at)
        if size == false then
            return nil, kind
        end
        local missing = size and size - (#data - at - wire.HEAD)
        if size and missing <= 0 then
            local start = at + wire.HEAD
            local fields, err = wire.fields(data, start, count, size)
            return fields, fields and kind or err, flags, id, argument, data, start + size
        end
        local left = deadline - now()
        if left <= 0 then
            return nil, "no answer in time"
        end
        sock:settimeouts(client.connect_timeout, left * 1000, left * 1000)
        local more, err
        if size then
            more, err = sock:receive(missing)
        else
            more, err = sock:receiveany(READ_BYTES)
        end
        if not more then
            return nil, err == "timeout" and "no answer in time" or "connection lost: " .. err
        end
        data, at = at < #data and sub(data, at + 1) .. more or more, 0
    end
end

--- Carry a call.
-- @param client what `runner.new` gives
-- @param call see `exchange`
-- @param argument, fields, n the frame's, see `wire.put`
-- @param deadline time by which the answer must have come
-- @return true; otherwise nil, why, and whether the runner can have begun the call
function _M.carry(client, call, argument, fields, n, deadline)
    local sock, err = tcp()
    if not sock then
        return nil, err, false
    end
    local left = deadline - now()
    sock:settimeouts(client.connect_timeout, left * 1000, left * 1000)
    local ok
    ok, err = sock:connect(client.pool_host, client.port)
    if not ok then
        return nil, "can't connect to " .. client.address .. ": " .. (err or ""), false
    end
    ok, err = wire.put(queue, call.kind, call.id, argument, fields, n)
    if not ok then
        sock:close()
        return nil, err, true
    end
    local frame = wire.take(queue)
    ok, err = sock:send(sock:getreusedtimes() == 0 and { wire.PREFACE, frame } or frame)
    if not ok then
        sock:close()
        return nil, "can't send: " .. err, true
    end
    local leaving, data, at = false, "", 0
    while true do
        local got, kind, flags, id, number
        got, kind, flags, id, number, data, at = read(sock, client, deadline, data, at)
        if not got then
            sock:close()
            return nil, kind, true
        end
        if kind == wire.LEAVE then
            leaving = true
        elseif id ~= call.id then
            sock:close()
            return nil, "refused: " .. (got[1] or "an answer to another call"), true
        else
            local done, asked = exchange.take(call, kind, flags, number, got)
            if done == nil then
                sock:close()
                return nil, asked, true
            end
            if done then
                if leaving or at < #data then
                    sock:close()
                else
                    -- The size is given here: who patches `connect` may lose its options.
                    sock:setkeepalive(KEEP_MILLISECONDS, client.pool_size)
                end
                return true
            end
            if asked then
                ok, err = exchange.tell(call, queue, number, got[1])
                if ok then
                    ok, err = sock:send(wire.take(queue))
                end
                if not ok then
                    sock:close()
                    return nil, "can't send: " .. err, true
                end
            end
        end
    end
end

return _M
