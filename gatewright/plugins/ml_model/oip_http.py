"""Models on a server that speaks the Open Inference Protocol over HTTP: KServe, Triton, MLServer, OpenVINO, ..."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from gatewright import ConfigError, PluginError
from gatewright.plugins.ml_model.backends import needed
from gatewright.plugins.ml_model.batching import ModelDownError
from gatewright.plugins.ml_model.oip_messages import HEADER_LENGTH, read_response, write_request
from gatewright.plugins.ml_model.tensors import DTYPES, BadTensorError, Tensors, TensorSpec

if TYPE_CHECKING:
    import aiohttp

    from gatewright.plugins.ml_model.options import ModelSource

__all__ = ["HttpModel", "spec_of"]

_MOST_ANSWER = 64 << 20
_CLIENTS_FAULT = (400, 404, 413, 422)


class HttpModel:
    """A model of a server's, over HTTP."""

    def __init__(self, source: ModelSource) -> None:
        needed("aiohttp", "oip")
        self.source = source
        self.inputs: Sequence[TensorSpec] = ()
        self.outputs: Sequence[TensorSpec] = ()
        version = f"/versions/{quote(source.version, safe='')}" if source.version else ""
        self._url = f"{source.url.rstrip('/')}/v2/models/{quote(source.name, safe='')}{version}"
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """See that the server has the model, and ask what it takes."""
        import aiohttp

        source = self.source
        secure = ssl.create_default_context(cafile=source.ca_file or None) if source.url.startswith("https:") else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=source.concurrency, ssl=secure),
            timeout=aiohttp.ClientTimeout(total=source.timeout, connect=min(source.timeout, 5.0)),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        try:
            described = msgspec.json.decode((await self._ask("GET", ""))[0])
            self.inputs = [spec_of(each) for each in described.get("inputs", ())]
            self.outputs = [spec_of(each) for each in described.get("outputs", ())]
        except BaseException as error:
            await self._session.close()
            if isinstance(error, msgspec.DecodeError | AttributeError | TypeError):
                raise ConfigError(f"{self._url} describes no model: {error}") from None
            raise

    async def infer(self, tensors: Tensors) -> Tensors:
        """Have the server run the model."""
        body, headers = write_request(tensors, binary=self.source.binary)
        content, answered = await self._ask("POST", "/infer", body, headers)
        try:
            return read_response(content, answered.get(HEADER_LENGTH))
        except BadTensorError as error:
            raise PluginError(f"{self._url} answered with something else than tensors: {error}") from None

    async def _ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, Mapping[str, str]]:
        import aiohttp

        session = self._session
        assert session is not None  # noqa: S101 - it's opened before it's asked
        sent = dict(headers or {})
        if self.source.authorization is not None:
            sent["authorization"] = self.source.authorization.reveal()
        try:
            async with session.request(
                method, self._url + path, data=body or None, headers=sent, allow_redirects=False
            ) as answer:
                content = await answer.content.read(_MOST_ANSWER + 1)
                while len(content) <= _MOST_ANSWER and (more := await answer.content.read(_MOST_ANSWER)):
                    content += more
                status = answer.status
                answered = {name.lower(): value for name, value in answer.headers.items()}
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ModelDownError(f"{self._url} can't be asked: {type(error).__name__}: {error}") from None
        if len(content) > _MOST_ANSWER:
            raise PluginError(f"{self._url} answered with more than {_MOST_ANSWER} bytes")
        if status == 200:
            return content, answered
        why = f"{self._url} answered {status}: {_error_of(content)}"
        raise PluginError(why) if status in _CLIENTS_FAULT else ModelDownError(why)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


def _error_of(content: bytes) -> str:
    try:
        return str(msgspec.json.decode(content)["error"])[:500]
    except (msgspec.DecodeError, KeyError, TypeError):
        return content[:200].decode("utf-8", "replace")


def spec_of(item: Any) -> TensorSpec:
    """A tensor as a server describes it.

    Raises:
        ConfigError: it is of a type that isn't known here.
    """
    if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
        raise ConfigError(f"a model server described a tensor as {item!r}")
    if item.get("datatype") not in DTYPES:
        raise ConfigError(f"the tensor {item['name']!r} is {item.get('datatype')!r}: there are {', '.join(DTYPES)}")
    return TensorSpec(item["name"], item["datatype"], tuple(int(size) for size in item.get("shape") or ()))
