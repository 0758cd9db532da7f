--- One header of a request, without making a table of all.
--
-- `ngx.req.get_headers` makes strings of all names and values, which costs as much as all the rest of gathering, and
-- `$http_name` takes `X_Name` for `X-Name`. This asks as lua-resty-core does, by its own declarations, and makes a
-- string only of what it looks for. What is read is bounded by what nginx says that it has filled.

local ffi = require("ffi")

local C = ffi.C
local ffi_string, ffi_cast = ffi.string, ffi.cast

local _M = {}

local function find(name, n, buffer)
    local length, found = #name, nil
    for number = 0, n - 1 do
        local header = buffer[number]
        if header.key.len == length and ffi_string(header.key.data, length) == name then
            local value = ffi_string(header.value.data, header.value.len)
            found = found and found .. "\n" .. value or value
        end
    end
    return found or false
end

--- Look a header up.
-- @param name in lower case
-- @return its values, with a line feed between them; false if there is none; nil if it can't be had this way
function _M.named()
    return nil
end

local ok, base = pcall(require, "resty.core.base")
if ok and pcall(require, "resty.core.request") then
    local known, size = pcall(ffi.sizeof, "ngx_http_lua_ffi_table_elt_t")
    local has = known and pcall(function()
        return C.ngx_http_lua_ffi_req_get_headers_count, C.ngx_http_lua_ffi_req_get_headers
    end)
    if has and base.get_request and base.get_string_buf then
        local elements = ffi.typeof("ngx_http_lua_ffi_table_elt_t *")
        local truncated = ffi.new("int[1]")
        local get_request, get_string_buf = base.get_request, base.get_string_buf

        function _M.named(name)
            local r = get_request()
            if not r then
                return nil
            end
            local n = C.ngx_http_lua_ffi_req_get_headers_count(r, 0, truncated)
            if n <= 0 then -- none at all, or not in this phase
                return nil
            end
            local buffer = ffi_cast(elements, get_string_buf(n * size))
            if C.ngx_http_lua_ffi_req_get_headers(r, buffer, n, 0) ~= 0 then
                return nil
            end
            return find(name, n, buffer)
        end
    end
end

return _M
