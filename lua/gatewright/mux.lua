--- Many calls on one connection: what is cheapest when many are under way.
--
-- A socket belongs to the request that made it, so the connection lives in a timer: there one light thread writes what
-- calls have left in a queue, all at once, and another reads and wakes the calls. A call's questions are answered by
-- the call itself, since only it sees its request.

local bit = require("bit")
local exchange = require("gatewright.exchange")
local semaphore = require("ngx.semaphore")
local wire = require("gatewright.wire")

local band = bit.band
local exiting = ngx.worker.exiting
local now = ngx.now
local spawn, kill = ngx.thread.spawn, ngx.thread.kill
local sub = string.sub
local tcp = ngx.socket.tcp
local timer_at = ngx.timer.at

local READ_MILLISECONDS = 86400000 -- the writing thread sees to the end; a timeout would be an error in nginx's log
local READ_BYTES = 65536
local MOST_CONNECTIONS = 64
local SLACK = 16
local SLOTS = 65536 -- a call's id is a slot, and above it how often that was taken
local GENERATIONS = 32768
local MOST_CALLS = 32768
local MOST_WAITING = 4096 -- frames, while nothing can be sent, of which none waits for an answer

local GIVEN_UP = {} -- in a call's slot: nobody waits for its answer any more

local _M = {}

--- A connection can be used no more: its calls end.
local function fail(conn, err)
    if conn.dead then
        return
    end
    conn.dead = err
    for number, other in ipairs(conn.client.connections) do
        if other == conn then
            table.remove(conn.client.connections, number)
            break
        end
    end
    for slot = 1, conn.slots do
        local call = conn.calls[slot]
        if call and call ~= GIVEN_UP then
            call.err = err
            call.sema:post()
        end
    end
    conn.wake:post()
end

local function leave(conn)
    if not conn.leaving then
        conn.leaving = true
        for number, other in ipairs(conn.client.connections) do
            if other == conn then
                table.remove(conn.client.connections, number)
                break
            end
        end
        conn.wake:post()
    end
end

--- A slot for a call, and an id that was not used for long. The slot of a call that was given up is free only when the
-- runner has answered it: nobody gets what was meant for another.
-- @return slot and id; nil if there are too many calls
local function take_slot(conn, call)
    local slot = conn.free
    if slot > 0 then
        conn.free = conn.next_free[slot]
    else
        slot = conn.slots + 1
        if slot > MOST_CALLS then
            return nil
        end
        conn.slots = slot
        conn.ids[slot] = slot
    end
    local id = conn.ids[slot] + SLOTS
    if id >= SLOTS * GENERATIONS then
        id = slot
    end
    conn.ids[slot] = id
    conn.calls[slot] = call
    return slot, id
end

local function free_slot(conn, slot)
    conn.calls[slot] = false
    conn.next_free[slot] = conn.free
    conn.free = slot
end

