--- Many calls on one connection: what is cheapest when many are under way.
--
-- A socket belongs to the request that made it, so the connection lives in a timer: there one light thread writes what
-- calls have left in a queue, all at once, and another reads and wakes the calls. A call's questions are answered by
-- the call itself, since only it sees its request.

local exchange = require("gatewright.exchange")
local semaphore = require("ngx.semaphore")
local wire = require("gatewright.wire")

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

local _M = {}

local free_semaphores = {}
local free_count = 0

local function take_semaphore()
    if free_count > 0 then
        local sema = free_semaphores[free_count]
        free_semaphores[free_count] = nil
        free_count = free_count - 1
        return sema
    end
    return semaphore.new(0)
end

local function keep_semaphore(sema)
    if free_count < 256 and sema:count() == 0 then
        free_count = free_count + 1
        free_semaphores[free_count] = sema
    end
end

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
    for _, call in pairs(conn.calls) do
        call.err = err
        call.sema:post()
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
    local call = conn.calls[id]
    if call then -- otherwise it's late
        local done, asked = exchange.take(call, kind, flags, argument, fields)
        if done then -- taken out here, since a request may have ended that waited for this
            call.done = true
            conn.calls[id] = nil
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
    elseif kind == wire.ERROR and argument == wire.UNKNOWN_TOKEN then -- of a log phase
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
        local queue = conn.queue
        if conn.queued > 0 then
            conn.written = conn.put -- whatever of it comes through, those may have begun
            conn.queue, conn.queued = {}, 0
            local ok, err = sock:send(queue)
            if not ok then
                return fail(conn, "can't send: " .. err)
            end
        else
            conn.wake:wait(1)
            if (conn.leaving or exiting()) and conn.under_way == 0 and conn.queued == 0 then
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
    local hello = { sock:getreusedtimes() == 0 and wire.PREFACE or "" }
    wire.put(hello, 1, wire.HELLO, 0, wire.VERSION, { client.name }, 1)
    ok, err = sock:send(hello)
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
        queue = {},
        queued = 0,
        put = 0, -- calls that have been put into the queue, and of these, that have been written
        written = 0,
        calls = {},
        under_way = 0,
        frames = 0,
        last_id = 0,
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

--- Let what has been put into the queue be written.
local function queued(conn, count)
    local before = conn.queued
    conn.queued = count
    if before == 0 then
        conn.wake:post()
    end
end

--- Send a frame without waiting for an answer.
-- @return true if it is on its way; nil and perhaps why
function _M.post(client, kind, id, argument, fields, n)
    local conn = pick(client)
    if not conn or conn.queued > 4096 then
        return nil, "too much waits to be sent"
    end
    local count, err = wire.put(conn.queue, conn.queued, kind, id, argument, fields, n)
    if not count then
        return nil, err
    end
    queued(conn, count)
    return true
end

--- What a call does that is not answered at once: it answers questions, or gives up.
-- @return why it has failed; nil if it has its answer
local function go_on(conn, call, sema, ok, frames, deadline)
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
            local out, count = exchange.told(call, questions[at], questions[at + 1])
            if not out then
                fail(conn, count)
                return count
            end
            local queue, before = conn.queue, conn.queued
            for number = 1, count do
                queue[before + number] = out[number]
            end
            queued(conn, before + count)
        end
        local left = deadline - now()
        ok = call.done or (left > 0 and sema:wait(left))
    end
end

--- Carry a call; see `pool.carry`.
function _M.carry(client, call, argument, fields, n, deadline)
    local conn, err = pick(client)
    local sema = conn and take_semaphore()
    if not sema then
        return nil, err or "no semaphore", false
    end
    local id = call.id
    local count
    count, err = wire.put(conn.queue, conn.queued, call.kind, id, argument, fields, n)
    if not count then
        return nil, err, true
    end
    call.sema = sema
    conn.calls[id] = call
    conn.under_way = conn.under_way + 1
    local number = conn.put + 1
    conn.put = number
    queued(conn, count)
    local frames = conn.frames
    local left = deadline - now()
    local ok = left > 0 and sema:wait(left)
    if not call.done then
        err = go_on(conn, call, sema, ok, frames, deadline)
    end
    if conn.calls[id] == call then
        conn.calls[id] = nil
        conn.under_way = conn.under_way - 1
    end
    if conn.leaving and conn.under_way == 0 then
        conn.wake:post()
    end
    if err then
        return nil, err, number <= conn.written
    end
    keep_semaphore(sema)
    return true
end

return _M
