"""`TestClient` and `AsyncTestClient`: requests through plugins, as behind a gateway, without a server.

Everything between the test and the plugin's handler is what runs in production: the gateway's side is that of
`gatewright dev`, the frames between the two are real ones, and so are session, chain, deadlines and policies.
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Protocol, Self

from gatewright.datastructures import Headers
from gatewright.dev.apisix.behaviour import BEHAVIOURS
from gatewright.dev.messages import Answer as GatewayAnswer
from gatewright.dev.messages import ClientRequest
from gatewright.errors import CallRefusedError, ConfigError, GatewrightError
from gatewright.gateways.kong.dump import PROTOCOLS
from gatewright.runtime.shared_loop import new_shared_loop
from gatewright.settings import load_settings
from gatewright.testing.as_apisix import ApisixGateway
from gatewright.testing.as_kong import KongGateway
from gatewright.testing.chains import PluginLike, chain_of
from gatewright.testing.messages import Pairs, Upstream, UpstreamRequest, answer_parts, client_request, sender_for
from gatewright.testing.runs import CURRENT, PluginRuns, Run, Visit
from gatewright.testing.tracebacks import told_briefly

__all__ = ["Answer", "AsyncTestClient", "TestClient"]


class Answer:
    """What the client got, and how it came about.

    Attributes:
        status: the status code.
        headers: all headers.
        body: the body.
        runs: what each plugin's handlers did, in order.
        upstream_requests: what the upstream was sent; more than one where the gateway asks again.
        refused: why the runner refused the call; `None` if it didn't.
    """

    def __init__(self, status: int, headers: Headers, body: bytes, visit: Visit) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.runs: Sequence[Run] = tuple(visit.runs)
        self.upstream_requests: Sequence[UpstreamRequest] = tuple(visit.upstream)
        self.refused = visit.refused

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "surrogateescape")

    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def upstream_request(self) -> UpstreamRequest:
        """What the upstream was sent.

        Raises:
            LookupError: it was sent nothing.
        """
        if not self.upstream_requests:
            raise LookupError(f"the request did not reach the upstream: the client got {self.status}, {self.text!r}")
        return self.upstream_requests[-1]

    @property
    def by_plugin(self) -> Mapping[str, PluginRuns]:
        """What was done, by the plugin's name."""
        by_name: dict[str, list[Run]] = {}
        for run in self.runs:
            by_name.setdefault(run.plugin, []).append(run)
        return {name: PluginRuns(runs) for name, runs in by_name.items()}

    def __repr__(self) -> str:
        return f"<Answer {self.status}, {len(self.body)} bytes>"


class _Gateway(Protocol):
    server: str
    charset: bool

    async def handle(self, request: ClientRequest, visit: Visit) -> GatewayAnswer: ...

    async def close(self) -> None: ...


