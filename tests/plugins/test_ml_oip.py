"""Models on servers: the Open Inference Protocol over HTTP and gRPC."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatewright import PluginError
from gatewright.plugins.ml_model.batching import ModelDownError
from gatewright.plugins.ml_model.choice import make_backend
from gatewright.plugins.ml_model.options import Batching, ModelSource
from gatewright.plugins.ml_model.serving import Serving
from gatewright.plugins.ml_model.tensors import TensorSpec

X = np.arange(12, dtype="f4").reshape(3, 4)


@dataclass
class Ports:
    http: int
    grpc: int


@pytest.fixture(scope="module")
def server() -> Iterator[Ports]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.plugins.oip_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Ports(*map(int, process.stdout.readline().split()))
        process.kill()


def source_of(server: Ports, way: str, **more: Any) -> ModelSource:
    kind = "oip-grpc" if way.startswith("grpc") else "oip-http"
    url = f"grpc://127.0.0.1:{server.grpc}" if kind == "oip-grpc" else f"http://127.0.0.1:{server.http}/"
    given: dict[str, Any] = {"kind": kind, "url": url, "name": "double", "binary": way == "http, binary", "timeout": 20}
    if way == "grpc, raw":
        given["version"] = "raw"
    return ModelSource(**{**given, **more})


@pytest.mark.parametrize("way", ["http", "http, binary", "grpc", "grpc, raw"])
async def test_a_server_is_asked_and_its_answer_is_read(server: Ports, way: str) -> None:
    serving = Serving()
    batches: list[tuple[int, int]] = []
    key, served = await serving.use(
        source_of(server, way), Batching(max_wait=0.01), lambda rows, requests: batches.append((rows, requests))
    )
    assert served.inputs == [TensorSpec("x", "FP32", (-1, 4))]
    assert [spec.name for spec in served.outputs] == ["y", "s"]
    answer = await served.batcher.infer({"x": X}, 20)
    np.testing.assert_array_equal(answer["y"], X * 2)
    assert answer["s"].tolist() == [[b"6"], [b"22"], [b"38"]]
    assert batches == [(3, 1)]
    with pytest.raises(PluginError, match="thirteen"):
        await served.batcher.infer({"x": np.full((1, 4), 13, "f4")}, 20)
    await serving.leave(key)


@pytest.mark.parametrize("way", ["http", "grpc"])
async def test_a_model_that_a_server_does_not_have(server: Ports, way: str) -> None:
    with pytest.raises(PluginError, match="no such model"):
        await make_backend(source_of(server, way, name="other")).open()


async def test_a_server_that_refuses_or_is_gone_is_down(server: Ports) -> None:
    from gatewright import Secret

    backend = make_backend(source_of(server, "http", authorization=Secret("Bearer wrong"), version="1"))
    await backend.open()
    with pytest.raises(ModelDownError, match="401: who"):
        await backend.infer({"x": X})
    await backend.close()
    with pytest.raises(ModelDownError):
        await make_backend(ModelSource(kind="oip-http", url="http://127.0.0.1:1")).open()


# --- a real server


RUNTIME = """
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec
class Double(MLModel):
    async def load(self):
        return True
    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        return types.InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", x * 2)])
"""


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    command = shutil.which(os.environ.get("GATEWRIGHT_MLSERVER") or "mlserver")
    if command is None:
        pytest.skip("MLServer is not installed here: GATEWRIGHT_MLSERVER may name its command")
    home = tmp_path_factory.mktemp("mlserver")
    free = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    http, grpc, metrics = (each.getsockname()[1] for each in free)
    for each in free:
        each.close()
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
    }
    model = {
        "name": "double",
        "implementation": "runtime.Double",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
    }
    (home / "settings.json").write_text(json.dumps(settings))
    (home / "model-settings.json").write_text(json.dumps(model))
    (home / "runtime.py").write_text(RUNTIME)
    log = home / "log"
    with log.open("w") as out, subprocess.Popen([command, "start", "."], cwd=home, stdout=out, stderr=out) as process:
        try:
            wait_for(f"http://127.0.0.1:{http}/v2/models/double/ready", process, log)
            yield Ports(http, grpc)
        finally:
            process.kill()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


@pytest.mark.long
@pytest.mark.parametrize("way", ["http", "grpc"])
async def test_mlserver(mlserver: Ports, way: str) -> None:
    serving = Serving()
    key, served = await serving.use(source_of(mlserver, way), Batching(), lambda rows, requests: None)
    assert served.inputs == [TensorSpec("x", "FP32", (-1, 4))]
    answer = await served.batcher.infer({"x": X}, 20)
    np.testing.assert_array_equal(answer["y"], X * 2)
    await serving.leave(key)
