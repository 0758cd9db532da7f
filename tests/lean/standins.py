"""An nginx whose plugins for APISIX and Kong run with stand-ins for these gateways.

The stand-ins (`lua/`) are what the gateways' own functions come to in nginx, as far as the plugins call them.
Whether that is so, `python -m tests.lean.at_a_gateway` shows at real ones; here every change is tried.
"""

from __future__ import annotations

import socket
from pathlib import Path

from tests.lean.nginx import Nginx

__all__ = ["with_standins"]

_HERE = Path(__file__).resolve().parent

_INIT = """
    init_by_lua_block {{
        package.path = "{here}/lua/?.lua;" .. package.path
        attributes = {{ address = "unix:{socket}" }}
        kong = require("kong")
        local handlers = {{
            kong = require("kong.plugins.gatewright.handler"),
            answer = require("kong.plugins.gatewright-response.handler"),
        }}
        local plugins = {{
            before = require("apisix.plugins.gatewright"),
            after = require("apisix.plugins.gatewright-after"),
            response = require("apisix.plugins.gatewright-response"),
        }}
        local confs = {{}}

        local function conf()
            local text = ngx.var.http_x_chain or ""
            if not confs[text] then
                local apisix, chain = {{}}, {{}}
                for name, value in text:gmatch("([^;=]+)=([^;]*)") do
                    apisix[#apisix + 1] = {{ name = name, value = ngx.unescape_uri(value) }}
                    chain[#chain + 1] = {{ name = name, config = ngx.unescape_uri(value) }}
                end
                confs[text] = {{ conf = apisix, chain = chain, address = "unix:{socket}", route_id = "1" }}
            end
            return confs[text]
        end

        local function context()
            local var = setmetatable({{}}, {{
                __index = function(_, name) return ngx.var[name] end,
                __newindex = function(_, name, value) ngx.var[name] = value end,
            }})
            local ctx = {{ var = var, conf_type = "route", conf_id = ngx.var.http_x_chain or "", route_id = 1 }}
            ngx.ctx.api_ctx = ctx
            return ctx
        end

        function apisix_access(which)
            local plugin = plugins[which]
            local status, body = (plugin.rewrite or plugin.access or plugin.before_proxy)(conf(), context())
            if status then
                ngx.status = status
                ngx.print(body or "")
                return ngx.exit(ngx.OK)
            end
        end

        -- APISIX calls it again for each further node, when nothing can wait any more.
        function apisix_balancer()
            local balancer = require("ngx.balancer")
            if not ngx.ctx.tried then
                ngx.ctx.tried = true
                balancer.set_more_tries(1)
                return assert(balancer.set_current_peer("127.0.0.1", 9))
            end
            assert(plugins.response.before_proxy(conf(), ngx.ctx.api_ctx) == nil)
            assert(balancer.set_current_peer("127.0.0.1", {port}))
        end

        function apisix_header_filter()
            plugins.response.header_filter(conf(), ngx.ctx.api_ctx)
        end

        function kong_access()
            handlers.kong:access(conf())
        end

        function kong_early()
            local wanted = {{}}
            for name, value in pairs(conf()) do
                wanted[name] = value
            end
            wanted.early_response = true
            handlers.kong:access(wanted)
        end

        function kong_header_filter()
            handlers.kong:header_filter()
        end

        -- What Kong's own does with an answer that was given in the header filter.
        function kong_body_filter()
            if ngx.ctx.response_body then
                ngx.arg[1], ngx.arg[2] = ngx.ctx.response_body, true
            end
        end

        function kong_answer()
            ngx.req.read_body()
            local got = ngx.location.capture("/upstream/x", {{ always_forward_body = true }})
            ngx.ctx.got = got
            ngx.status = got.status
            for name, value in pairs(got.header) do
                ngx.header[name] = value
            end
            handlers.answer:response(conf())
            ngx.print(got.body)
        end
    }}
    upstream nodes {{ server 0.0.0.1; balancer_by_lua_block {{ apisix_balancer() }} }}
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://echo; }} }}
"""

_LOCATION = """
        location /{name}/ {{
            set $upstream_uri "";
            set $upstream_host $http_host;
            access_by_lua_block {{ {access} }}
            proxy_pass http://echo$upstream_uri;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
        }}
"""

_ANSWER = """
        location /apisix-early/ {
            access_by_lua_block { apisix_access("response") }
            header_filter_by_lua_block { apisix_header_filter() }
            proxy_pass http://nodes;
        }
        location /kong-early/ {
            access_by_lua_block { kong_early() }
            header_filter_by_lua_block { kong_header_filter() }
            body_filter_by_lua_block { kong_body_filter() }
            proxy_pass http://echo;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }
        location /kong-response/ { content_by_lua_block { kong_answer() } }
        location /upstream/ { internal; proxy_pass http://echo/; proxy_http_version 1.1; }
"""


def with_standins(directory: Path, runner: Path) -> Nginx:
    """Start it; its locations are `/apisix/`, `/apisix-after/`, `/kong/` and `/kong-response/`.

    At `/apisix-early/` the first node of the upstream doesn't answer.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    accesses = {
        "apisix": 'apisix_access("before")', "apisix-after": 'apisix_access("after")', "kong": "kong_access()",
    }  # fmt: skip
    locations = "".join(_LOCATION.format(name=name, access=access) for name, access in accesses.items())
    return Nginx(
        directory, runner, locations=locations + _ANSWER, init=_INIT.format(here=_HERE, socket=runner, port=port)
    )
