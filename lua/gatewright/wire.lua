--- Frames of the lean protocol, made and read.
--
--     u32 size | u8 kind | u8 flags | u16 n | u32 id | u32 argument | u32 length[n] | the fields' bytes
--
-- Little-endian; a length of 0xFFFFFFFF stands for a field that is not there (`false` here). Memory is touched through
-- the FFI only after its length has been compared with what is about to be read.

local bit = require("bit")
local ffi = require("ffi")
local new_table = require("table.new")

local ffi_copy = ffi.copy
local ffi_string = ffi.string
local ffi_cast = ffi.cast
local band, bor, lshift, rshift = bit.band, bit.bor, bit.lshift, bit.rshift
local sub = string.sub

local _M = {
    VERSION = 1,
    PREFACE = "GWL1",
    HEAD = 16,
    CHUNK = 65536,
    MAX_SIZE = 16777215,
    MAX_BODY = 67108864,

    ERROR = 0,
    HELLO = 1,
    PREPARE = 2,
    REQUEST = 3,
    RESPONSE = 4,
    LOG = 5,
    ASK = 6,
    PART = 7,
    LEAVE = 8,

    STOP = 1, -- a flag: the answer is for the client

    BAD_REQUEST = 1,
    UNAVAILABLE = 2,
    UNKNOWN_TOKEN = 3,
}

local HEAD = _M.HEAD
local CHUNK = _M.CHUNK
local MAX_SIZE = _M.MAX_SIZE
local MAX_FIELDS = 4096
local ABSENT = 0xFFFFFFFF
local WORDS = HEAD / 4
local ROOM = 4096
local MOST_ROOM = 262144 -- for this much, memory is kept
local LONG = 8192

local words = ffi.new("uint32_t[?]", WORDS + MAX_FIELDS)
local bytes_of = ffi.typeof("uint8_t[?]")
local char_p = ffi.typeof("const char *")

local swap
if ffi.abi("be") then
    swap = function(word)
        local swapped = bit.bswap(word)
        return swapped < 0 and swapped + 4294967296 or swapped
    end
end

--- Frames that wait to be sent. They are put together in memory of their own, so that a frame makes no strings; a long
-- field is sent as the string that it is.
function _M.queue()
    return { bytes = bytes_of(ROOM), room = ROOM, filled = 0, pieces = false, frames = 0 }
end

local function make_room(queue, wanted)
    local room = queue.room
    repeat
        room = 2 * room
    until room >= wanted
    local bytes = bytes_of(room)
    ffi_copy(bytes, queue.bytes, queue.filled)
    queue.bytes, queue.room = bytes, room
end

local function put_long(queue, field)
    local pieces = queue.pieces or {}
    queue.pieces = pieces
    pieces[#pieces + 1] = ffi_string(queue.bytes, queue.filled)
    pieces[#pieces + 1] = field
    queue.filled = 0
end

--- Put a frame into a queue.
-- @param fields values, `false` for one that is not there
-- @param n how many
-- @return true; nil and why not, if there are too many fields or bytes, and then nothing of it is in the queue
function _M.put(queue, kind, id, argument, fields, n)
    if n > MAX_FIELDS then
        return nil, "too many fields"
    end
    local size, copied = HEAD - 4 + 4 * n, HEAD + 4 * n
    for number = 1, n do
        local field = fields[number]
        if field then
            local length = #field
            size = size + length
            words[WORDS + number - 1] = length
            if length <= LONG then
                copied = copied + length
            end
        else
            words[WORDS + number - 1] = ABSENT
        end
    end
    if size > MAX_SIZE then
        return nil, "too long"
    end
    words[0] = size
    words[1] = bor(kind, lshift(n, 16))
    words[2] = id
    words[3] = argument
    if swap then
        for number = 0, WORDS + n - 1 do
            words[number] = swap(words[number])
        end
    end
    local filled = queue.filled
    if filled + copied > queue.room then
        make_room(queue, filled + copied)
    end
    ffi_copy(queue.bytes + filled, words, HEAD + 4 * n)
    queue.filled = filled + HEAD + 4 * n
    for number = 1, n do
        local field = fields[number]
        if field then
            if #field > LONG then
                put_long(queue, field)
            else
                ffi_copy(queue.bytes + queue.filled, field, #field)
                queue.filled = queue.filled + #field
            end
        end
    end
    queue.frames = queue.frames + 1
    return true
end

--- Put what was asked for, in parts if it is long.
function _M.put_told(queue, id, number, value)
    local field = { value or false }
    if value and #value > CHUNK then
        local last = #value - (#value - 1) % CHUNK
        for start = 1, last - 1, CHUNK do
            field[1] = sub(value, start, start + CHUNK - 1)
            _M.put(queue, _M.PART, id, number, field, 1)
        end
        field[1] = sub(value, last)
    end
    return _M.put(queue, _M.ASK, id, number, field, 1)
end

--- Take all out of a queue.
-- @return what a socket's `send` takes
function _M.take(queue)
    local pieces, rest = queue.pieces, ffi_string(queue.bytes, queue.filled)
    if queue.room > MOST_ROOM then
        queue.bytes, queue.room = bytes_of(ROOM), ROOM
    end
    queue.filled, queue.pieces, queue.frames = 0, false, 0
    if pieces then
        pieces[#pieces + 1] = rest
        return pieces
    end
    return rest
end

--- Read the head of a frame.
-- @param data a string
-- @param at how many bytes of it come before the frame
-- @return size of what follows the head, kind, flags, number of fields, id, argument; nil if the head is not whole;
-- false and why if it is no head
function _M.head(data, at)
    if #data - at < HEAD then
        return nil
    end
    ffi_copy(words, ffi_cast(char_p, data) + at, HEAD)
    if swap then
        for number = 0, WORDS - 1 do
            words[number] = swap(words[number])
        end
    end
    local size, second = words[0], words[1]
    local n = rshift(second, 16)
    if size > MAX_SIZE or n > MAX_FIELDS or size < HEAD - 4 + 4 * n then
        return false, "not a frame"
    end
    return size - (HEAD - 4), band(second, 0xFF), band(rshift(second, 8), 0xFF), n, words[2], words[3]
end

--- Read the fields of a frame.
-- @param data a string
-- @param at how many bytes of it come before the lengths
-- @param n how many fields
-- @param size bytes of lengths and fields, as `head` gave it
-- @return the fields; nil and why if the frame contradicts itself
function _M.fields(data, at, n, size)
    if n > MAX_FIELDS or 4 * n > size or #data - at < size then
        return nil, "a frame is cut off"
    end
    ffi_copy(words, ffi_cast(char_p, data) + at, 4 * n)
    local fields = new_table(n, 0)
    local start, stop = at + 4 * n, at + size
    for number = 1, n do
        local length = words[number - 1]
        if swap then
            length = swap(length)
        end
        if length == ABSENT then
            fields[number] = false
        else
            if length > stop - start then
                return nil, "a field is longer than its frame"
            end
            fields[number] = sub(data, start + 1, start + length)
            start = start + length
        end
    end
    if start ~= stop then
        return nil, "a frame is longer than its fields"
    end
    return fields
end

return _M
