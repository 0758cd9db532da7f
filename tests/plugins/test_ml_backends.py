"""Models run as their own frameworks run them: ONNX Runtime, PyTorch, TensorFlow."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatewright import ConfigError, PluginError
from gatewright.plugins.ml_model.batching import Batcher
from gatewright.plugins.ml_model.choice import make_backend
from gatewright.plugins.ml_model.options import Batching, ModelSource
from gatewright.plugins.ml_model.serving import Serving
from gatewright.plugins.ml_model.tensors import TensorSpec
from tests.plugins.ml_models import classifier, perceptron, weights


def ignore(rows: int, requests: int) -> None:
    pass


async def test_onnx_gives_what_onnx_runtime_gives(tmp_path: Path) -> None:
    import onnxruntime

    path = perceptron(tmp_path / "m.onnx", [16, 32, 4])
    serving = Serving()
    key, served = await serving.use(ModelSource(kind="onnx", path=str(path)), Batching(max_rows=8), ignore)
    assert served.inputs == [TensorSpec("x", "FP32", (-1, 16))]
    assert served.outputs == [TensorSpec("y", "FP32", (-1, 4))]
    x = weights(20, 16)
    answers = await asyncio.gather(*(served.batcher.infer({"x": x[n : n + 1]}, 5) for n in range(20)))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in ([0], range(1, 9), range(9, 17), range(17, 20)):  # those that went together
        (alone,) = session.run(None, {"x": x[list(batch)]})
        np.testing.assert_allclose(np.concatenate([answers[n]["y"] for n in batch]), alone, rtol=1e-5, atol=1e-6)
    await serving.leave(key)


async def test_texts_and_models_of_one_batch_size(tmp_path: Path) -> None:
    serving = Serving()
    source = ModelSource(kind="onnx", path=str(classifier(tmp_path / "c.onnx")))
    key, served = await serving.use(source, Batching(), ignore)
    assert [spec.datatype for spec in served.inputs] == ["FP32", "BYTES"]
    tensors = {"amount": np.array([[50.0]], "f4"), "country": np.array([[b"zz"]], dtype=object)}
    assert (await served.batcher.infer(tensors, 5))["score"].tolist() == [[1.5]]
    await serving.leave(key)
    source = ModelSource(kind="onnx", path=str(perceptron(tmp_path / "m.onnx", [4, 2], rows=3)))
    key, served = await serving.use(source, Batching(), ignore)
    x = weights(5, 4)
    answer = await served.batcher.infer({"x": x}, 5)
    np.testing.assert_allclose(answer["y"], x @ weights(4, 2, seed=0), rtol=1e-5)
    await serving.leave(key)


async def test_routes_share_a_model_until_its_file_is_another_one(tmp_path: Path) -> None:
    path = perceptron(tmp_path / "m.onnx", [4, 2])
    serving, source = Serving(), ModelSource(kind="onnx", path=str(path))
    uses = await asyncio.gather(*(serving.use(source, Batching(), ignore) for _ in range(5)))
    assert len({id(served) for _, served in uses}) == 1
    path.unlink()
    perceptron(path, [4, 3])
    key, other = await serving.use(source, Batching(), ignore)
    assert other is not uses[0][1]
    assert other.outputs[0].shape == (-1, 3)
    await serving.leave(key)
    for key, _ in uses[:4]:
        await serving.leave(key)
    assert (await uses[0][1].batcher.infer({"x": weights(1, 4)}, 5))["y"].shape == (1, 2)
    await serving.leave(uses[4][0])
    with pytest.raises(PluginError, match="no longer in use"):
        await uses[0][1].batcher.infer({"x": weights(1, 4)}, 5)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"kind": "onnx", "path": "{}/none.onnx"}, "can't be read"),
        ({"kind": "onnx", "path": "{}/bad.onnx"}, "ONNX Runtime can't load"),
        ({"kind": "onnx", "path": "{}/m.onnx", "providers": ("NoSuchProvider",)}, "has no 'NoSuchProvider'"),
        ({"kind": "oip-http", "url": "http://127.0.0.1:1"}, "can't be asked"),
        ({"kind": "oip-grpc", "url": "grpc://127.0.0.1:1", "timeout": 0.5}, "UNAVAILABLE|DEADLINE"),
    ],
)
async def test_models_that_are_not_there(source: dict[str, Any], why: str, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    perceptron(tmp_path / "m.onnx", [2, 2])
    given = {name: value.format(tmp_path) if name == "path" else value for name, value in source.items()}
    serving = Serving()
    with pytest.raises((ConfigError, PluginError), match=why):
        await serving.use(ModelSource(**given), Batching(), ignore)
    assert not serving._entries


def test_a_framework_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatewright.plugins.ml_model.backends.find_spec", lambda name: None)
    for kind, extra in (("onnx", "onnx"), ("torch", "torch"), ("tensorflow", "tensorflow"), ("oip-grpc", "oip-grpc")):
        with pytest.raises(ConfigError, match=rf"pip install 'gatewright\[{extra}\]'"):
            make_backend(ModelSource(kind=kind, path="x", url="http://x"))  # type: ignore[arg-type]


async def test_a_failing_model_says_why(tmp_path: Path) -> None:
    backend = make_backend(ModelSource(kind="onnx", path=str(perceptron(tmp_path / "m.onnx", [2, 2]))))
    await backend.open()
    with pytest.raises(PluginError, match="ONNX Runtime"):
        await backend.infer({"x": np.zeros((1, 3), "f4")})
    await backend.close()


# --- the large frameworks


def made_by(package: str, script: str, path: Path) -> None:
    """Make a model in a process of its own: two frameworks in one process seldom bear each other."""
    pytest.importorskip(package, reason=f"{package} is not installed here: its models can't be tried")
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(path)], check=True, timeout=100)


TORCH = """
import sys, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    def forward(self, x, scale):
        return {"y": self.layers(x) * scale, "n": scale.to(torch.int64)}
