"""`kong.client`, and what there is of the node and the plugin itself."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from typing import Any, Final

from gatewright.dev.kong.pdk.core import (
    ACCESS,
    AUTHENTICATED,
    BEFORE_CONTENT,
    FUNCTIONS,
    NEVER,
    REQUEST,
    Pdk,
    function,
    string,
)
from gatewright.dev.kong.values import LuaError

log = logging.getLogger("gatewright.dev.kong")
_NODE_ID: Final = str(uuid.uuid4())
_CLUSTER_ID: Final = str(uuid.uuid4())


@function("client.get_ip")
def _get_ip(pdk: Pdk) -> str:
    return pdk.exchange.request.client_ip


@function("client.get_forwarded_ip")
def _get_forwarded_ip(pdk: Pdk) -> str:
    return (pdk.forwarded("x-real-ip") or pdk.exchange.request.client_ip).strip()


@function("client.get_port")
def _get_port(pdk: Pdk) -> int:
    return pdk.exchange.request.client_port


FUNCTIONS["kong.client.get_forwarded_port"] = FUNCTIONS["kong.client.get_port"]


@function("client.get_credential", AUTHENTICATED, later=True)
def _get_credential(pdk: Pdk) -> Any:
    return pdk.exchange.credential


@function("client.get_consumer", AUTHENTICATED, later=True)
def _get_consumer(pdk: Pdk) -> Any:
    return pdk.exchange.consumer


@function("client.load_consumer", AUTHENTICATED, later=True)
def _load_consumer(pdk: Pdk, consumer: Any, by_username: Any) -> Any:
    name = string(consumer, "consumer_id")
    try:
        found = pdk.declared.consumers.get(str(uuid.UUID(name)))
    except ValueError:
        found = None
        if not by_username:
            raise LuaError("cannot load a consumer with an id that is not a uuid") from None
    if found is None and by_username:
        found = next((each for each in pdk.declared.consumers.values() if each.get("username") == name), None)
    return found


@function("client.authenticate", ACCESS)
def _authenticate(pdk: Pdk, consumer: Any, credential: Any) -> None:
    for what, value in (("consumer", consumer), ("credential", credential)):
        if value is not None and not isinstance(value, dict):
            raise LuaError(f"{what} must be a table or nil")
    if consumer is None and credential is None:
        raise LuaError("either credential or consumer must be provided")
    pdk.exchange.consumer, pdk.exchange.credential = consumer, credential


@function("client.get_protocol", AUTHENTICATED)
def _get_protocol(pdk: Pdk, allow_terminated: Any) -> str | None:
    match = pdk.exchange.match
    if match is None:
        return None
    if len(match.route["protocols"]) == 1:
        return str(match.route["protocols"][0])
    return (pdk.forwarded("x-forwarded-proto") or "http").lower() if allow_terminated else "http"


@function("client.tls.request_client_certificate", NEVER)
@function("client.tls.disable_session_reuse", NEVER)
@function("client.tls.get_full_client_certificate_chain", REQUEST)
@function("client.tls.set_client_verify", BEFORE_CONTENT)
def _tls(pdk: Pdk, _value: Any) -> None:
    """There is no TLS towards clients here."""


@function("ctx.shared.set", later=True)
def _set_shared(pdk: Pdk, name: Any, value: Any) -> None:
    pdk.exchange.shared[string(name, "key")] = value


@function("ctx.shared.get", later=True)
def _get_shared(pdk: Pdk, name: Any) -> Any:
    return pdk.exchange.shared.get(string(name, "key"))


@function("nginx.set_ctx", later=True)
def _set_ctx(pdk: Pdk, name: Any, value: Any) -> None:
    pdk.exchange.ctx[string(name, "key")] = value


@function("nginx.get_ctx", later=True)
def _get_ctx(pdk: Pdk, name: Any) -> Any:
    return pdk.exchange.ctx.get(string(name, "key"))


@function("nginx.get_var")
def _get_var(pdk: Pdk, name: Any) -> str | None:
    if name == "request_body_file":
        return pdk.body_file or None
    return pdk.exchange.variable(string(name, "variable name"))


@function("nginx.get_tls1_version_str", later=True)
def _get_tls_version(pdk: Pdk) -> None:
    """There is no TLS towards clients here."""


@function("nginx.req_start_time", later=True)
def _req_start_time(pdk: Pdk) -> float:
    return round(pdk.exchange.began, 3)


@function("nginx.get_subsystem", later=True)
def _get_subsystem(pdk: Pdk) -> str:
    return "http"


@function("nginx.get_statistics", later=True)
def _get_statistics(pdk: Pdk) -> dict[str, int]:
    return pdk.counts


@function("node.get_id", later=True)
def _get_node_id(pdk: Pdk) -> str:
    return _NODE_ID


@function("node.get_hostname", later=True)
def _get_hostname(pdk: Pdk) -> str:
    return socket.gethostname()


@function("node.get_memory_stats", later=True)
def _get_memory_stats(pdk: Pdk) -> dict[str, Any]:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - a line of numbers
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    share = {"allocated_slabs": 12288, "capacity": 5242880}
    return {
        "lua_shared_dicts": {"kong": share, "kong_db_cache": share},
        "workers_lua_vms": [{"http_allocated_gc": resident, "pid": os.getpid()}],
    }


@function("cluster.get_id", later=True)
def _get_cluster_id(pdk: Pdk) -> str:
    return _CLUSTER_ID


@function("plugin.get_id", later=True)
def _get_plugin_id(pdk: Pdk) -> str:
    return pdk.exchange.plugin_id


@function("ip.is_trusted", later=True)
def _is_trusted(pdk: Pdk, address: Any) -> bool:
    return pdk.is_trusted(string(address, "ip"))


@function("router.get_route", AUTHENTICATED, later=True)
def _get_route(pdk: Pdk) -> Any:
    return pdk.exchange.match.route if pdk.exchange.match else None


@function("router.get_service", AUTHENTICATED, later=True)
def _get_service(pdk: Pdk) -> Any:
    return pdk.exchange.match.service if pdk.exchange.match else None


@function("vault.is_reference", later=True)
def _is_reference(pdk: Pdk, reference: Any) -> bool:
    return isinstance(reference, str) and reference.startswith("{vault://") and reference.endswith("}")


@function("vault.parse_reference", later=True)
def _parse_reference(pdk: Pdk, reference: Any) -> dict[str, Any] | None:
    if not _is_reference(pdk, reference):
        return None
    name, _, resource = reference[len("{vault://") : -1].partition("/")
    resource, _, key = resource.partition("/")
    return {"name": name, "resource": resource, **({"key": key} if key else {})}


@function("vault.get", later=True)
def _get_secret(pdk: Pdk, reference: Any) -> str | None:
    parsed = _parse_reference(pdk, reference)
    if parsed is None or parsed["name"] != "env":
        log.warning("vault: only {vault://env/name} is known here: %s", reference)
        return None
    return os.environ.get(parsed["resource"].upper().replace("-", "_"))


@function("telemetry.log", later=True)
def _telemetry(pdk: Pdk, _plugin: Any, _config: Any, kind: Any, message: Any, attributes: Any) -> None:
    log.info("telemetry: %s %s %s", kind, message, attributes)