class AsyncTestClient:
    """Sends requests through plugins, from `async` tests.

    async with AsyncTestClient(Greet, config={"greeting": "hi"}) as client:
        answer = await client.get("/x", headers={"x-user": "ann"})
    """

    __test__ = False  # nothing for pytest to collect
    record_file: ClassVar[Callable[[], Path | None]] = staticmethod(lambda: None)
    """Where to record the requests of a client that isn't told: `pytest --gatewright-record` says so."""

    def __init__(
        self,
        plugin: PluginLike | Sequence[PluginLike | tuple[PluginLike, Any]],
        config: Any = None,
        *,
        upstream: Upstream | None = None,
        gateway: Literal["apisix", "kong"] = "apisix",
        version: str = "3.9",
        request_phase: Literal["ext-plugin-pre-req", "ext-plugin-post-req"] = "ext-plugin-pre-req",
        allow_degradation: bool = False,
        protocol: Literal["msgpack", "protobuf", "lean"] = "msgpack",
        lua_style: bool = False,
        settings: Mapping[str, Any] | None = None,
        raise_errors: bool = True,
        record: Path | None = None,
    ) -> None:
        """Make a client.

        Args:
            plugin: a plugin, or a chain: a sequence of plugins or of `(plugin, configuration)`. A plugin is a class, of
                ours or of an older runner's, a module in kong-pdk's form, or the path of a file.
            config: the plugin's configuration: a mapping, JSON text, or an instance of its `Config`.
            upstream: what answers behind the gateway: a function (`def` or `async def`) that is given an
                `UpstreamRequest` and returns a `Response`, a status, bytes, text or something for JSON; or a
                `Response` for all requests. One that raises `OSError` can't be reached.
            gateway: whom to behave as.
            version: which APISIX to behave as, `3.9` to `3.18`.
            request_phase: where an APISIX route names the plugins for requests.
            allow_degradation: the APISIX route's.
            protocol: what to speak with Kong; `lean` for the lean path, as APISIX or Kong with its plugins do.
            lua_style: on Kong, PDK calls give `(value, error)`.
            settings: the runner's settings, as `gatewright.yaml` has them.
            raise_errors: what a handler raises is raised in the test, where the gateway would refuse the call. Without,
                the test sees what the gateway's client would: a 503, say.
            record: a file to write each request's record to, for `gatewright inspect FILE`.

        Raises:
            ConfigError: something of this can't be.
        """
        __tracebackhide__ = True
        if gateway not in ("apisix", "kong"):
            raise ConfigError(f"gateway is apisix or kong, not {gateway!r}")
        if version not in BEHAVIOURS:
            raise ConfigError(f"version is one of {', '.join(BEHAVIOURS)}, not {version!r}")
        if protocol not in (*PROTOCOLS, "lean"):
            raise ConfigError(f"protocol is one of {', '.join(PROTOCOLS)} and lean, not {protocol!r}")
        if protocol == "lean" and allow_degradation:
            raise ConfigError("over the lean path nothing allows degradation")
        if record is None:
            record = type(self).record_file()
        try:
            self._chain = chain_of(plugin, config, kong=gateway == "kong" and protocol != "lean")
        except GatewrightError as error:
            raise told_briefly(error)  # noqa: B904 - it's the same
        values = {"apisix_version": version, **(settings or {})}
        self._settings = load_settings(flags={}, environ={}, file_values=values).settings
        self._raises = raise_errors
        self._send = sender_for(upstream)
        self._kind = gateway
        self._apisix: dict[str, Any] = {
            "version": version, "request_phase": request_phase, "allow_degradation": allow_degradation,
            "record": record, "lean": protocol == "lean",
        }  # fmt: skip
        self._kong: dict[str, Any] = {"protocol": protocol, "lua_style": lua_style, "record": record}
        self._gateway: _Gateway | None = None
        self._starting = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = asyncio.Event()

    @property
    def is_started(self) -> bool:
        """Whether a request was sent, and the plugins not torn down yet."""
        return self._gateway is not None

    async def _start(self) -> _Gateway:
        plugins = {plugin.name: plugin for plugin, _ in self._chain}
        if self._kind == "kong":
            return await KongGateway.start(self._chain, plugins, self._settings, self._send, **self._kong)
        return await ApisixGateway.start(self._chain, plugins, self._settings, self._send, **self._apisix)

    async def _started_gateway(self) -> _Gateway:
        while self._gateway is None:
            if not self._starting:
                self._starting = True
                try:
                    self._gateway = await self._start()
                finally:
                    self._starting = False
                    self._started.set()
            else:
                self._started.clear()
                await self._started.wait()
        return self._gateway

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Pairs | None = None,
        query: Pairs | str | None = None,
        body: bytes | str | None = None,
        json: Any = ...,
        client_ip: str = "127.0.0.1",
    ) -> Answer:
        """Send a request.

        Args:
            method: the method.
            path: the target as a client writes it, escapes and query included; what can't stand there is escaped.
            headers: names and values; pairs for names that come more than once.
            query: arguments to add, as names and values, or as text just as it's to be sent.
            body: the body; `str` goes as UTF-8.
            json: something to send as JSON, instead.
            client_ip: the client's address.

        Raises:
            Exception: what a handler raised, where that refused the call (unless `raise_errors` is off), or what the
                upstream function raised.
            GatewayClosedError: the client gets no answer.
        """
        __tracebackhide__ = True
        gateway = await self._started_gateway()
        request = client_request(
            method, path, headers=headers, query=query, body=body, json_body=json, client_ip=client_ip
        )  # fmt: skip
        visit = Visit()
        token = CURRENT.set(visit)
        try:
            with visit.closing:
                answer = await gateway.handle(request, visit)
        finally:
            CURRENT.reset(token)
        if visit.failed is not None:
            raise told_briefly(visit.failed)
        if visit.refused is not None and self._raises:
            cause = visit.refused.__cause__ if isinstance(visit.refused, CallRefusedError) else None
            raise told_briefly(cause or visit.refused)
        status, got, content = answer_parts(answer, request, server=gateway.server, charset=gateway.charset)
        return Answer(status, Headers(got), content, visit)

    async def get(self, path: str, **how: Any) -> Answer:
        """Send a GET; see `request`."""
        __tracebackhide__ = True
        return await self.request("GET", path, **how)

    async def post(self, path: str, **how: Any) -> Answer:
        """Send a POST; see `request`."""
        __tracebackhide__ = True
        return await self.request("POST", path, **how)

    async def put(self, path: str, **how: Any) -> Answer:
        """Send a PUT; see `request`."""
        __tracebackhide__ = True
        return await self.request("PUT", path, **how)

    async def patch(self, path: str, **how: Any) -> Answer:
        """Send a PATCH; see `request`."""
        __tracebackhide__ = True
        return await self.request("PATCH", path, **how)

    async def delete(self, path: str, **how: Any) -> Answer:
        """Send a DELETE; see `request`."""
        __tracebackhide__ = True
        return await self.request("DELETE", path, **how)

    async def head(self, path: str, **how: Any) -> Answer:
        """Send a HEAD; see `request`."""
        __tracebackhide__ = True
        return await self.request("HEAD", path, **how)

    async def options(self, path: str, **how: Any) -> Answer:
        """Send an OPTIONS; see `request`."""
        __tracebackhide__ = True
        return await self.request("OPTIONS", path, **how)

    async def close(self) -> None:
        """Tear the plugins down."""
        gateway, self._gateway = self._gateway, None
        if gateway is not None:
            await gateway.close()

    async def __aenter__(self) -> Self:
        await self._started_gateway()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class TestClient:
    """Sends requests through plugins, from tests that are not `async`.

        client = TestClient(Greet, config={"greeting": "hi"})
        answer = client.get("/x", headers={"x-user": "ann"})

    It has an event loop of its own, which runs while a request is under way. `close` it, or use it with `with`, where
    plugins have a `teardown` that matters.
    """

    __test__ = False  # nothing for pytest to collect

    def __init__(
        self,
        plugin: PluginLike | Sequence[PluginLike | tuple[PluginLike, Any]],
        config: Any = None,
        **how: Any,
    ) -> None:
        """Make a client; see `AsyncTestClient` for what it takes."""
        __tracebackhide__ = True
        self._client = AsyncTestClient(plugin, config, **how)
        self._runner = asyncio.Runner(loop_factory=new_shared_loop)
        self._finalizer = weakref.finalize(self, _end, self._runner, self._client)
        self._finalizer.atexit = False  # no thread can be started that late

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Pairs | None = None,
        query: Pairs | str | None = None,
        body: bytes | str | None = None,
        json: Any = ...,
        client_ip: str = "127.0.0.1",
    ) -> Answer:
        """Send a request; see `AsyncTestClient.request`."""
        __tracebackhide__ = True
        if _loop_runs():
            raise RuntimeError("an event loop runs already: use AsyncTestClient in an `async` test")
        sending = self._client.request(
            method, path, headers=headers, query=query, body=body, json=json, client_ip=client_ip
        )
        try:
            return self._runner.run(sending)
        except Exception as error:
            raise told_briefly(error)  # noqa: B904 - it's the same

    def get(self, path: str, **how: Any) -> Answer:
        """Send a GET; see `request`."""
        __tracebackhide__ = True
        return self.request("GET", path, **how)

    def post(self, path: str, **how: Any) -> Answer:
        """Send a POST; see `request`."""
        __tracebackhide__ = True
        return self.request("POST", path, **how)

    def put(self, path: str, **how: Any) -> Answer:
        """Send a PUT; see `request`."""
        __tracebackhide__ = True
        return self.request("PUT", path, **how)

    def patch(self, path: str, **how: Any) -> Answer:
        """Send a PATCH; see `request`."""
        __tracebackhide__ = True
        return self.request("PATCH", path, **how)

    def delete(self, path: str, **how: Any) -> Answer:
        """Send a DELETE; see `request`."""
        __tracebackhide__ = True
        return self.request("DELETE", path, **how)

    def head(self, path: str, **how: Any) -> Answer:
        """Send a HEAD; see `request`."""
        __tracebackhide__ = True
        return self.request("HEAD", path, **how)

    def options(self, path: str, **how: Any) -> Answer:
        """Send an OPTIONS; see `request`."""
        __tracebackhide__ = True
        return self.request("OPTIONS", path, **how)

    def close(self) -> None:
        """Tear the plugins down and close the loop."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _end(runner: asyncio.Runner, client: AsyncTestClient) -> None:
    if _loop_runs():  # collected while another loop runs: it can't be run any more, only closed
        runner.get_loop().close()
        return
    if client.is_started:
        runner.run(client.close())
    runner.close()
