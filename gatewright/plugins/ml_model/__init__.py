"""**ml-model**: a model looks at requests: it answers the client, annotates the request with a score, or refuses it.

Models run in the runner (ONNX Runtime, PyTorch, TensorFlow) or on a server (Open Inference Protocol). Requests that are
there at the same time go through the model together.
"""

from __future__ import annotations

import math
from typing import ClassVar

from gatewright import NotAvailableError, Plugin, PluginError, Request, Response
from gatewright.plugins._shared.breaker import CircuitBreaker
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.extras import extra
from gatewright.plugins.ml_model.options import MlModelConfig

with extra("onnx", plugin="ml-model"):
    import numpy as np

from gatewright.plugins.ml_model.batching import ModelDownError, QueueFullError
from gatewright.plugins.ml_model.endpoints import answer_to
from gatewright.plugins.ml_model.oip_messages import HEADER_LENGTH, InferenceRequest, read_request, write_response
from gatewright.plugins.ml_model.picking import Picker
from gatewright.plugins.ml_model.serving import Served, Serving
from gatewright.plugins.ml_model.tensors import Array, BadTensorError, Tensors

__all__ = ["MlModel"]


class MlModel(Plugin[MlModelConfig]):
    """Runs a model on requests."""

    name = "ml-model"
    version = "1.0.0"
    priority = 500
    Config = MlModelConfig

    serving: ClassVar[Serving] = Serving()
    """The models of this process, shared by all instances."""

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        self._requests = counter("ml_model_requests", "Requests, by what came of them.", ["model", "result"])
        self._rows = counter("ml_model_batch_rows", "Rows that went through a model.", ["model"])
        self._batches = counter("ml_model_batches", "Runs of a model.", ["model"])
        self._key: object = None
        self._served: Served | None = None
        self._breaker = CircuitBreaker()
        self._picker: Picker | None = None

    async def setup(self) -> None:
        """Open the model, or join those who have it open. A server that is down is asked again by requests."""
        try:
            await self._open()
        except ModelDownError as error:
            self._breaker.failed()
            self.log.error("the model can't be asked yet: %s", error)

    async def _open(self) -> Served:
        key, served = await self.serving.use(self.config.model, self.config.batching, self._count_batch)
        try:
            self._picker = Picker(self.config.inputs, served.inputs) if self.config.inputs else None
        except BaseException:
            await self.serving.leave(key)
            raise
        if self._served is not None:  # somebody else opened it meanwhile
            await self.serving.leave(key)
            return self._served
        self._key, self._served = key, served
        return served

    async def teardown(self) -> None:
        """Leave the model to others."""
        if self._served is not None:
            self._served = None
            await self.serving.leave(self._key)

    def _count_batch(self, rows: int, requests: int) -> None:
        self._batches.add(self.config.model.name)
        self._rows.add(self.config.model.name, amount=rows)

    async def on_request(self, request: Request) -> Response | None:
        """Ask the model."""
        own = self.config
        asked: InferenceRequest | None = None
        try:
            if not self._breaker.allows():
                raise ModelDownError("it failed before, and is left alone for a while")
            served = self._served or await self._open()
            if self._picker is None:
                about = self._about(request, served)
                if about is not None:
                    return about
                asked = read_request(await self._body(request), request.headers.get(HEADER_LENGTH))
                tensors = self._checked(asked.tensors, served)
            else:
                tensors = self._picker.pick(request, await self._body(request) if self._picker.needs_body else b"")
            outputs = await served.batcher.infer(tensors, own.deadline)
            self._breaker.succeeded()
            if own.mode == "answer":
                content, headers = write_response(own.model.name, outputs, asked)
                self._requests.add(own.model.name, "answered")
                return Response(200, headers, content)
            return self._scored(request, outputs)
        except BadTensorError as error:
            return self._refusal(400, str(error), "bad request")
        except QueueFullError:
            return self._unavailable(request, 503, "the model is busy", "queue full")
        except TimeoutError:
            return self._unavailable(request, 504, "the model took too long", "deadline")
        except ModelDownError as error:
            self._breaker.failed()
            self.log.error("the model can't be asked: %s", error)
            return self._unavailable(request, 503, "the model is not available", "down")
        except PluginError as error:
            if own.mode != "answer" and own.when_unavailable == "pass":
                self.log.error("the model failed: %s", error)
            else:
                self._requests.add(own.model.name, "failed")
                raise
            return self._unavailable(request, 503, "the model failed", "failed")

    def _about(self, request: Request, served: Served) -> Response | None:
        own = self.config
        if own.mode != "answer":
            return None
        return answer_to(request.method, request.path, own.model.name, served.inputs, served.outputs)

    async def _body(self, request: Request) -> bytes:
        try:
            body = await request.body()
        except NotAvailableError as error:
            raise BadTensorError(str(error)) from None
        if len(body) > self.config.max_body:
            raise BadTensorError(f"the body has {len(body)} bytes, more than {self.config.max_body}")
        return body

    def _checked(self, tensors: Tensors, served: Served) -> Tensors:
        """Tensors as clients sent them, seen to be what the model takes."""
        known = {spec.name: spec for spec in served.inputs}
        if not tensors or any(array.ndim == 0 or not array.shape[0] for array in tensors.values()):
            raise BadTensorError("a request has `inputs`, and each of them at least one row")
        if len({array.shape[0] for array in tensors.values()}) > 1:
            raise BadTensorError("all inputs have as many rows: their first dimension")
        for name, array in tensors.items():
            if known and name not in known:
                raise BadTensorError(f"the model has no input {name!r}, but {', '.join(map(repr, known))}")
            if known:
                known[name].check(array)
        missing = [name for name in known if name not in tensors]
        if missing:
            raise BadTensorError(f"the model's input {missing[0]!r} is missing")
        return tensors

    def _scored(self, request: Request, outputs: Tensors) -> Response | None:
        own = self.config.score
        name = own.output or next(iter(outputs))
        if name not in outputs:
            raise PluginError(f"the model has no output {name!r}, but {', '.join(map(repr, outputs))}")
        rows = outputs[name].reshape(outputs[name].shape[0], -1)
        if own.index >= rows.shape[1] or not rows.shape[1]:
            raise PluginError(f"{name!r} has {rows.shape[1]} elements a row: there is no `index` {own.index}")
        score = _worst(rows[:, own.index])
        request.headers[own.header] = f"{score:.9g}"
        if own.labels:
            best = int(np.argmax(rows[0]))
            request.headers[own.label_header] = own.labels[best] if best < len(own.labels) else str(best)
        else:
            request.headers.discard(own.label_header)
        # In the model's own precision: 0.8 as it says it is more than the 0.8 that was configured.
        threshold = float(rows.dtype.type(own.threshold)) if rows.dtype.kind == "f" else own.threshold
        if self.config.mode == "guard" and not score <= threshold:
            self._requests.add(self.config.model.name, "refused")
            return Response(own.status, body=own.body)
        self._requests.add(self.config.model.name, "passed")
        return None

    def _unavailable(self, request: Request, status: int, why: str, result: str) -> Response | None:
        if self.config.mode == "answer" or self.config.when_unavailable == "refuse":
            return self._refusal(status, why, result)
        self._requests.add(self.config.model.name, f"{result}, passed")
        self.log.warning("passed without a score: %s", why)
        # What a client puts there itself must not be taken for the model's.
        request.headers.discard(self.config.score.header)
        request.headers.discard(self.config.score.label_header)
        return None

    def _refusal(self, status: int, why: str, result: str) -> Response:
        self._requests.add(self.config.model.name, result)
        headers = {"retry-after": "1"} if status == 503 else {}
        return Response.json({"error": why}, status, headers)


def _worst(scores: Array) -> float:
    """The highest score of a request's rows; none at all, if one is no number."""
    numbers = [float(score) for score in scores.tolist()]
    return math.nan if any(math.isnan(number) for number in numbers) else max(numbers)
