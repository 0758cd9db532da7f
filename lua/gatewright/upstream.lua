--- Asking the upstream ourselves, for answers that plugins look at before the client gets them.

local answers = require("gatewright.answer")
local facts = require("gatewright.facts")

local METHODS = {
    GET = ngx.HTTP_GET,
    HEAD = ngx.HTTP_HEAD,
    POST = ngx.HTTP_POST,
    PUT = ngx.HTTP_PUT,
    DELETE = ngx.HTTP_DELETE,
    OPTIONS = ngx.HTTP_OPTIONS,
    PATCH = ngx.HTTP_PATCH,
    TRACE = ngx.HTTP_TRACE,
}

local _M = {}

--- By way of an internal location, which passes the request on. The whole body comes into memory.
-- @return an answer (see `answer`); nil and why, and the status to refuse with
function _M.capture(location)
    local version = ngx.req.http_version()
    if version and version >= 2 then
        return nil, "an internal location can't be asked under HTTP/2", 500
    end
    local method = METHODS[ngx.req.get_method()]
    if not method then
        return nil, "an internal location can't be asked with the method " .. ngx.req.get_method(), 501
    end
    ngx.req.read_body()
    local path = ngx.var.uri:sub(2):gsub("[^%w/%-%._~!$&'()*+,;=:@]", function(char)
        return string.format("%%%02X", char:byte())
    end)
    local got = ngx.location.capture(location .. path, {
        method = method,
        args = ngx.var.args,
        always_forward_body = true,
    })
    if got.truncated and method ~= ngx.HTTP_HEAD then -- of an answer to HEAD all of the body is missing
        return nil, "the upstream's answer broke off", 502
    end
    return { status = got.status, headers = answers.headers(got.header), body = got.body, close = function() end }
end

local NOT_REPEATED = { POST = true, LOCK = true, PATCH = true }

local function client_body()
    local length = tonumber(ngx.var.http_content_length or "")
    if length ~= 0 and (length or ngx.var.http_transfer_encoding or ngx.req.http_version() >= 2) then
        local body, err = facts.read_body()
        if not body then
            return nil, err, length and 413 or 411
        end
        return body
    end
    return ""
end

local function connected(http, target)
    local client, err = http.new()
    if not client then
        return nil, err, 500
    end
    client:set_timeouts(unpack(target.timeouts))
    local ok
    ok, err = client:connect({
        scheme = target.scheme,
        host = target.host,
        port = target.port,
        ssl_verify = target.verify or false,
        ssl_server_name = target.server_name,
    })
    if not ok then
        return nil, "can't connect to the upstream: " .. (err or ""), err == "timeout" and 504 or 502, true
    end
    return client
end

--- By lua-resty-http.
-- @param target `scheme`, `host`, `port`, `path` (escaped), `query`, `headers` (of the upstream's request),
-- `timeouts` (connect, send, read; in milliseconds), `verify` and `server_name` for TLS, `keepalive` (milliseconds),
-- `pool_size`
-- @return an answer (see `answer`); nil and why, the status to refuse with, and whether another node may be asked
function _M.fetch(target)
    local http = require("resty.http")
    local body, err, status = client_body()
    if not body then
        return nil, err, status
    end
    local method = ngx.req.get_method()
    local client, got, again
    repeat
        client, err, status, again = connected(http, target)
        if not client then
            return nil, err, status, again
        end
        got, err = client:request({
            method = method,
            path = target.path,
            query = target.query ~= "" and target.query or nil,
            headers = target.headers,
            body = body ~= "" and body or nil,
        })
        -- A kept connection that the upstream has just closed says nothing of the upstream.
        local stale = not got and err ~= "timeout" and (client:get_reused_times() or 0) > 0
        if not got then
            client:close()
        end
    until not stale or NOT_REPEATED[method]
    if not got then
        status = err == "timeout" and 504 or 502
        return nil, "no answer from the upstream: " .. (err or ""), status, not NOT_REPEATED[method]
    end
    local answer = { status = got.status, headers = answers.headers(got.headers) }
    if got.has_body then
        answer.reader = got.body_reader
    else
        answer.body = answer.status ~= 204 and answer.status ~= 304 and method ~= "HEAD" and "" or nil
    end
    function answer.close(whole)
        if whole then
            client:set_keepalive(target.keepalive, target.pool_size)
        else
            client:close()
        end
    end
    return answer
end

--- Headers for the upstream: the client's, without those that belong to one connection.
function _M.request_headers(own)
    local headers = {}
    for name, value in pairs(ngx.req.get_headers(0)) do
        if not answers.HOP_BY_HOP[name] and name ~= "content-length" and name ~= "expect" then
            headers[name] = value
        end
    end
    for name, value in pairs(own) do
        headers[name] = value
    end
    return headers
end

return _M
