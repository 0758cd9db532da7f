"""Models on a server that speaks the Open Inference Protocol over gRPC.

Of the protocol's messages only those fields are described here that are needed (its service is
`inference.GRPCInferenceService`); all others are skipped when they come. Tensors travel in their binary form.

Calls are those of gRPC's own threads, awaited in the loop: unlike `grpc.aio` they don't take over the loop's polling.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gatewright import PluginError
from gatewright.plugins.ml_model.backends import needed
from gatewright.plugins.ml_model.batching import ModelDownError
from gatewright.plugins.ml_model.oip_http import spec_of
from gatewright.plugins.ml_model.tensors import (
    DTYPES,
    Array,
    BadTensorError,
    Tensors,
    TensorSpec,
    datatype_of,
    from_bytes,
    to_bytes,
)

if TYPE_CHECKING:
    from gatewright.plugins.ml_model.options import ModelSource

__all__ = ["GrpcModel", "messages"]

_SERVICE: Final = "/inference.GRPCInferenceService/"
_MOST_ANSWER: Final = 64 << 20
_REPEATED: Final = 3
_KINDS: Final = {"double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "message": 11,
                 "bytes": 12, "uint32": 13}  # fmt: skip

_MESSAGES: Final[dict[str, tuple[tuple[int, str, str, bool], ...]]] = {
    "Contents": (
        (1, "bool_contents", "bool", True),
        (2, "int_contents", "int32", True),
        (3, "int64_contents", "int64", True),
        (4, "uint_contents", "uint32", True),
        (5, "uint64_contents", "uint64", True),
        (6, "fp32_contents", "float", True),
        (7, "fp64_contents", "double", True),
        (8, "bytes_contents", "bytes", True),
    ),
    "Tensor": (
        (1, "name", "string", False),
        (2, "datatype", "string", False),
        (3, "shape", "int64", True),
        (5, "contents", "Contents", False),
    ),
    "InferRequest": (
        (1, "model_name", "string", False),
        (2, "model_version", "string", False),
        (5, "inputs", "Tensor", True),
        (7, "raw_input_contents", "bytes", True),
    ),
    "InferResponse": (
        (1, "model_name", "string", False),
        (5, "outputs", "Tensor", True),
        (6, "raw_output_contents", "bytes", True),
    ),
    "MetadataRequest": ((1, "name", "string", False), (2, "version", "string", False)),
    "MetadataResponse": (
        (1, "name", "string", False),
        (4, "inputs", "Tensor", True),
        (5, "outputs", "Tensor", True),
    ),
}
"""The protocol's messages: number, name, type and whether it is repeated, of each field that is used here.

Names of messages aren't sent; a tensor's metadata has the same first fields as a tensor."""

_BY_CONTENTS: Final = {"BOOL": "bool", "INT8": "int", "INT16": "int", "INT32": "int", "INT64": "int64", "UINT8": "uint",
                       "UINT16": "uint", "UINT32": "uint", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64",
                       "BYTES": "bytes"}  # fmt: skip


@cache
def messages() -> SimpleNamespace:
    """The messages' classes."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="gatewright/oip.proto", package="gatewright.oip", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind, repeated in fields:
            described = message.field.add(name=field, number=number, label=_REPEATED if repeated else 1)
            described.type = _KINDS.get(kind, _KINDS["message"])
            if kind in _MESSAGES:
                described.type_name = f".gatewright.oip.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"gatewright.oip.{name}") for name in _MESSAGES}
    return SimpleNamespace(**{name: message_factory.GetMessageClass(each) for name, each in found.items()})


class GrpcModel:
    """A model of a server's, over gRPC."""

    def __init__(self, source: ModelSource) -> None:
        needed("grpc", "oip-grpc")
        needed("google.protobuf", "oip-grpc")
        self.source = source
        self.inputs: Sequence[TensorSpec] = ()
        self.outputs: Sequence[TensorSpec] = ()
        self._channel: Any = None

    async def open(self) -> None:
        """See that the server has the model, and ask what it takes."""
        import grpc

        source, options = self.source, [("grpc.max_receive_message_length", _MOST_ANSWER)]
        scheme, _, address = source.url.rpartition("://")
        if scheme in ("https", "grpcs"):
            root = await asyncio.to_thread(Path(source.ca_file).read_bytes) if source.ca_file else None
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(root), options)
        else:
            self._channel = grpc.insecure_channel(address, options)
        kinds = messages()
        asked = kinds.MetadataRequest(name=source.name, version=source.version)
        try:
            described = await self._ask("ModelMetadata", asked, kinds.MetadataResponse)
        except BaseException:
            await self.close()
            raise
        self.inputs, self.outputs = (
            [spec_of({"name": each.name, "datatype": each.datatype, "shape": list(each.shape)}) for each in tensors]
            for tensors in (described.inputs, described.outputs)
        )

    async def infer(self, tensors: Tensors) -> Tensors:
        """Have the server run the model."""
        kinds = messages()
        asked = kinds.InferRequest(model_name=self.source.name, model_version=self.source.version)
        for name, array in tensors.items():
            asked.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
            asked.raw_input_contents.append(to_bytes(array))
        answer = await self._ask("ModelInfer", asked, kinds.InferResponse)
        try:
            return _read(answer)
        except BadTensorError as error:
            raise PluginError(f"{self.source.url} answered with something else than tensors: {error}") from None

    async def _ask(self, method: str, message: Any, answer: Any) -> Any:
        import grpc

        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        secret = self.source.authorization
        stub = self._channel.unary_unary(
            _SERVICE + method,
            request_serializer=type(message).SerializeToString,
            response_deserializer=answer.FromString,
        )
        call = stub.future(
            message,
            timeout=self.source.timeout,
            metadata=() if secret is None else (("authorization", secret.reveal()),),
        )
        call.add_done_callback(lambda _: loop.call_soon_threadsafe(_pass_on, done))
        try:
            await done
            return call.result()
        except asyncio.CancelledError:
            call.cancel()
            raise
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            why = f"{self.source.url} answered {method} with {code.name}: {str(details)[:500]}"
            clients = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE)
            raise (PluginError if code in clients else ModelDownError)(why) from None

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            self._channel.close()


def _pass_on(done: asyncio.Future[Any]) -> None:
    if not done.done():
        done.set_result(None)


def _read(answer: Any) -> dict[str, Array]:
    raw = answer.raw_output_contents
    if raw and len(raw) != len(answer.outputs):
        raise BadTensorError(f"{len(answer.outputs)} outputs, and the contents of {len(raw)}")
    tensors: dict[str, Array] = {}
    for number, each in enumerate(answer.outputs):
        shape = list(each.shape)
        if raw:
            tensors[each.name] = from_bytes(raw[number], each.datatype, shape, each.name)
            continue
        if each.datatype not in _BY_CONTENTS:
            raise BadTensorError(f"{each.name!r} is {each.datatype!r}, and not in its binary form")
        items = list(getattr(each.contents, f"{_BY_CONTENTS[each.datatype]}_contents"))
        array = np.array([None, *items], dtype=object)[1:] if each.datatype == "BYTES" else np.asarray(items)
        if array.size != np.prod(shape, dtype=np.int64):
            raise BadTensorError(f"{each.name!r}: {array.size} elements don't fill the shape {shape}")
        tensors[each.name] = array.astype(DTYPES[each.datatype]).reshape(shape)
    return tensors
