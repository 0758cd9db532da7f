"""ml-model on routes: answers, annotations and refusals; what doesn't fit, what is too much, what is down."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatewright import ConfigError
from gatewright.plugins.ml_model import MlModel
from gatewright.plugins.ml_model.options import InputField
from gatewright.plugins.ml_model.picking import Picker
from gatewright.plugins.ml_model.tensors import BadTensorError
from gatewright.testing import Request
from tests.plugins.harness import Gateway
from tests.plugins.ml_models import bag_of_words, classifier, perceptron

PLUGINS = ["ml-model"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("models")
    classifier(home / "fraud.onnx")
    bag_of_words(home / "bag.onnx")
    perceptron(home / "net.onnx", [4, 8, 2])
    return home


def onnx(models: Path, name: str) -> dict[str, Any]:
    return {"kind": "onnx", "path": str(models / name), "name": name.removesuffix(".onnx")}


def v2(name: str, datatype: str, shape: list[int], data: list[Any]) -> bytes:
    return json.dumps({"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}).encode()


FRAUD = [
    {"name": "amount", "source": "json", "key": "/order/amount"},
    {"name": "country", "source": "header", "key": "x-country", "default": "here"},
]


def test_the_body_may_be_an_inference_request(gateway: Gateway, models: Path) -> None:
    route = gateway.route(("ml-model", {"model": onnx(models, "net.onnx")}))
    answer = route.request(
        "/v2/models/net/infer", method="POST", body=v2("x", "FP32", [2, 4], [1, 2, 3, 4, 5, 6, 7, 8])
    )
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    (output,) = answer.json["outputs"]
    assert (answer.json["model_name"], output["name"], output["shape"]) == ("net", "y", [2, 2])
    raw = struct.pack("<4f", 1, 2, 3, 4)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    answer = route.request(method="POST", headers=headers, body=head + raw)
    length = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    np.testing.assert_allclose(np.frombuffer(answer.body[length:], "<f4"), output["data"][:2], rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "path", "status", "document"),
    [
        ("GET", "/v2/health/live", 200, {"live": True}),
        ("GET", "/v2/health/ready", 200, {"ready": True}),
        ("GET", "/v2", 200, {"name": "gatewright", "version": "2", "extensions": ["binary_tensor_data"]}),
        ("GET", "/ml/v2/models/net/ready", 200, {"name": "net", "ready": True}),
        (
            "GET",
            "/v2/models/net/versions/1",
            200,
            {
                "name": "net",
                "versions": [],
                "platform": "",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
            },
        ),
        ("GET", "/v2/models/other", 404, {"error": "there is no model 'other' here, but 'net'"}),
        ("POST", "/v2/models/other/infer", 404, {"error": "there is no model 'other' here, but 'net'"}),
        ("POST", "/v2/models/net", 405, {"error": "inferences are asked for at /v2/models/NAME/infer"}),
    ],
)
def test_clients_of_the_protocol_may_ask_about_the_model(
    gateway: Gateway, models: Path, method: str, path: str, status: int, document: Any
) -> None:
    outcome = gateway.route(("ml-model", {"model": onnx(models, "net.onnx")})).request(path, method=method)
    assert (outcome.status, outcome.json) == (status, document)


def test_inputs_come_from_body_and_headers(gateway: Gateway, models: Path) -> None:
    route = gateway.route(("ml-model", {"model": onnx(models, "fraud.onnx"), "inputs": FRAUD, "mode": "annotate"}))
    body = b'{"order": {"amount": 50}}'
    assert route.request(method="POST", body=body).upstream["x-model-score"] == "0.5"
    spoofed = {"x-country": "zz", "X-Model-Score": "0", "x-model-label": "good"}
    outcome = route.request(method="POST", body=body, headers=spoofed)
    assert outcome.upstream["x-model-score"] == "1.5"
    assert outcome.upstream["x-model-label"] is None


@pytest.mark.parametrize(("amount", "status"), [(50, 0), (80, 0), (81, 451), (9000, 451)])
def test_a_guard_refuses_above_its_threshold(gateway: Gateway, models: Path, amount: int, status: int) -> None:
    score = {"threshold": 0.8, "status": 451, "body": "no"}
    config = {"model": onnx(models, "fraud.onnx"), "inputs": FRAUD, "mode": "guard", "score": score}
    outcome = gateway.route(("ml-model", config)).request(method="POST", body=b'{"order":{"amount":%d}}' % amount)
    assert outcome.status == status
    if status:
        assert outcome.body == b"no"
    else:
        assert float(outcome.upstream["x-model-score"] or "") == pytest.approx(amount / 100)


def test_a_score_that_is_no_number_is_refused(gateway: Gateway, models: Path) -> None:
    ids = [{"name": name, "source": "query", "key": name, "shape": [1]} for name in ("ids", "mask")]
    config = {"model": onnx(models, "bag.onnx"), "inputs": ids, "mode": "guard", "score": {"threshold": 1e9}}
    route = gateway.route(("ml-model", config))
    assert route.request(query=[("ids", "7"), ("mask", "1")]).upstream["x-model-score"] == "7"
    assert route.request(query=[("ids", "0"), ("mask", "0")]).status == 403  # 0 / 0


@pytest.mark.parametrize(
    ("datatype", "text", "tensor"),
    [
        ("FP32", "1, 2.5,-3e2", [1, 2.5, -300]),
        ("INT8", "1,-2", [1, -2]),
        ("BOOL", "true,0, False", [True, False, False]),
        ("FP32", "1_0", None),
        ("FP32", "nan", None),
        ("FP32", "1,", None),
        ("INT8", "1.0", None),
        ("INT8", "300", None),
        ("BOOL", "yes", None),
    ],
)
def test_headers_and_arguments_hold_numbers(datatype: str, text: str, tensor: list[Any] | None) -> None:
    picker = Picker([InputField(name="x", source="query", key="x", datatype=datatype)], [])
    if tensor is None:
        with pytest.raises(BadTensorError):
            picker.pick(Request(query={"x": text}), b"")
    else:
        (row,) = picker.pick(Request(query={"x": text}), b"")["x"].tolist()
        assert row == tensor


def test_lengths_are_padded_and_masked(gateway: Gateway, models: Path) -> None:
    ids = {"name": "ids", "source": "json", "key": "/ids", "pad_to": [4, 8]}
    inputs = [ids, {"name": "mask", "source": "mask", "key": "ids"}]
    config = {"model": onnx(models, "bag.onnx"), "inputs": inputs, "mode": "annotate"}
    route = gateway.route(("ml-model", config))
    for values in ([3], [1, 2, 3], [1, 2, 3, 4, 5, 9]):
        outcome = route.request(method="POST", body=json.dumps({"ids": values}).encode())
        assert outcome.upstream["x-model-score"] == f"{sum(values) / len(values):.9g}"
    refused = route.request(method="POST", body=json.dumps({"ids": [1] * 9}).encode())
    assert (refused.status, refused.json["error"]) == (400, "`/ids` of the body has 9 elements, more than 8")


def test_labels_and_raw_bodies(gateway: Gateway, models: Path) -> None:
    inputs = [{"name": "x", "source": "body", "shape": [4]}]
    score = {"index": 1, "header": "x-one", "labels": ["cat", "dog"], "label_header": "x-animal"}
    config = {"model": onnx(models, "net.onnx"), "inputs": inputs, "mode": "annotate", "score": score}
    route = gateway.route(("ml-model", config))
    outcome = route.request(method="POST", body=struct.pack("<4f", 1, 2, 3, 4))
    assert outcome.upstream["x-animal"] in ("cat", "dog")
    float(outcome.upstream["x-one"] or "")
    assert route.request(method="POST", body=b"123").json["error"] == "the body: 3 bytes are no whole number of FP32"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "the body is not valid JSON"),
        (b"{}", "`/order/amount` of the body is missing"),
        (b'{"order": [1]}', "`/order/amount` of the body is missing"),
        (b'{"order": {"amount": "50"}}', "something else among the data"),
        (b'{"order": {"amount": [1, 2]}}', "don't fill the shape [1]"),
        (b'{"order": {"amount": 1e99}}', "can't hold"),
        (b" " * 2000, "more than 1000"),
    ],
)
def test_what_does_not_fit_is_the_clients_fault(gateway: Gateway, models: Path, body: bytes, why: str) -> None:
    config = {"model": onnx(models, "fraud.onnx"), "inputs": FRAUD, "mode": "guard", "max_body": 1000}
    outcome = gateway.route(("ml-model", config)).request(method="POST", body=body)
    assert outcome.status == 400
    assert why in outcome.json["error"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"inputs": []}', "has `inputs`"),
        (v2("z", "FP32", [1, 4], [1, 2, 3, 4]), "no input 'z', but 'x'"),
        (v2("x", "FP64", [1, 4], [1, 2, 3, 4]), "'x' is FP32, not FP64"),
        (v2("x", "FP32", [1, 5], [1, 2, 3, 4, 5]), "has the shape [-1, 4]"),
        (v2("x", "FP32", [0, 4], []), "at least one row"),
    ],
)
def test_inference_requests_that_do_not_fit(gateway: Gateway, models: Path, body: bytes, why: str) -> None:
    outcome = gateway.route(("ml-model", {"model": onnx(models, "net.onnx")})).request(method="POST", body=body)
    assert outcome.status == 400
    assert why in outcome.json["error"]


def test_a_server_that_is_gone(gateway: Gateway) -> None:
    model = {"kind": "oip-http", "url": "http://127.0.0.1:1"}
    outcome = gateway.route(("ml-model", {"model": model})).request(method="POST", body=b"{}")
    assert (outcome.status, outcome.headers["retry-after"]) == (503, "1")
    assert outcome.json == {"error": "the model is not available"}  # its address is nobody's business
    lenient = {"model": model, "mode": "guard", "inputs": FRAUD, "when_unavailable": "pass"}
    assert gateway.route(("ml-model", lenient)).request(method="POST", body=b"{}").status == 0


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({}, "model"),
        ({"model": {"kind": "onnx"}}, "needs its `path`"),
        ({"model": {"kind": "oip-http", "path": "x"}}, "`url`"),
        ({"inputs": [FRAUD[0], FRAUD[0]]}, "twice"),
        ({"inputs": [{"name": "m", "source": "mask", "key": "x"}]}, "isn't there: 'x'"),
        ({"inputs": [{"name": "m", "source": "header"}]}, "`key` doesn't say which"),
        ({"inputs": [{"name": "m", "source": "json", "key": "a"}]}, "begins with '/'"),
        ({"mode": "annoy"}, "annoy"),
        ({"deadline": 0}, "> 0"),
    ],
)
def test_configurations_that_mean_nothing(config: dict[str, Any], why: str) -> None:
    model = {"model": {"kind": "onnx", "path": "m.onnx"}} if config else {}
    with pytest.raises(ConfigError, match=why):
        MlModel({**model, **config})


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ([FRAUD[0]], "'country' comes from nowhere"),
        ([*FRAUD, {"name": "z", "source": "json"}], "no input 'z'"),
        ([FRAUD[0], {**FRAUD[1], "datatype": "FP32"}], "takes 'country' as BYTES"),
        ([FRAUD[0], {**FRAUD[1], "datatype": "TEXT"}], "there is no 'TEXT'"),
    ],
)
async def test_inputs_that_the_model_does_not_have(models: Path, inputs: list[Any], why: str) -> None:
    plugin = MlModel({"model": onnx(models, "fraud.onnx"), "inputs": inputs})
    before = set(MlModel.serving._entries)
    with pytest.raises(ConfigError, match=why):
        await plugin.setup()
    assert set(MlModel.serving._entries) == before


# --- too many, too late, failed: with a model that is let go on


class Slow:
    """A model that answers when it's let."""

    inputs = outputs = ()

    def __init__(self) -> None:
        self.free = asyncio.Event()

    async def open(self) -> None:
        pass

    async def infer(self, tensors: Any) -> Any:
        await self.free.wait()
        return {"y": tensors["x"]}

    async def close(self) -> None:
        pass


