"""Which PDK methods Kong carries out in which phase.

A call that Kong refuses raises an error in its Lua code, and over MessagePack nobody tells the plugin server: so what
cannot succeed is not asked. Only what every Kong from 3.4 on refuses is listed as refused (kong/pdk/*.lua, the
`check_phase` of each function).

The log phase is run later, in a timer, from a saved copy of the request's data (plugin_servers/plugin.lua,
`build_phases`). What reads nginx's variables fails there, whatever the function's own check says; some of it can be
made of what is kept (see `log_phase`).
"""

from __future__ import annotations

from typing import Final

__all__ = ["PROMPT", "refused_in"]

_ALL: Final = ("certificate", "rewrite", "access", "response", "preread", "log")

# Phases: methods. `log` stands only where the timer can answer, too.
_TABLE = """
rewrite access response: request.get_forwarded_scheme request.get_forwarded_host request.get_forwarded_port
rewrite access response: request.get_forwarded_path request.get_forwarded_prefix request.get_http_version
rewrite access response: request.get_method request.get_query request.get_query_arg
rewrite access response: request.get_raw_body request.get_body client.tls.set_client_verify
rewrite access response: client.tls.get_full_client_certificate_chain
rewrite access response: response.set_status response.set_header response.add_header response.clear_header
rewrite access response: response.set_headers
rewrite access response preread: response.exit response.error
rewrite access response preread certificate: client.get_ip client.get_forwarded_ip client.get_port
rewrite access response preread certificate: client.get_forwarded_port request.get_port nginx.get_var
rewrite access response preread certificate: nginx.get_tls1_version_str
rewrite access response log: request.get_header request.get_headers request.get_start_time request.get_uri_captures
rewrite access response log: request.get_scheme request.get_host request.get_path request.get_raw_path
rewrite access response log: request.get_path_with_query request.get_raw_query
rewrite access: service.request.set_scheme service.request.set_path service.request.set_raw_query
rewrite access: service.request.set_method service.request.set_query service.request.clear_query_arg
rewrite access: service.request.set_header service.request.add_header service.request.clear_header
rewrite access: service.request.set_headers service.request.set_raw_body service.request.set_body
rewrite access: service.request.enable_buffering
rewrite access preread: service.set_tls_verify service.set_tls_verify_depth
rewrite access preread: service.set_tls_verify_store service.set_tls_cert_key
access preread: service.set_target service.set_upstream service.set_retries service.set_timeouts
access: client.authenticate
access response log: client.get_protocol
access response log: client.get_credential client.get_consumer client.load_consumer router.get_route router.get_service
response log: response.get_status response.get_header response.get_headers response.get_source
response log: service.response.get_status service.response.get_header service.response.get_headers
response log: service.response.get_raw_body service.response.get_body
log: log.serialize
rewrite access response log: log.set_serialize_value
certificate: client.tls.request_client_certificate client.tls.disable_session_reuse
"""


def _refused() -> dict[str, dict[str, str]]:
    refused: dict[str, dict[str, str]] = {phase: {} for phase in _ALL}
    for line in _TABLE.strip().split("\n"):
        phases, _, methods = line.partition(":")
        allowed = phases.split()
        for method in methods.split():
            for phase in _ALL:
                # The stream subsystem has the same PDK with other checks: what isn't known of it is left to Kong.
                if phase not in allowed and not (phase == "preread" and not method.startswith(("request", "response"))):
                    refused[phase][f"kong.{method}"] = ", ".join(allowed)
    return refused


_REFUSED: Final = _refused()
_NONE: Final[dict[str, str]] = {}

PROMPT: Final = frozenset(
    f"kong.{method}"
    for line in _TABLE.strip().split("\n")
    for method in line.partition(":")[2].split()
    if not method.endswith("_body") and method not in ("client.load_consumer", "service.set_upstream")
) | {
    *(f"kong.log.{level}" for level in ("alert", "crit", "err", "warn", "notice", "info", "debug")),
    "kong.ctx.shared.get", "kong.ctx.shared.set", "kong.nginx.get_ctx", "kong.nginx.set_ctx", "kong.ip.is_trusted",
    "kong.nginx.get_subsystem", "kong.nginx.req_start_time", "kong.node.get_id", "kong.service.request.set_raw_body",
}  # fmt: skip
"""Methods that Kong carries out without waiting for anything: it asks for the next step before it does anything else.

The others read a body that may still have to come, or a database.
"""


def refused_in(phase: str) -> dict[str, str]:
    """The methods that Kong surely refuses in a phase, and the phases that it allows them in."""
    return _REFUSED.get(phase, _NONE)
