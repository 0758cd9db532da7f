--- The runner, as the gateway sees it: chains and their tokens, calls and what they bring.
--
-- Whatever goes wrong, a call gives nil and why, and whoever asked refuses the request. A call is repeated only where
-- the runner can't have begun it: its connection was lost before anything of it was sent, or the runner doesn't know
-- the token, which it says before any plugin runs.

local exchange = require("gatewright.exchange")
local facts = require("gatewright.facts")
local mux = require("gatewright.mux")
local pool = require("gatewright.pool")
local semaphore = require("ngx.semaphore")
local wire = require("gatewright.wire")

local byte = string.byte
local exiting = ngx.worker.exiting
local now = ngx.now

local PREPARE_SECONDS = 10
local MARGIN_SECONDS = 1
local SHARED_SECONDS = 1
local LONGEST_PATH = 107
local PHASES = { request = 1, response = 2, log = 4 }

local _M = {}

local clients = {}

--- The address as `pool` and `mux` dial it.
--
-- nginx keeps idle connections by the text of their address, and others may speak something else at the same socket (as
-- APISIX's external plugins do). A pool's own name would be the way, but who patches `connect` may lose it. So the same
-- path is spelt in a way of our own.
local function spelt(host, way)
    local directory, name = host:match("^unix:(.*/)([^/]+)$")
    if not directory then
        return host
    end
    local path = directory .. way .. name
    if #path > LONGEST_PATH then
        error("the runner's path is too long: " .. host)
    end
    return "unix:" .. path
end

--- The runner at an address; one for each address and threshold in a worker.
-- @param options `address` (unix:/path or host:port); `threshold`: calls under way from which on they share
-- connections, 0: always, false: never; `pool_size`; `connect_timeout` in milliseconds; `name`: who we are
function _M.new(options)
    local address = options.address or "unix:/tmp/gatewright.sock"
    local threshold = options.threshold == nil and 4 or options.threshold
    local key = address .. " " .. tostring(threshold)
    local client = clients[key]
    if client then
        return client
    end
    local host, port = address, nil
    if address:sub(1, 5) ~= "unix:" then
        host, port = address:match("^%[?([^%]]+)%]?:(%d+)$")
        if not host then
            error("the runner's address is unix:/path or host:port, not " .. address)
        end
        port = tonumber(port)
    end
    client = {
        address = address,
        pool_host = spelt(host, "./"),
        mux_host = spelt(host, "././"),
        port = port,
        name = options.name or "nginx",
        threshold = threshold,
        pool_size = options.pool_size or 64,
        connect_timeout = options.connect_timeout or 1000,
        connections = {},
        workers = 1,
        under_way = 0,
        shared_until = 0,
        turn = 0,
        last_id = 0,
        doubts = 0, -- how often a token that nobody waits for turned out to be unknown
    }
    clients[key] = client
    return client
end

local function next_id(client)
    local id = client.last_id % 4294967295 + 1
    client.last_id = id
    return id
end

--- What carries the next call. Where many were under way, all share connections for a while, be there few for a moment:
-- those are cheaper, and the runner's workers share them evenly, while a kept connection belongs to one of them.
local function carrier(client)
    local threshold = client.threshold
    if not threshold then
        return pool
    end
    if client.under_way >= threshold then
        client.shared_until = now() + SHARED_SECONDS
    elseif now() >= client.shared_until then
        return pool
    end
    return exiting() and pool or mux
end

local function carry_once(client, call, argument, fields, n, deadline)
    call.id = next_id(client)
    local by = carrier(client)
    client.under_way = client.under_way + 1
    local ok, err, begun = by.carry(client, call, argument, fields, n, deadline)
    client.under_way = client.under_way - 1
    return ok, err, begun
end

--- Carry a call, twice if its connection was lost before anything of it was sent. (No loop: what yields in a loop is
-- compiled badly, and this is where all calls come by.)
local function carry(client, kind, argument, fields, n, seconds, host, ctx)
    local deadline = now() + seconds
    local call = exchange.call(kind, host, ctx)
    local ok, err, begun = carry_once(client, call, argument, fields, n, deadline)
    if not ok and not begun and now() < deadline then
        call = exchange.call(kind, host, ctx)
        ok, err = carry_once(client, call, argument, fields, n, deadline)
    end
    return ok and call, err
end

--- A chain of plugins.
-- @param client see `new`
-- @param key what the runner calls it in its logs: the route
-- @param conf pairs of a plugin's name and its configuration as JSON text
-- @param phases names of those that will be called
function _M.chain(client, key, conf, phases)
    local bits = 0
    for _, phase in ipairs(phases) do
        bits = bits + PHASES[phase]
    end
    local fields = { key }
    for _, entry in ipairs(conf) do
        fields[#fields + 1] = entry[1]
        fields[#fields + 1] = entry[2] or "{}"
    end
    return { client = client, fields = fields, bits = bits }
end

--- Whether a response phase is to be called before the upstream is asked.
local function is_early(plan)
    return ("," .. plan .. ","):find(",early,", 1, true) ~= nil
end

local function prepare(chain)
    while chain.preparing do -- somebody else does
        chain.waiters = chain.waiters + 1
        local ok = chain.preparing:wait(PREPARE_SECONDS)
        chain.waiters = chain.waiters - 1
        if chain.token then
            return true
        end
        if not ok then
            return nil, "the configuration was not taken in time"
        end
    end
    if chain.token then
        return true
    end
    chain.preparing, chain.waiters = semaphore.new(0), 0
    local call, err = carry(chain.client, wire.PREPARE, chain.bits, chain.fields, #chain.fields, PREPARE_SECONDS)
    if call and call.answered == wire.PREPARE then
        local fields = call.answer
        chain.plans = { request = fields[1] or nil, response = fields[2] or nil, log = fields[3] or nil }
        chain.early = chain.plans.response and is_early(chain.plans.response)
        chain.seconds = (tonumber(fields[4] or "") or 60000) / 1000 + MARGIN_SECONDS
        chain.doubts = chain.client.doubts
        chain.token = call.argument
    elseif call then
        err = call.answer[1] or "the configuration was refused"
    end
    local ok = call and call.answered == wire.PREPARE
    if call then
        exchange.keep(call)
    end
    local preparing = chain.preparing
    chain.preparing = nil
    if chain.waiters > 0 then
        preparing:post(chain.waiters)
    end
    return ok, err
end

--- Whether there is something to do in a phase.
-- @return true or false; nil and why if the runner can't be asked
function _M.wants(chain, phase)
    if chain.token and chain.doubts ~= chain.client.doubts then
        chain.token = nil
    end
    if not chain.token then
        local ok, err = prepare(chain)
        if not ok then
            return nil, err
        end
    end
    return chain.plans[phase] ~= nil
end

local function follow_plan(chain, phase, answer)
    if byte(answer[1], 1) == 78 and answer[2] then -- "N": the first, if it is there
        chain.plans[phase] = answer[2]
    end
end

local function call_once(chain, phase, kind, host, ctx)
    local wanted, err = _M.wants(chain, phase)
    if not wanted then
        return wanted, err
    end
    local token = chain.token
    local brought, n = facts.gather(host, ctx, chain.plans[phase])
    local call
    call, err = carry(chain.client, kind, token, brought, n, chain.seconds, host, ctx)
    if not call then
        return nil, err
    end
    local answered, argument, answer = call.answered, call.argument, call.answer
    exchange.keep(call)
    if answered == kind then
        if answer[1] then
            follow_plan(chain, phase, answer)
        end
        return answer
    end
    if argument ~= wire.UNKNOWN_TOKEN then
        return nil, answer[1] or "refused"
    end
    if chain.token == token then
        chain.token = nil
    end
    return nil, "the runner doesn't know the configuration that it has just taken", true
end

--- Call a phase of a chain.
-- @param chain see `chain`
-- @param phase `request` or `response`
-- @param host how to get at the request (see `facts`)
-- @param ctx the request's own table, for `host`
-- @return the answer (see `exchange.call`), or `false` if there is nothing to do; nil and why if the request has to be
-- refused
function _M.call(chain, phase, host, ctx)
    local kind = phase == "request" and wire.REQUEST or wire.RESPONSE
    local answer, err, unknown = call_once(chain, phase, kind, host, ctx)
    if unknown then
        answer, err = call_once(chain, phase, kind, host, ctx)
    end
    return answer, err
end

--- Tell the runner of a request that has its answer. Nobody waits for anything.
-- @return true if it is on its way
function _M.log(chain, host, ctx)
    if not chain.token or not chain.plans.log then
        return true
    end
    local fields, n = facts.gather(host, ctx, chain.plans.log)
    return mux.log(chain.client, chain.token, fields, n)
end

return _M