class Asked:
    """A request as far as the plugin looks at it."""

    def __init__(self, **query: str) -> None:
        from gatewright import Headers, Query

        self.query = Query(query)
        self.headers = Headers({"x-model-score": "spoofed"})


@pytest.mark.parametrize("policy", ["refuse", "pass"])
async def test_a_full_queue_and_a_deadline(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr("gatewright.plugins.ml_model.serving.make_backend", lambda source: slow)
    plugin = MlModel(
        {
            "model": {"kind": "oip-http", "url": "http://x"},
            "inputs": [{"name": "x", "source": "query", "key": "x", "datatype": "FP32", "shape": [1]}],
            "mode": "annotate",
            "batching": {"max_rows": 1, "max_queue": 1},
            "deadline": 0.2,
            "when_unavailable": policy,
        }
    )
    await plugin.setup()
    requests: list[Any] = [Asked(x="1") for _ in range(3)]
    tasks = [asyncio.create_task(plugin.on_request(request)) for request in requests[:2]]
    await asyncio.sleep(0.01)
    full = await asyncio.wait_for(plugin.on_request(requests[2]), 0.1)
    late = await asyncio.gather(*tasks)
    if policy == "refuse":
        assert full is not None and full.status == 503 and full.headers["retry-after"] == "1"
        assert [answer.status for answer in late if answer] == [504, 504]
    else:
        assert [full, *late] == [None, None, None]
        assert all("x-model-score" not in request.headers for request in requests)
    slow.free.set()
    await asyncio.sleep(0.01)
    assert await plugin.on_request(requests[0]) is None
    assert requests[0].headers["x-model-score"] == "1"
    await plugin.teardown()
