--- Asking the upstream as APISIX would: the node that was picked, its timeouts, TLS and headers, its retries, and what
-- the balancer and the health check are told of nodes that fail.

local balancer = require("apisix.balancer")
local core = require("apisix.core")
local upstream = require("gatewright.upstream")

local find, sub = string.find, string.sub
local now = ngx.now

local DEFAULT_SECONDS = 60

local _M = {}

local function target_of(api_ctx, server)
    local var, conf, route = api_ctx.var, api_ctx.upstream_conf or {}, api_ctx.matched_route
    local timeout = route and route.value and route.value.timeout or conf.timeout or {}
    local path, query = var.upstream_uri, var.args
    if not path or path == "" then -- nobody has rewritten it: as the client sent it
        path = var.real_request_uri or ngx.var.request_uri
        local question = find(path, "?", 1, true)
        path = question and sub(path, 1, question - 1) or path
    else
        local question = find(path, "?", 1, true)
        if question then
            path, query = sub(path, 1, question - 1), sub(path, question + 1)
        end
    end
    local pool = conf.keepalive_pool or {}
    return {
        scheme = api_ctx.upstream_scheme == "https" and "https" or "http",
        host = server.host,
        port = server.port,
        path = path,
        query = query,
        headers = upstream.request_headers({
            ["host"] = var.upstream_host ~= "" and var.upstream_host or var.http_host,
            ["x-real-ip"] = var.remote_addr,
            ["x-forwarded-for"] = var.proxy_add_x_forwarded_for,
            ["x-forwarded-proto"] = var.var_x_forwarded_proto,
            ["x-forwarded-host"] = var.var_x_forwarded_host,
            ["x-forwarded-port"] = var.var_x_forwarded_port,
        }),
        timeouts = {
            (timeout.connect or DEFAULT_SECONDS) * 1000,
            (timeout.send or DEFAULT_SECONDS) * 1000,
            (timeout.read or DEFAULT_SECONDS) * 1000,
        },
        verify = conf.tls and conf.tls.verify,
        server_name = var.upstream_host,
        keepalive = (pool.idle_timeout or DEFAULT_SECONDS) * 1000,
        pool_size = pool.size or 320,
    }
end

--- Let the health check know of a node that failed, as it's told between two tries (balancer.lua, `pick_server`).
local function report(api_ctx, status)
    local checker, checks = api_ctx.up_checker, api_ctx.upstream_conf.checks
    if not checker then
        return
    end
    local active = checks and checks.active or {}
    local port = active.port or api_ctx.balancer_port
    if status == 504 then
        checker:report_timeout(api_ctx.balancer_ip, port, active.host)
    else
        checker:report_tcp_failure(api_ctx.balancer_ip, port, active.host)
    end
end

local function another(api_ctx)
    local server, err = balancer.pick_server(api_ctx.matched_route, api_ctx)
    if not server then
        return nil, "no other upstream node: " .. (err or "")
    end
    if api_ctx.pass_host == "node" and server.upstream_host then
        api_ctx.var.upstream_host = server.upstream_host
    end
    return server
end

--- Ask the upstream.
-- @return an answer (see `answer`); nil and why, and the status to refuse with
function _M.ask(api_ctx)
    local server, conf = api_ctx.picked_server, api_ctx.upstream_conf or {}
    if not server then
        return nil, "no upstream node was picked", 502
    end
    if conf.tls and (conf.tls.client_cert or conf.tls.client_cert_id) then
        return nil, "lua-resty-http can't show the upstream a client certificate", 502
    end
    local nodes = conf.nodes or {}
    local left = conf.retries and conf.retries >= 0 and conf.retries or #nodes - 1
    local limit = conf.retry_timeout and conf.retry_timeout > 0 and now() + conf.retry_timeout
    while true do
        local answer, err, status, again = upstream.fetch(target_of(api_ctx, server))
        if answer or not again or left <= 0 or (limit and now() > limit) then
            return answer, err, status
        end
        left = left - 1
        core.log.warn("gatewright-response: ", err, ", upstream: ", server.host, ":", server.port, "; another try")
        report(api_ctx, status)
        local pick_err
        server, pick_err = another(api_ctx)
        if not server then
            return nil, pick_err, 502
        end
    end
end

return _M
