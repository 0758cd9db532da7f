"""Type hints for the `kong` object that phase handlers are given; nothing here can be called.

In Lua style, the default of old, each method gives `(value, error)`, `(None, None)` where there is no value. With
`--no-lua-style` it gives the value alone, and in an `async def` handler something to await: annotate `kong: Any` there.

Phases are named where Kong checks them, or can't answer in others; they are those that a plugin server's plugins have.
In `log` the request is gone, and only the methods that name this phase, or "any phase", can be relied on. A method in a
phase that it isn't for is a Lua error: Kong abandons the handler and logs why.

"MessagePack only" are the methods that Kong's Protobuf service doesn't have; optional arguments that it doesn't have
are named, too. Over MessagePack, Kong sends the first of Lua's results only, so that a method that fails without a Lua
error gives None and no reason; an empty table comes as `[]`, except for headers and query arguments; and a None can
cut off the arguments after it: `exit(401, "", headers)`, not `exit(401, None, headers)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn, TypeVar

__all__ = ["kong"]

T = TypeVar("T")
Result = tuple[T, "str | None"]
Table = dict[str, Any]
HeaderValue = str | float | bool | Sequence[str]
ArgumentValue = str | float | bool | Sequence[str | bool]

class _Inspect:
    """`kong.log.inspect`, which can be called and has methods."""

    def __call__(self, *values: Any) -> Result[None]:
        """Log values, pretty-printed and with spaces between them, at level notice. MessagePack only; any phase."""

    def off(self) -> Result[None]:
        """Let `kong.log.inspect` of this plugin log nothing from now on. MessagePack only; any phase."""

    def on(self) -> Result[None]:
        """Let `kong.log.inspect` of this plugin log again. MessagePack only; any phase."""

class kong:
    """Kong's Plugin Development Kit. Arguments are given by position: they have no names on the wire."""

    class client:
        """The client: its address, and who it was authenticated as."""

        @staticmethod
        def authenticate(consumer: Table | None, credential: Table | None, /) -> Result[None]:
            """Set the request's consumer and credential; None clears one, but not both. Phase: access."""

        @staticmethod
        def authenticate_consumer_group_by_consumer_id(consumer_id: str | None, /) -> Result[None]:
            """Set the consumer groups to those of a consumer. Kong Enterprise, MessagePack only; phase: access."""

        @staticmethod
        def get_consumer() -> Result[Table | None]:
            """Give the authenticated consumer, None if there is none. Phases: access, response, log."""

        @staticmethod
        def get_consumer_group() -> Result[Table | None]:
            """Give the consumer group; deprecated. Kong Enterprise, MessagePack only; phases: access, response, log."""

        @staticmethod
        def get_consumer_groups() -> Result[list[Table] | None]:
            """Give the consumer groups. Kong Enterprise, MessagePack only; phases: access, response, log."""

        @staticmethod
        def get_credential() -> Result[Table | None]:
            """Give the credential that the consumer was authenticated with, or None. Phases: access, response, log."""

        @staticmethod
        def get_forwarded_ip() -> Result[str]:
            """Give the client's address, as told by a trusted proxy before Kong if there is one. Any phase but log."""

        @staticmethod
        def get_forwarded_port() -> Result[int]:
            """Give the client's port, as told by a trusted proxy before Kong if there is one. Any phase but log."""

        @staticmethod
        def get_ip() -> Result[str]:
            """Give the address of whoever is connected to Kong: the client or a proxy. Any phase but log."""

        @staticmethod
        def get_port() -> Result[int]:
            """Give the port of whoever is connected to Kong: the client or a proxy. Any phase but log."""

        @staticmethod
        def get_protocol(allow_terminated: bool = ..., /) -> Result[str | None]:
            """Give http, https, tcp or tls; True: heed X-Forwarded-Proto. None: no route. Phases: access, response."""

        @staticmethod
        def load_consumer(consumer_id: str, search_by_username: bool = ..., /) -> Result[Table | None]:
            """Find a consumer by its UUID or, if asked for, by its user name. Phases: access, response, log."""

        @staticmethod
        def set_authenticated_consumer_group(group: Table | None, /) -> Result[None]:
            """Set the group; deprecated. Kong Enterprise, MessagePack only; phases: access, response, log."""

        @staticmethod
        def set_authenticated_consumer_groups(groups: Sequence[Table] | None, /) -> Result[None]:
            """Set the groups, each with `id` and `name`. Kong Enterprise, MessagePack only; access, response, log."""

        class tls:
            """The client's TLS connection; HTTP only."""

            @staticmethod
            def disable_session_reuse() -> Result[bool | None]:
                """Prevent that the TLS session is resumed later. MessagePack only; phase: certificate."""

            @staticmethod
            def get_full_client_certificate_chain() -> Result[str | None]:
                """Give the client's certificate chain, PEM; None: none. MessagePack only; rewrite, access, response."""

            @staticmethod
            def request_client_certificate() -> Result[bool | None]:
                """Ask for a certificate; Lua's argument, CAs, can't be sent. MessagePack only; phase: certificate."""

            @staticmethod
            def set_client_verify(value: str, /) -> Result[None]:
                """Set what logs say: SUCCESS, NONE or FAILED:<reason>. MessagePack only; rewrite, access, response."""

    class cluster:
        """The cluster of nodes."""

        @staticmethod
        def get_id() -> Result[str | None]:
            """Give the cluster's UUID, None without a database and an ID. MessagePack only; any phase."""

    class ctx:
        """What lives as long as the request."""

        class shared:
            """`kong.ctx.shared`: values that all plugins see."""

            @staticmethod
            def get(key: str, /) -> Result[Any]:
                """Give a value that a plugin has set for this request, or None. Any phase."""

            @staticmethod
            def set(key: str, value: Any, /) -> Result[None]:
                """Set a value for this request that all plugins see. Any phase."""

    class enterprise_edition:
        """Kong Enterprise."""

        class jwe:
            """JSON Web Encryption, by the name in kong-pdk; Kong's own name for it is `kong.jwe`."""

            @staticmethod
            def decode(token: str, /) -> Result[Any]:
                """Take a token apart without decrypting it; None if it isn't one. Kong Enterprise, MessagePack only."""

            @staticmethod
            def decrypt(key: str | Table, token: str, /) -> Result[str | None]:
                """Give a token's plaintext; the private key is a JWK, PEM or DER. Kong Enterprise, MessagePack only."""

            @staticmethod
            def encrypt(
                alg: str, enc: str, key: str | Table, plaintext: str, options: Table = ..., /
            ) -> Result[str | None]:
                """Give a token: alg RSA-OAEP or ECDH-ES, enc e.g. A256GCM. Kong Enterprise, MessagePack only."""

    class ip:
        """Addresses."""

        @staticmethod
        def is_trusted(address: str, /) -> Result[bool]:
            """Tell if an address is in `trusted_ips` of kong.conf. Any phase."""

    class jwe:
        """JSON Web Encryption; Kong Enterprise."""

        @staticmethod
        def decode(token: str, /) -> Result[Any]:
            """Take a token apart without decrypting it; None if it isn't one. Kong Enterprise, MessagePack only."""

        @staticmethod
        def decrypt(key: str | Table, token: str, /) -> Result[str | None]:
            """Give a token's plaintext; the private key is a JWK, PEM or DER. Kong Enterprise, MessagePack only."""

        @staticmethod
        def encrypt(
            alg: str, enc: str, key: str | Table, plaintext: str, options: Table = ..., /
        ) -> Result[str | None]:
            """Give a token: alg RSA-OAEP or ECDH-ES, enc e.g. A256GCM. Kong Enterprise, MessagePack only."""

    class log:
        """Kong's error log, a method for each level, and what logging plugins write."""

        inspect: ClassVar[_Inspect]
        """Log values, pretty-printed; `inspect.off()` and `inspect.on()` switch that. MessagePack only; any phase."""

        @staticmethod
        def alert(*values: Any) -> Result[None]:
            """Log values, joined without spaces, at level alert. Any phase."""

        @staticmethod
        def crit(*values: Any) -> Result[None]:
            """Log values, joined without spaces, at level crit. Any phase."""

        @staticmethod
        def debug(*values: Any) -> Result[None]:
            """Log values, joined without spaces, at level debug. Any phase."""

        @staticmethod
        def deprecation(*values: str | int | Table) -> Result[None]:
            """Log a warning; a dict at the end may have `after`, `removal`, `trace`. MessagePack only; any phase."""

        @staticmethod
        def emerg(*values: Any) -> Result[None]:
            """Log values, joined without spaces, at level emerg. MessagePack only; any phase."""

        @staticmethod
        def err(*values: Any) -> Result[None]:
            """Log values, joined without spaces, at level error. Any phase."""

        @staticmethod
        def info(*values: Any) -> Result[None]:
            """Log values, joined without spaces, at level info. Any phase."""

        @staticmethod
        def notice(*values: Any) -> Result[None]:
            """Log values, joined without spaces, at level notice. Any phase."""

        @staticmethod
        def serialize() -> Result[str]:
            """Give what logging plugins write of the request and its response, as JSON. Phase: log."""

        @staticmethod
        def set_serialize_value(key: str, value: Any, options: Table = ..., /) -> Result[None]:
            """Set a field of `serialize`; mode (MessagePack only): set, add, replace. Rewrite, access, response."""

        @staticmethod
        def warn(*values: Any) -> Result[None]:
            """Log values, joined without spaces, at level warn. Any phase."""

    class nginx:
        """The Nginx that Kong runs in."""

        @staticmethod
        def get_ctx(key: str, /) -> Result[Any]:
            """Give a value of the request's `ngx.ctx`, or None. Any phase."""

        @staticmethod
        def get_statistics() -> Result[dict[str, int]]:
            """Count connections (`connections_active`, ...) and `total_requests`. MessagePack only; any phase."""

        @staticmethod
        def get_subsystem() -> Result[str]:
            """Give http or stream. Any phase."""

        @staticmethod
        def get_tls1_version_str() -> Result[str | None]:
            """Give the client's TLS version, e.g. TLSv1.3; None without TLS. Any phase but log."""

        @staticmethod
        def get_var(name: str, /) -> Result[str | None]:
            """Give one of Nginx's variables, without the `$`; None if it's unset. Any phase but log."""

        @staticmethod
        def req_start_time() -> Result[float]:
            """Give the time when the request began: seconds since 1970, with milliseconds. HTTP only; any phase."""

        @staticmethod
        def set_ctx(key: str, value: Any, /) -> Result[None]:
            """Set a value of the request's `ngx.ctx`. Any phase."""

        class shared:
            """Named in kong-pdk, but Kong itself has no such methods."""

            @staticmethod
            def get(key: str, /) -> Result[Any]:
                """Give None: Kong has no such method, and logs that."""

            @staticmethod
            def set(key: str, value: Any, /) -> Result[None]:
                """Do nothing: Kong has no such method, and logs that."""

    class node:
        """The node that this Kong is."""

        @staticmethod
        def get_hostname() -> Result[str]:
            """Give the machine's host name. MessagePack only; any phase."""

        @staticmethod
        def get_id() -> Result[str]:
            """Give the node's UUID. Any phase."""

        @staticmethod
        def get_memory_stats(unit: str = ..., scale: int = ..., /) -> Result[Table]:
            """Give memory use, in bytes; over MessagePack in a unit (b, k, m, g) with `scale` decimals. Any phase."""

    class plugin:
        """The plugin that runs."""

        @staticmethod
        def get_id() -> Result[str]:
            """Give the ID of the plugin's configuration that runs, a UUID. MessagePack only; any phase."""

    class request:
        """The client's request."""

        @staticmethod
        def get_body(
            mimetype: str = ..., max_args: int = ..., max_allowed_file_size: int = ..., /
        ) -> Result[Table | list[Any] | None]:
            """Give the body, a form, JSON or multipart, parsed. MessagePack only; phases: rewrite, access, response."""

        @staticmethod
        def get_forwarded_host() -> Result[str]:
            """Give the host, X-Forwarded-Host of a trusted proxy first, in lower case. Rewrite, access, response."""

        @staticmethod
        def get_forwarded_path() -> Result[str]:
            """Give the path, X-Forwarded-Path of a trusted proxy first. MessagePack only; rewrite, access, response."""

        @staticmethod
        def get_forwarded_port() -> Result[int]:
            """Give the port, X-Forwarded-Port or -Host of a trusted proxy first. Phases: rewrite, access, response."""

        @staticmethod
        def get_forwarded_prefix() -> Result[str | None]:
            """Give the prefix that the route strips, X-Forwarded-Prefix first. MessagePack only; access, response."""

        @staticmethod
        def get_forwarded_scheme() -> Result[str]:
            """Give the scheme, X-Forwarded-Proto of a trusted proxy first. Phases: rewrite, access, response."""

        @staticmethod
        def get_header(name: str, /) -> Result[str | None]:
            """Give a header's first value, None without it. Phases: rewrite, access, response, log."""

        @staticmethod
        def get_headers(max_headers: int = ..., /) -> Result[dict[str, list[str]]]:
            """Give the headers: 100 or as configured, or up to 1000. Phases: rewrite, access, response, log."""

        @staticmethod
        def get_host() -> Result[str]:
            """Give the host of the URL or of the Host header, in lower case. Phases: rewrite, access, response, log."""

        @staticmethod
        def get_http_version() -> Result[float | None]:
            """Give the HTTP version: 1.0, 1.1, 2.0, ..., None if it's unknown. Phases: rewrite, access, response."""

        @staticmethod
        def get_method() -> Result[str]:
            """Give the method, in upper case. Phases: rewrite, access, response."""

        @staticmethod
        def get_path() -> Result[str]:
            """Give the path, decoded and normalized, no query. Phases: rewrite, access, response, log."""

        @staticmethod
        def get_path_with_query() -> Result[str]:
            """Give the path and the query, as they were sent. Phases: rewrite, access, response, log."""

        @staticmethod
        def get_port() -> Result[int]:
            """Give the port that Kong was connected to at. Any phase but log."""

        @staticmethod
        def get_query(max_args: int = ..., /) -> Result[dict[str, list[str | bool]]]:
            """Give the query's arguments: 100 or as configured, or up to 1000. Phases: rewrite, access, response."""

        @staticmethod
        def get_query_arg(name: str, /) -> Result[str | bool | None]:
            """Give an argument's first value, True if it's without `=`, None without it. Rewrite, access, response."""

        @staticmethod
        def get_raw_body(max_allowed_file_size: int = ..., /) -> Result[bytes]:
            """Give the body; over MessagePack one in a file only up to a size, 0: any. Rewrite, access, response."""

        @staticmethod
        def get_raw_path() -> Result[str]:
            """Give the path as it was sent, no query. MessagePack only; phases: rewrite, access, response, log."""

        @staticmethod
        def get_raw_query() -> Result[str]:
            """Give the query as it was sent, without the `?`. Phases: rewrite, access, response."""

        @staticmethod
        def get_scheme() -> Result[str]:
            """Give the scheme of the connection to Kong: http or https. Phases: rewrite, access, response, log."""

        @staticmethod
        def get_start_time() -> Result[float]:
            """Give when it began: milliseconds since 1970. MessagePack only; rewrite, access, response, log."""

        @staticmethod
        def get_uri_captures() -> Result[Table]:
            """Give what the route's path captured: `named` and `unnamed`. Phases: access, response, log."""

    class response:
        """The response to the client."""

        @staticmethod
        def add_header(name: str, value: HeaderValue, /) -> Result[None]:
            """Add a header, and keep those of the same name. Phases: rewrite, access, response."""

        @staticmethod
        def clear_header(name: str, /) -> Result[None]:
            """Remove a header, with all its values. Phases: rewrite, access, response."""

        @staticmethod
        def error(
            status: int, message: str | Table | None = ..., headers: Mapping[str, HeaderValue] | None = ..., /
        ) -> NoReturn:
            """Answer with an error, 400 to 599, and end the handler. MessagePack only; rewrite, access, response."""

        @staticmethod
        def exit(
            status: int, body: bytes | str | Table | None = ..., headers: Mapping[str, HeaderValue] | None = ..., /
        ) -> NoReturn:
            """Answer and end the handler; dict: JSON, MessagePack only. Phases: rewrite, access, response, preread."""

        @staticmethod
        def get_header(name: str, /) -> Result[str | None]:
            """Give a header's first value as the client gets it, None without it. Phases: response, log."""

        @staticmethod
        def get_headers(max_headers: int = ..., /) -> Result[dict[str, list[str]]]:
            """Give the headers as the client gets them: 100 or as configured, or up to 1000. Phases: response, log."""

        @staticmethod
        def get_source() -> Result[str]:
            """Tell where the response is from: service, exit (a plugin or Kong) or error. Phases: response, log."""

        @staticmethod
        def get_status() -> Result[int]:
            """Give the status as the client gets it. Phases: response, log."""

        @staticmethod
        def set_header(name: str, value: HeaderValue, /) -> Result[None]:
            """Set a header, instead of those of the same name. Phases: rewrite, access, response."""

        @staticmethod
        def set_headers(headers: Mapping[str, HeaderValue], /) -> Result[None]:
            """Set headers, each instead of those of the same name. Phases: rewrite, access, response."""

        @staticmethod
        def set_status(status: int, /) -> Result[None]:
            """Set the status, 100 to 599. Phases: rewrite, access, response."""

    class router:
        """What the request was matched with."""

        @staticmethod
        def get_route() -> Result[Table | None]:
            """Give the route that matched, None without one. Phases: access, response, log."""

        @staticmethod
        def get_service() -> Result[Table | None]:
            """Give the service that the request goes to, None without one. Phases: access, response, log."""

    class service:
        """The connection to the service."""

        @staticmethod
        def set_retries(retries: int, /) -> Result[None]:
            """Set how often Kong tries again, 0 to 32767. MessagePack only; phase: access."""

        @staticmethod
        def set_target(host: str, port: int, /) -> Result[None]:
            """Set where the request goes to, without balancing and health checks. Phases: rewrite, access, preread."""

        @staticmethod
        def set_timeouts(connect_timeout: int, write_timeout: int, read_timeout: int, /) -> Result[None]:
            """Set the timeouts in milliseconds, 1 to 2147483646. MessagePack only; phase: access."""

        @staticmethod
        def set_tls_verify(on: bool, /) -> Result[bool | None]:
            """Set if the service's certificate is verified. MessagePack only; phases: rewrite, access, preread."""

        @staticmethod
        def set_tls_verify_depth(depth: int, /) -> Result[bool | None]:
            """Set how long a certificate chain may be. MessagePack only; phases: rewrite, access, preread."""

        @staticmethod
        def set_upstream(host: str, /) -> Result[bool | None]:
            """Send the request to the upstream of this name; None if there is none. Phase: access."""

        class request:
            """The request that goes to the service."""

            @staticmethod
            def add_header(header: str, value: HeaderValue, /) -> Result[None]:
                """Add a header, and keep those of the same name. Phases: rewrite, access."""

            @staticmethod
            def clear_header(header: str, /) -> Result[None]:
                """Remove a header, with all its values. Phases: rewrite, access."""

            @staticmethod
            def clear_query_arg(name: str, /) -> Result[None]:
                """Remove an argument of the query, with all its values. MessagePack only; phases: rewrite, access."""

            @staticmethod
            def disable_tls() -> Result[bool | None]:
                """Connect to the service without TLS. MessagePack only; phase: preread, of streams."""

            @staticmethod
            def enable_buffering() -> Result[None]:
                """Keep the service's body for `kong.service.response`. MessagePack only; phases: rewrite, access."""

            @staticmethod
            def enable_tls() -> Result[bool | None]:
                """Connect to the service with TLS. Not for plugins: Kong has it for HTTP's balancer phase alone."""

            @staticmethod
            def set_body(args: Table, mime: str = ..., /) -> Result[bool | None]:
                """Set the body to a form, JSON or multipart, by Content-Type. MessagePack only; rewrite, access."""

            @staticmethod
            def set_header(header: str, value: HeaderValue, /) -> Result[None]:
                """Set a header, instead of those of the same name; Host: the SNI, too. Phases: rewrite, access."""

            @staticmethod
            def set_headers(headers: Mapping[str, HeaderValue], /) -> Result[None]:
                """Set headers, each instead of those of the same name. Phases: rewrite, access."""

            @staticmethod
            def set_method(method: str, /) -> Result[None]:
                """Set the method, in upper case, one that Nginx knows. Phases: rewrite, access."""

            @staticmethod
            def set_path(path: str, /) -> Result[None]:
                """Set the path, from its `/` on, no query; Kong escapes it. Phases: rewrite, access."""

            @staticmethod
            def set_query(args: Mapping[str, ArgumentValue], /) -> Result[None]:
                """Set the query, sorted by name and encoded; True: a name without `=`. Phases: rewrite, access."""

            @staticmethod
            def set_raw_body(body: bytes | str, /) -> Result[None]:
                """Set the body, and Content-Length with it. Phases: rewrite, access."""

            @staticmethod
            def set_raw_query(query: str, /) -> Result[None]:
                """Set the query as it is, without the `?`. Phases: rewrite, access."""

            @staticmethod
            def set_scheme(scheme: str, /) -> Result[None]:
                """Set the protocol to the service: http or https. Phases: rewrite, access."""

        class response:
            """The service's response; its body only if it's buffered: `enable_buffering()`, or a `response` handler."""

            @staticmethod
            def get_body(mimetype: str = ..., max_args: int = ..., /) -> Result[Table | list[Any] | None]:
                """Give the buffered body, a form, JSON or multipart, parsed. MessagePack only; response, log."""

            @staticmethod
            def get_header(name: str, /) -> Result[str | None]:
                """Give a header's first value as the service sent it, None without it. Phase: response."""

            @staticmethod
            def get_headers(max_headers: int = ..., /) -> Result[dict[str, list[str]]]:
                """Give headers, but none if the body is buffered: `kong.response.get_headers` does. Phase: response."""

            @staticmethod
            def get_raw_body() -> Result[bytes]:
                """Give the buffered body. Phases: response, log."""

            @staticmethod
            def get_status() -> Result[int | None]:
                """Give the service's status, None if it wasn't asked. Phase: response."""

    class telemetry:
        """OpenTelemetry."""

        @staticmethod
        def log(
            plugin_name: str,
            plugin_config: Table,
            message_type: str,
            message: str | None = ...,
            attributes: Table | None = ...,
            /,
        ) -> Result[bool | None]:
            """Log for Kong's OpenTelemetry plugin; None if that takes no logs. MessagePack only; any phase."""

    class vault:
        """Secrets that configurations refer to."""

        @staticmethod
        def flush() -> Result[None]:
            """Drop the worker's cache, and fetch all secrets anew. Internal to Kong, MessagePack only; any phase."""

        @staticmethod
        def get(reference: str, /) -> Result[str | None]:
            """Give the secret of a reference, `{vault://env/name}`, or None. MessagePack only; any phase."""

        @staticmethod
        def init_worker() -> Result[None]:
            """Start the rotation of secrets. Internal to Kong, which does it itself: not for plugins."""

        @staticmethod
        def is_reference(reference: str, /) -> Result[bool]:
            """Tell if a text looks like a reference: `{vault://...}`. MessagePack only; any phase."""

        @staticmethod
        def parse_reference(reference: str, /) -> Result[Table | None]:
            """Give `name`, `resource`, `key`, `config`, `version`; None: no reference. MessagePack only; any phase."""

        @staticmethod
        def update(options: Table, /) -> Result[Table]:
            """Give options with the cached secrets that their `$refs` name filled in. MessagePack only; any phase."""

        @staticmethod
        def warmup(input: Table, /) -> Result[None]:
            """Fetch the secrets of all references in a table. Internal to Kong, MessagePack only; any phase."""
