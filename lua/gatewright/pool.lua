--- A connection for each call, kept for the next one: the shortest way while few calls are under way.

local exchange = require("gatewright.exchange")
local wire = require("gatewright.wire")

local tcp = ngx.socket.tcp
local now = ngx.now

local KEEP_MILLISECONDS = 60000

local _M = {}

local queue = wire.queue() -- for all calls: what is put into it is taken out at once

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
    local leaving = false
    while true do
        left = deadline - now()
        if left <= 0 then
            sock:close()
            return nil, "no answer in time", true
        end
        sock:settimeouts(client.connect_timeout, left * 1000, left * 1000)
        local head, rest, got, done
        head, err = sock:receive(wire.HEAD)
        if not head then
            sock:close()
            return nil, err == "timeout" and "no answer in time" or "connection lost: " .. err, true
        end
        local size, kind, flags, count, id, number = wire.head(head, 0)
        if not size then
            sock:close()
            return nil, kind, true
        end
        rest = ""
        if size > 0 then
            rest, err = sock:receive(size)
            if not rest then
                sock:close()
                return nil, "connection lost: " .. err, true
            end
        end
        got, err = wire.fields(rest, 0, count, size)
        if not got then
            sock:close()
            return nil, err, true
        end
        if kind == wire.LEAVE then
            leaving = true
        elseif id ~= call.id then
            sock:close()
            return nil, "refused: " .. (got[1] or "an answer to another call"), true
        else
            local asked
            done, asked = exchange.take(call, kind, flags, number, got)
            if done == nil then
                sock:close()
                return nil, asked, true
            end
            if done then
                if leaving then
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
