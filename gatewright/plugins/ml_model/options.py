"""What a route says of its model, of what goes in and of what comes of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from gatewright import Secret
from gatewright.plugins._shared.model import field

__all__ = ["Batching", "InputField", "MlModelConfig", "ModelSource", "Score"]

_LOCAL = ("onnx", "torch", "tensorflow")


class ModelSource(msgspec.Struct, frozen=True, kw_only=True):
    """Which model, and how it is run. Routes that say the same share one model in each process."""

    kind: Annotated[
        Literal["onnx", "torch", "tensorflow", "oip-http", "oip-grpc"],
        field(
            "`onnx` (ONNX Runtime), `torch` (a program of torch.export, or TorchScript) and `tensorflow` (a SavedModel)"
            " run in the runner; `oip-http` and `oip-grpc` ask a server that speaks the Open Inference Protocol v2."
        ),
    ]
    path: Annotated[str, field("Of a local model: its file, or a SavedModel's directory.")] = ""
    url: Annotated[
        str, field("Of a server: `http://host:8000`, `https://...`; for gRPC `grpc://host:8001` or `grpcs://...`.")
    ] = ""
    name: Annotated[str, field("What a server calls the model; in answers, what clients are told.")] = "model"
    version: Annotated[str, field("Which version of it; empty: the server's choice.")] = ""
    signature: Annotated[str, field("Of a SavedModel: the signature to call.")] = "serving_default"
    threads: Annotated[
        int, field("Of a local model: cores for one run; 0: as many as there are.", unit="threads", ge=0, le=256)
    ] = 1
    concurrency: Annotated[int, field("How many batches may be under way at once.", unit="batches", ge=1, le=256)] = 1
    providers: Annotated[
        tuple[str, ...], field("Of ONNX Runtime: execution providers, the preferred one first.", min_length=1)
    ] = ("CPUExecutionProvider",)
    timeout: Annotated[float, field("Of a server: how long one answer may take.", unit="seconds", gt=0, le=600)] = 10.0
    binary: Annotated[bool, field("Of a server over HTTP: send tensors in binary form, if it takes that.")] = False
    authorization: Annotated[Secret | None, field("Of a server: the `Authorization` to send, `Bearer ...` say.")] = None
    ca_file: Annotated[str, field("Of a server: certificates to trust instead of the system's, in a PEM file.")] = ""

    def __post_init__(self) -> None:
        if self.kind in _LOCAL and not self.path:
            raise ValueError(f"a model of kind {self.kind} needs its `path`")
        if self.kind not in _LOCAL and "://" not in self.url:
            raise ValueError(f"a model of kind {self.kind} needs its server's `url`, http://host:8000 say")


class Batching(msgspec.Struct, frozen=True, kw_only=True):
    """How requests are put together."""

    max_rows: Annotated[int, field("Rows of a batch at most; 1: no batching.", unit="rows", ge=1, le=65536)] = 32
    max_wait: Annotated[
        float, field("How long a request waits for others while the model is idle.", unit="seconds", ge=0, le=10)
    ] = 0.002
    max_queue: Annotated[
        int, field("Requests that may wait for the model; more are refused at once.", unit="requests", ge=1, le=100_000)
    ] = 256
    warm_up: Annotated[
        int, field("Runs with made-up data before the first request, with one row and with a full batch.", ge=0, le=100)
    ] = 1


class InputField(msgspec.Struct, frozen=True, kw_only=True):
    """Where one of the model's inputs comes from. A request makes one row of it."""

    name: Annotated[str, field("The input's name in the model.", min_length=1)]
    source: Annotated[
        Literal["json", "body", "header", "query", "mask"],
        field(
            "`json`: a place in the JSON body; `body`: the body's bytes, as they are; `header`; `query`: an argument; "
            "`mask`: 1 where the input named in `key` has data, 0 where it is padded."
        ),
    ]
    key: Annotated[
        str, field("A JSON pointer (`/features`), a header's or an argument's name; for `mask` an input's name.")
    ] = ""
    datatype: Annotated[
        str, field("The tensor's type, `FP32` for instance; empty: the model's own, where it tells.")
    ] = ""
    shape: Annotated[
        tuple[int, ...] | None,
        field("The shape of one row, without the batch's dimension; none: the model's own, or as the data is nested."),
    ] = None
    default: Annotated[Any, field("The value for requests without one; if not given, they get 400.")] = None
    pad_to: Annotated[
        tuple[int, ...],
        field("Lengths to fill the row's first dimension up to (the next one), so that lengths can share batches."),
    ] = ()
    pad_value: Annotated[float, field("What it is filled up with.")] = 0.0


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Which number of the model's answer counts, and what follows from it. For `annotate` and `guard`."""

    output: Annotated[str, field("The output's name; empty: the model's first.")] = ""
    index: Annotated[int, field("Which element of the output's row; -1: the last one.", ge=-1)] = -1
    header: Annotated[str, field("The header in which the upstream gets the number.", min_length=1)] = "x-model-score"
    labels: Annotated[tuple[str, ...], field("Names of the row's elements, to send that of the largest one, too.")] = ()
    label_header: Annotated[str, field("The header for that name.", min_length=1)] = "x-model-label"
    threshold: Annotated[float, field("For `guard`: a score above it is refused, and one that is no number.")] = 0.5
    status: Annotated[int, field("For `guard`: status of a refusal.", ge=400, le=599)] = 403
    body: Annotated[str, field("For `guard`: body of a refusal, as text.")] = "This request is not accepted.\n"


class MlModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A model on a route."""

    model: Annotated[ModelSource, field("The model and how it is run.")]
    mode: Annotated[
        Literal["answer", "annotate", "guard"],
        field(
            "`answer`: the client gets the model's outputs; `annotate`: the upstream gets a score in a header; `guard`:"
            " as `annotate`, and a score above the threshold is refused."
        ),
    ] = "answer"
    inputs: Annotated[
        tuple[InputField, ...],
        field("Where inputs come from; none: the body is an inference request of the Open Inference Protocol."),
    ] = ()
    score: Annotated[Score, field("What is read from the answer, for `annotate` and `guard`.")] = Score()
    batching: Annotated[Batching, field("How requests are put together.")] = Batching()
    deadline: Annotated[
        float, field("How long a request may take here, waiting included.", unit="seconds", gt=0, le=600)
    ] = 5.0
    max_body: Annotated[int, field("Bytes that a request's body may have.", unit="bytes", ge=1, le=64 << 20)] = 4 << 20
    when_unavailable: Annotated[
        Literal["refuse", "pass"],
        field(
            "A full queue, a deadline or a failed model, for `annotate` and `guard`: `refuse` the request with 503 or "
            "504, or let it `pass` without a score."
        ),
    ] = "refuse"

    def __post_init__(self) -> None:
        names = [each.name for each in self.inputs]
        for each in self.inputs:
            if names.count(each.name) > 1:
                raise ValueError(f"the input {each.name!r} is there twice")
            if each.source == "mask" and each.key not in names:
                raise ValueError(f"the mask {each.name!r} is for an input that isn't there: {each.key!r}")
            if each.source in ("header", "query") and not each.key:
                raise ValueError(f"the input {each.name!r} comes from a {each.source}, but `key` doesn't say which")
            if each.source == "json" and each.key and not each.key.startswith("/"):
                raise ValueError(f"the input {each.name!r} has a `key` that is no JSON pointer: it begins with '/'")
