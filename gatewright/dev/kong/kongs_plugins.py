"""The plugins that Kong brings along itself. The development gateway has none of them, and leaves them out by name."""

from __future__ import annotations

from typing import Final

__all__ = ["is_kongs_own"]

_OF_KONG: Final = (
    "acl", "acme", "aws-lambda", "azure-functions", "basic-auth", "bot-detection", "correlation-id", "cors", "datadog",
    "file-log", "grpc-gateway", "grpc-web", "hmac-auth", "http-log", "ip-restriction", "jwt", "key-auth", "ldap-auth",
    "loggly", "oauth2", "opentelemetry", "post-function", "pre-function", "prometheus", "proxy-cache", "rate-limiting",
    "redirect", "request-size-limiting", "request-termination", "request-transformer", "response-ratelimiting",
    "response-transformer", "session", "standard-webhooks", "statsd", "syslog", "tcp-log", "udp-log", "zipkin",
)  # fmt: skip
"""constants.lua, 3.4 to 3.10; those whose names begin with `ai-` besides."""
_OF_ENTERPRISE: Final = (
    "app-dynamics", "application-registration", "canary", "confluent", "degraphql", "exit-transformer",
    "forward-proxy", "graphql-proxy-cache-advanced", "graphql-rate-limiting-advanced", "header-cert-auth",
    "injection-protection", "jq", "json-threat-protection", "jwe-decrypt", "jwt-signer", "kafka-log", "kafka-upstream",
    "key-auth-enc", "ldap-auth-advanced", "mocking", "mtls-auth", "oas-validation", "oauth2-introspection", "opa",
    "openid-connect", "proxy-cache-advanced", "rate-limiting-advanced", "request-transformer-advanced",
    "request-validator", "response-transformer-advanced", "route-by-header", "route-transformer-advanced", "saml",
    "service-protection", "statsd-advanced", "tls-handshake-modifier", "tls-metadata-headers", "upstream-timeout",
    "vault-auth", "websocket-size-limit", "websocket-validator", "xml-threat-protection",
)  # fmt: skip


def is_kongs_own(name: str) -> bool:
    """Whether a plugin of this name is Kong's, so that a real one has it."""
    return name in _OF_KONG or name in _OF_ENTERPRISE or name.startswith("ai-")
