--- One call's side of an exchange, whatever carries it: parts are put together, questions answered, the end found.

local facts = require("gatewright.facts")
local semaphore = require("ngx.semaphore")
local wire = require("gatewright.wire")

local concat = table.concat

local MOST_KEPT = 256

local _M = {}

local kept = {}
local kept_count = 0

--- A call's own table, in which its answer will be: `answered` (its kind), `argument`, and `answer`, which has its
-- fields, its flags at 0, and as `long` a body that came in parts.
-- @param kind the frame's
-- @param host, ctx what questions are answered by (see `facts`), or nil
function _M.call(kind, host, ctx)
    local call
    if kept_count > 0 then
        call = kept[kept_count]
        kept[kept_count] = nil
        kept_count = kept_count - 1
        call.kind, call.host, call.ctx = kind, host, ctx
        call.done, call.err, call.questions, call.parts = false, false, false, false
        return call
    end
    -- With room for what is to come: a table that grows on its way costs as much again.
    return {
        id = 0,
        kind = kind,
        host = host,
        ctx = ctx,
        sema = semaphore.new(0),
        done = false,
        err = false,
        questions = false,
        parts = false,
        held = 0,
        answered = 0,
        argument = 0,
        answer = false,
    }
end

--- Keep a call that has its answer for another: no one else knows of it any more.
function _M.keep(call)
    if kept_count < MOST_KEPT and call.sema:count() == 0 then
        call.host, call.ctx, call.answer = nil, nil, false
        kept_count = kept_count + 1
        kept[kept_count] = call
    end
end

--- Take a frame that has come for a call.
-- @param call see `call`
-- @return true if this was the answer, which is in `call` then; otherwise false, and whether it's a question that the
-- request has to answer (see `told`); nil and why if the frame is out of place
function _M.take(call, kind, flags, argument, fields)
    if kind == wire.PART then
        local part = fields[1]
        local parts = call.parts
        if not parts then
            parts = {}
            call.parts, call.held = parts, 0
        end
        call.held = call.held + #(part or "")
        if call.held > wire.MAX_BODY then
            return nil, "a body is too long"
        end
        parts[#parts + 1] = part or ""
        return false
    end
    if kind == wire.ASK then
        if not fields[1] or not call.host then
            return nil, "a question out of place"
        end
        return false, true
    end
    if kind ~= call.kind and kind ~= wire.ERROR then
        return nil, "an answer of another kind"
    end
    if call.parts then
        fields.long = concat(call.parts)
        call.parts = false
    end
    fields[0] = flags
    call.answered, call.argument, call.answer = kind, argument, fields
    return true
end

--- Answer a question. To be called by the request itself, since only it sees what it is about.
-- @param queue where the answer is put (see `wire`)
-- @return true; nil and why if the answer can't be sent
function _M.tell(call, queue, number, name)
    local value = facts.get(call.host, call.ctx, name)
    return wire.put_told(queue, call.id, number, value)
end

return _M
