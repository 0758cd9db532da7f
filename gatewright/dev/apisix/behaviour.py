"""What the versions of APISIX do differently (see `gatewright.gateways.apisix.versions`, which tells them apart)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

__all__ = ["BEHAVIOURS", "Behaviour"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a version behaves.

    Attributes:
        version: which one it is.
        most_headers: so many of a request's headers are read at most; 0 for all.
        first_header: of a header that came more than once, APISIX's own plugins see the first; before, they see a list.
        asks_again: a header's variable is looked up again once the header was changed.
        names_consumer: the upstream gets X-Consumer-Username.
        runs_again: once a consumer is known, the route's plugins run again beside what the consumer adds.
        forwarded: X-Forwarded-Proto, -Host and -Port of a client are `kept`; or replaced by what is `observed`, and
            X-Forwarded-For dropped; or `injected` by nginx, before anybody looks, with the port in the host.
        challenges: who isn't known gets a WWW-Authenticate.
        merges_global_rules: they are one, and a plugin that is in several is in none.
        keeps_query: a new path alone keeps the query, byte for byte.
        splits_global_rules: their access phase runs after the route's rewrite phase.
        reads_unsized_bodies: the body of an HTTP/2 request without Content-Length is read.
        lower_names: APISIX's table of headers is patched under lower-case names, whatever a runner sends.
        variables: those that its nginx.conf defines and older ones don't, and as what.
        nginx: its nginx.
        lua: its nginx's Lua module, as lua-resty-http names it.
    """

    version: str = "3.9"
    nginx: str = "1.25.3"
    lua: str = "10026"
    most_headers: int = 0
    first_header: bool = False
    asks_again: bool = False
    names_consumer: bool = False
    runs_again: bool = True
    forwarded: Literal["kept", "observed", "injected"] = "kept"
    challenges: bool = False
    merges_global_rules: bool = False
    keeps_query: bool = False
    splits_global_rules: bool = False
    reads_unsized_bodies: bool = False
    lower_names: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def release(self) -> str:
        """Its number whole, as it names itself."""
        return f"{self.version}.{1 if self.version in ('3.9', '3.14') else 0}"

    def since(self, minor: int) -> bool:
        """Whether it's that version or a later one: for what one plugin does differently."""
        return int(self.version.partition(".")[2]) >= minor


_3_9: Final = Behaviour()
_3_10: Final = replace(_3_9, version="3.10", most_headers=100, first_header=True, asks_again=True)
_3_11: Final = replace(_3_10, version="3.11", names_consumer=True)
_3_12: Final = replace(_3_11, version="3.12", nginx="1.27.1", lua="10027")
_3_13: Final = replace(_3_12, version="3.13", lua="10028", runs_again=False)
_3_14: Final = replace(_3_13, version="3.14", forwarded="observed")
_3_15: Final = replace(_3_14, version="3.15", challenges=True, merges_global_rules=True)
_3_16: Final = replace(_3_15, version="3.16", keeps_query=True)
_3_17: Final = replace(
    _3_16, version="3.17", nginx="1.29.2", lua="10031", splits_global_rules=True, reads_unsized_bodies=True,
    variables={"rate_limiting_info": ""},
)  # fmt: skip
_OF_MODELS: Final = (
    "prompt_tokens", "completion_tokens", "total_tokens", "tool_count", "cache_read_input_tokens",
    "cache_creation_input_tokens", "reasoning_tokens", "time_to_first_token",
)  # fmt: skip
_NAMED: Final = (
    "rate_limiting_info", "opentelemetry_context_traceparent", "opentelemetry_trace_id", "opentelemetry_span_id",
    "upstream_unresolved_host", "upstream_mirror_grpc_path", "request_line", "apisix_upstream_response_time",
    "request_llm_model", "llm_model", "llm_content_risk_level", "llm_end_user_id", "original_x_forwarded_for",
)  # fmt: skip
_3_18: Final = replace(
    _3_17, version="3.18", forwarded="injected", lower_names=True,
    variables=dict.fromkeys(_NAMED, "") | {f"llm_{name}": "0" for name in _OF_MODELS}
    | {"llm_stream": "false", "llm_has_tool_calls": "false", "request_type": "traditional_http"},
)  # fmt: skip

BEHAVIOURS: Final = {
    each.version: each for each in (_3_9, _3_10, _3_11, _3_12, _3_13, _3_14, _3_15, _3_16, _3_17, _3_18)
}
"""By version."""
