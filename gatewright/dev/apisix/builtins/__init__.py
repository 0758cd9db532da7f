"""APISIX's own plugins that the development gateway has, since routes have them beside a runner's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gatewright.dev.apisix.builtins import answers, callers, guards, limits, marks, rewriting
from gatewright.dev.apisix.builtins.shape import Around, Builtin, Counters

__all__ = ["BUILTINS", "Around", "Builtin", "Counters"]

BUILTINS: Final[Mapping[str, Builtin]] = {
    "real-ip": Builtin(23000, rewrite=marks.real_ip),
    "client-control": Builtin(22000, rewrite=limits.client_control, check=limits.check_size),
    "request-id": Builtin(
        12015, rewrite=marks.add_request_id, answer=marks.tell_request_id, check=marks.check_request_id
    ),
    "fault-injection": Builtin(11000, rewrite=answers.fault_injection, check=answers.check_fault),
    "mocking": Builtin(10900, access=answers.mocking, check=answers.check_mocking),
    "cors": Builtin(4000, rewrite=marks.note_origin, answer=marks.cors, check=marks.check_cors),
    "ip-restriction": Builtin(3000, access=guards.ip_restriction, check=guards.check_addresses),
    "ua-restriction": Builtin(2999, access=guards.ua_restriction, check=guards.check_patterns),
    "referer-restriction": Builtin(2990, access=guards.referer_restriction),
    "csrf": Builtin(2980, access=limits.csrf, answer=limits.add_token, check=limits.check_csrf),
    "uri-blocker": Builtin(2900, rewrite=guards.uri_blocker, check=guards.check_patterns),
    "basic-auth": Builtin(2520, rewrite=callers.basic_auth, identifies=True, check=callers.check_basic_auth),
    "key-auth": Builtin(2500, rewrite=callers.key_auth, identifies=True, check=callers.check_key_auth),
    "consumer-restriction": Builtin(2400, access=callers.consumer_restriction),
    "proxy-rewrite": Builtin(1008, rewrite=rewriting.rewrite),
    "limit-count": Builtin(1002, access=guards.limit_count, check=guards.check_limit),
    "limit-req": Builtin(1001, access=limits.limit_req, check=limits.check_rate),
    "redirect": Builtin(900, rewrite=answers.redirect, check=answers.check_redirect),
    "response-rewrite": Builtin(899, answer=rewriting.answer, check=rewriting.check),
    "echo": Builtin(412, answer=marks.echo),
}
"""By name, in the order in which they run."""
