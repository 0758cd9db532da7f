--- As much of Kong's PDK as the lean path's plugin calls, by nginx's own means: so that CI, which has no Kong, runs it.

local client, request, service_response, response = {}, {}, {}, {}
local _M = {
    client = client,
    log = {
        err = function(...)
            ngx.log(ngx.ERR, ...)
        end,
    },
    response = response,
    router = {
        get_route = function()
            return { id = "1", name = "a route" }
        end,
    },
    service = { request = request, response = service_response },
}

function client.get_forwarded_ip()
    return ngx.var.remote_addr
end

function client.get_consumer()
    return ngx.ctx.consumer
end

function client.load_consumer(name)
    return name == "ada" and { id = "2", username = "ada" } or nil
end

function client.authenticate(consumer)
    ngx.ctx.consumer = consumer
end

function request.set_header(name, value)
    assert(type(value) == "string")
    ngx.req.set_header(name, value)
end

function request.set_headers(headers)
    for name, value in pairs(headers) do
        ngx.req.set_header(name, value)
    end
end

function request.clear_header(name)
    ngx.req.clear_header(name)
end

function request.set_path(path)
    assert(path:sub(1, 1) == "/")
    ngx.var.upstream_uri = path .. (ngx.var.args and "?" .. ngx.var.args or "")
end

function request.set_raw_query(query)
    ngx.req.set_uri_args(query)
    local uri = ngx.var.upstream_uri
    if uri ~= "" then
        ngx.var.upstream_uri = uri:match("^[^?]*") .. (query ~= "" and "?" .. query or "")
    end
end

function request.set_raw_body(body)
    ngx.req.read_body()
    ngx.req.set_body_data(body)
end

function service_response.get_status()
    return ngx.ctx.got.status
end

function service_response.get_raw_body()
    return ngx.ctx.got.body
end

function response.get_status()
    return ngx.status
end

function response.set_status(status)
    ngx.status = status
end

function response.get_headers()
    return ngx.resp.get_headers(0)
end

function response.set_header(name, value)
    assert(type(value) ~= "table")
    ngx.header[name] = value
end

function response.set_headers(headers)
    for name, value in pairs(headers) do
        ngx.header[name] = value
    end
end

function response.clear_header(name)
    ngx.header[name] = nil
end

function response.exit(status, body, headers)
    ngx.status = status
    for name, value in pairs(headers or {}) do
        ngx.header[name] = value
    end
    local text = type(body) == "table" and body.message or body
    if ngx.get_phase() == "header_filter" then
        ngx.header["content-length"] = text and #text or 0
        ngx.ctx.response_body = text
        return ngx.exit(ngx.OK)
    end
    ngx.print(text or "")
    return ngx.exit(ngx.OK)
end

return _M
