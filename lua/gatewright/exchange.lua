--- One call's side of an exchange, whatever carries it: parts are put together, questions answered, the end found.

local facts = require("gatewright.facts")
local wire = require("gatewright.wire")

local concat = table.concat

local _M = {}

--- Take a frame that has come for a call.
-- @param call a table that belongs to the call
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
        call.long = concat(call.parts)
        call.parts = false
    end
    call.answer, call.flags, call.argument, call.fields = kind, flags, argument, fields
    return true
end

--- Answer a question. To be called by the request itself, since only it sees what it is about.
-- @return the strings to send, and how many; nil and why if the answer can't be sent
function _M.told(call, number, name)
    local out = {}
    local count, err = wire.put_told(out, 0, call.id, number, facts.get(call.host, call.ctx, name))
    if not count then
        return nil, err
    end
    return out, count
end

return _M