local function deliver(conn, kind, flags, id, argument, fields)
    if kind == wire.LEAVE then
        leave(conn)
        return true
    end
    if id == 0 then
        if kind == wire.HELLO then
            if argument ~= wire.VERSION then
                return nil, "the runner speaks another version"
            end
            local workers = tonumber(fields[1] or "") or 1
            conn.client.workers = math.max(1, math.min(workers, MOST_CONNECTIONS))
            return true
        end
        return nil, "refused: " .. (fields[1] or "")
    end
    conn.frames = conn.frames + 1
    local slot = band(id, SLOTS - 1)
    local call = conn.ids[slot] == id and conn.calls[slot]
    if call == GIVEN_UP then
        if kind ~= wire.PART and kind ~= wire.ASK then
            free_slot(conn, slot)
        end
    elseif call then
        local done, asked = exchange.take(call, kind, flags, argument, fields)
        if done then -- its slot is free at once, since a request may have ended that waited for this
            call.done = true
            free_slot(conn, slot)
            conn.under_way = conn.under_way - 1
            call.sema:post()
        elseif asked then
            if done == nil then
                return nil, asked
            end
            local questions = call.questions or {}
            call.questions = questions
            questions[#questions + 1] = argument
            questions[#questions + 1] = fields[1]
            call.sema:post()
        end
    elseif slot == 0 and kind == wire.ERROR and argument == wire.UNKNOWN_TOKEN then -- of a log phase
        conn.client.doubts = conn.client.doubts + 1
    end
    return true
end

local function read(conn)
    local sock = conn.sock
    local wanted, parts, have = 0, {}, 0
    while not conn.dead do
        local data, err = sock:receiveany(READ_BYTES)
        if not data then
            return fail(conn, "connection lost: " .. err)
        end
        have = have + #data
        parts[#parts + 1] = data
        if have >= wanted then
            data = parts[2] and table.concat(parts) or parts[1]
            local at = 0
            while true do
                local size, kind, flags, n, id, argument = wire.head(data, at)
                if size == false then
                    return fail(conn, kind)
                end
                if not size or #data - at - wire.HEAD < size then
                    wanted = size and size + wire.HEAD or wire.HEAD
                    break
                end
                local fields
                fields, err = wire.fields(data, at + wire.HEAD, n, size)
                if not fields then
                    return fail(conn, err)
                end
                at = at + wire.HEAD + size
                local ok
                ok, err = deliver(conn, kind, flags, id, argument, fields)
                if not ok then
                    return fail(conn, err)
                end
            end
            local rest = at > 0 and sub(data, at + 1) or data
            parts = { rest }
            have = #rest
        end
    end
end

local function write(conn)
    local sock = conn.sock
    while not conn.dead do
        if conn.queue.frames > 0 then
            conn.written = conn.put -- whatever of it comes through, those may have begun
            local ok, err = sock:send(wire.take(conn.queue))
            if not ok then
                return fail(conn, "can't send: " .. err)
            end
        else
            conn.wake:wait(1)
            if (conn.leaving or exiting()) and conn.under_way == 0 and conn.queue.frames == 0 then
                return fail(conn, "closed")
            end
        end
    end
end

local function run(premature, conn)
    if premature then
        return fail(conn, "the worker ends")
    end
    local client = conn.client
    local sock, err = tcp()
    if not sock then
        return fail(conn, err)
    end
    conn.sock = sock
    sock:settimeouts(client.connect_timeout, client.connect_timeout, READ_MILLISECONDS)
    local ok
    ok, err = sock:connect(client.mux_host, client.port)
    if not ok then
        return fail(conn, "can't connect to " .. client.address .. ": " .. (err or ""))
    end
    local hello = wire.queue()
    wire.put(hello, wire.HELLO, 0, wire.VERSION, { client.name }, 1)
    ok, err = sock:send({ sock:getreusedtimes() == 0 and wire.PREFACE or "", wire.take(hello) })
    if not ok then
        return fail(conn, "can't send: " .. err)
    end
    local reader = spawn(read, conn)
    write(conn)
    kill(reader) -- it waits for what nobody needs any more, unless it has ended itself
    sock:close()
end

local function open(client)
    local conn = {
        client = client,
        wake = semaphore.new(0),
        queue = wire.queue(),
        put = 0, -- calls that have been put into the queue, and of these, that have been written
        written = 0,
        calls = {}, -- by slot: a call, GIVEN_UP, or `false` where there is none; and the slot's latest id
        ids = {},
        slots = 0,
        free = 0, -- the slot that was freed last; behind it, those before
        next_free = {},
        under_way = 0,
        frames = 0,
        logs = 0,
    }
    local ok, err = timer_at(0, run, conn)
    if not ok then
        return nil, err
    end
    local connections = client.connections
    connections[#connections + 1] = conn
    return conn
end

--- The next connection in turn, unless it has far more calls than another; one more than there are, if the runner has
-- more workers. (The one with the fewest would be that of whoever happens to run, and have twice the others' calls.)
local function pick(client)
    local connections = client.connections
    local count = #connections
    if count < client.workers then
        return open(client)
    end
    local turn = client.turn % count + 1
    client.turn = turn
    local next, best = connections[turn], connections[turn]
    for number = 1, count do
        local conn = connections[number]
        if conn.under_way < best.under_way then
            best = conn
        end
    end
    return next.under_way > 2 * best.under_way + SLACK and best or next
end

--- Put a frame into a connection's queue, and let it be written.
local function send(conn, kind, id, argument, fields, n)
    local queue = conn.queue
    local ok, err = wire.put(queue, kind, id, argument, fields, n)
    if not ok then
        return nil, err
    end
    if queue.frames == 1 then
        conn.wake:post()
    end
    return true
end

--- Send what nobody waits for: a request that has its answer.
-- @return true if it is on its way; nil and perhaps why
function _M.log(client, argument, fields, n)
    local conn = pick(client)
    if not conn or conn.queue.frames > MOST_WAITING then
        return nil, "too much waits to be sent"
    end
    conn.logs = conn.logs % (GENERATIONS - 1) + 1
    return send(conn, wire.LOG, conn.logs * SLOTS, argument, fields, n)
end

--- What a call does that is not answered at once: it answers questions, or gives up.
-- @return why it has failed; nil if it has its answer
local function go_on(conn, call, ok, frames, deadline)
    while not call.done do
        if call.err then
            return call.err
        end
        if not ok then
            if conn.frames == frames then -- nor anything else: nobody may be there any more
                fail(conn, "nothing came for as long as a call may take")
            end
            return "no answer in time"
        end
        local questions = call.questions or {}
        call.questions = false
        for at = 1, #questions, 2 do
            local told, err = exchange.tell(call, conn.queue, questions[at], questions[at + 1])
            if not told then
                fail(conn, err)
                return err
            end
            conn.wake:post() -- each time: meanwhile others may have had all written
        end
        local left = deadline - now()
        ok = call.done or (left > 0 and call.sema:wait(left))
    end
end

--- Carry a call; see `pool.carry`.
function _M.carry(client, call, argument, fields, n, deadline)
    local conn, err = pick(client)
    if not conn then
        return nil, err, false
    end
    local slot, id = take_slot(conn, call)
    if not slot then
        return nil, "too many calls are under way", true
    end
    call.id = id
    local ok
    ok, err = send(conn, call.kind, id, argument, fields, n)
    if not ok then
        free_slot(conn, slot)
        return nil, err, true
    end
    conn.under_way = conn.under_way + 1
    local number = conn.put + 1
    conn.put = number
    local frames = conn.frames
    local left = deadline - now()
    ok = left > 0 and call.sema:wait(left)
    if not call.done then
        err = go_on(conn, call, ok, frames, deadline)
        if not call.done then
            conn.calls[slot] = GIVEN_UP
            conn.under_way = conn.under_way - 1
        end
    end
    if conn.leaving and conn.under_way == 0 then
        conn.wake:post()
    end
    if err then
        return nil, err, number <= conn.written
    end
    return true
end

return _M