net, example = Net().eval(), (torch.ones(2, 8), torch.ones(2, 1))
rows = torch.export.Dim("rows")
program = torch.export.export(net, example, dynamic_shapes={"x": {0: rows}, "scale": {0: rows}})
torch.export.save(program, sys.argv[1] + ".pt2")
torch.jit.trace(net, example, strict=False).save(sys.argv[1] + ".pt")
x = torch.arange(24, dtype=torch.float32).reshape(3, 8) / 10
torch.save(net(x, torch.full((3, 1), 2.0))["y"].detach(), sys.argv[1] + ".expected")
"""


@pytest.mark.long
@pytest.mark.parametrize("form", ["pt2", "pt"])
async def test_pytorch_gives_what_pytorch_gives(form: str, tmp_path: Path) -> None:
    made_by("torch", TORCH, tmp_path / "m")
    import torch

    serving = Serving()
    source = ModelSource(kind="torch", path=str(tmp_path / f"m.{form}"))
    key, served = await serving.use(source, Batching(max_wait=0.05), ignore)
    if form == "pt2":
        assert served.inputs == [TensorSpec("x", "FP32", (-1, 8)), TensorSpec("scale", "FP32", (-1, 1))]
    x = (np.arange(24, dtype="f4") / 10).reshape(3, 8)
    scale = np.full((1, 1), 2, "f4")
    answers = await asyncio.gather(*(served.batcher.infer({"scale": scale, "x": x[n : n + 1]}, 20) for n in range(3)))
    expected = torch.load(tmp_path / "m.expected").numpy()
    np.testing.assert_allclose(np.concatenate([answer["y"] for answer in answers]), expected, rtol=1e-5, atol=1e-6)
    assert answers[0]["n"].tolist() == [[2]]
    with pytest.raises(PluginError, match="'scale' isn't there"):
        await served.backend.infer({"x": x})
    with pytest.raises(PluginError, match="PyTorch"):
        await served.backend.infer({"x": x[:, :3], "scale": scale})
    await serving.leave(key)


@pytest.mark.long
async def test_what_pytorch_cannot_load(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed here: its models can't be tried")
    (tmp_path / "m.pt2").write_bytes(b"PK no zip")
    with pytest.raises(ConfigError, match="no model of PyTorch"):
        await make_backend(ModelSource(kind="torch", path=str(tmp_path / "m.pt2"))).open()


TENSORFLOW = """
import sys, numpy, tensorflow as tf
class Net(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(tf.random.stateless_normal((8, 3), seed=(1, 2)))
    @tf.function(input_signature=[tf.TensorSpec((None, 8), tf.float32, "x"), tf.TensorSpec((None, 1), tf.string, "s")])
    def __call__(self, x, s):
        return {"y": tf.nn.softmax(x @ self.w), "t": tf.strings.upper(s)}
net = Net()
tf.saved_model.save(net, sys.argv[1], signatures=net.__call__)
x = numpy.arange(24, dtype="f4").reshape(3, 8) / 10
numpy.save(sys.argv[1] + ".npy", net(x, [["a"]] * 3)["y"].numpy())
"""


@pytest.mark.long
async def test_tensorflow_gives_what_tensorflow_gives(tmp_path: Path) -> None:
    made_by("tensorflow", TENSORFLOW, tmp_path / "m")
    serving = Serving()
    source = ModelSource(kind="tensorflow", path=str(tmp_path / "m"))
    key, served = await serving.use(source, Batching(max_wait=0.05), ignore)
    assert {(spec.name, spec.datatype, spec.shape) for spec in served.inputs} == {
        ("x", "FP32", (-1, 8)),
        ("s", "BYTES", (-1, 1)),
    }
    x = (np.arange(24, dtype="f4") / 10).reshape(3, 8)
    text = np.array([[b"abc"]], dtype=object)
    answers = await asyncio.gather(*(served.batcher.infer({"s": text, "x": x[n : n + 1]}, 20) for n in range(3)))
    expected = np.load(tmp_path / "m.npy")
    np.testing.assert_allclose(np.concatenate([answer["y"] for answer in answers]), expected, rtol=1e-5, atol=1e-6)
    assert answers[0]["t"].tolist() == [[b"ABC"]]
    with pytest.raises(PluginError, match="TensorFlow"):
        await served.backend.infer({"x": x[:, :3], "s": text})
    await serving.leave(key)
    wrong = ModelSource(kind="tensorflow", path=str(tmp_path / "m"), signature="other")
    with pytest.raises(ConfigError, match="no signature 'other'; there are: serving_default"):
        await make_backend(wrong).open()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="can't load"):
        await make_backend(ModelSource(kind="tensorflow", path=str(tmp_path / "empty"))).open()


# --- what batching is for


@pytest.mark.alone
@pytest.mark.long
async def test_batches_are_four_times_as_fast_as_one_by_one(tmp_path: Path) -> None:
    """64 requests in flight, each of one row, through the same model: twice a megabyte of weights for each run."""
    source = ModelSource(kind="onnx", path=str(perceptron(tmp_path / "m.onnx", [256, 1024, 1024, 256, 8])))
    backend = make_backend(source)
    await backend.open()
    x = weights(64, 256)

    async def seconds(max_rows: int) -> float:
        queue = Batcher(backend.infer, max_rows=max_rows, max_wait=0.002, max_queue=1000)
        loop = asyncio.get_running_loop()
        left = 1280

        async def client(number: int) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await queue.infer({"x": x[number : number + 1]}, 30)

        began = loop.time()
        await asyncio.gather(*(client(number) for number in range(64)))
        return loop.time() - began

    await seconds(64)
    together, alone = [min([await seconds(rows) for _ in range(3)]) for rows in (64, 1)]
    assert alone / together >= 4, f"{1280 / together:.0f} a second together, {1280 / alone:.0f} one by one"
    await backend.close()
