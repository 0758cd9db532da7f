"""Models in ONNX's format, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gatewright import ConfigError, PluginError
from gatewright.plugins.ml_model.backends import LocalBackend, needed
from gatewright.plugins.ml_model.tensors import Array, Tensors, TensorSpec

if TYPE_CHECKING:
    from gatewright.plugins.ml_model.options import ModelSource

__all__ = ["OnnxModel"]

_DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
    **{f"tensor(int{bits})": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"tensor(uint{bits})": f"UINT{bits}" for bits in (8, 16, 32, 64)},
}


class OnnxModel(LocalBackend):
    """A model in ONNX Runtime."""

    def __init__(self, source: ModelSource) -> None:
        needed("onnxruntime", "onnx")
        super().__init__(source)
        self._session: Any = None

    def load(self) -> None:
        """Make the session."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.source.threads
        options.inter_op_num_threads = 1
        # Threads that spin while they wait would take the gateway's own cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        present = onnxruntime.get_available_providers()
        missing = [name for name in self.source.providers if name not in present]
        if missing:
            raise ConfigError(f"ONNX Runtime has no {missing[0]!r} here, but {', '.join(present)}")
        try:
            self._session = onnxruntime.InferenceSession(self.source.path, options, providers=self.source.providers)
        except Exception as error:  # its own exceptions have no base of their own
            raise ConfigError(f"ONNX Runtime can't load {self.source.path}: {error}") from None
        self.inputs = _specs(self._session.get_inputs())
        self.outputs = _specs(self._session.get_outputs())

    def run(self, tensors: Tensors) -> Tensors:
        """Run the session; it may be run by several threads at once."""
        feeds = {name: _as_text(array) for name, array in tensors.items()}
        try:
            results = self._session.run(None, feeds)
        except Exception as error:
            raise PluginError(f"ONNX Runtime: {error}") from None
        return {spec.name: np.asarray(array) for spec, array in zip(self.outputs, results, strict=True)}


def _as_text(array: Array) -> Array:
    if array.dtype != object:
        return array
    texts = [each.decode("utf-8", "surrogateescape") if isinstance(each, bytes) else each for each in array.flat]
    return np.array(texts, dtype=object).reshape(array.shape)


def _specs(nodes: Sequence[Any]) -> list[TensorSpec]:
    specs = []
    for node in nodes:
        if node.type not in _DATATYPES:
            raise ConfigError(f"{node.name!r} is a {node.type}, for which the protocol has no data type")
        shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
        specs.append(TensorSpec(node.name, _DATATYPES[node.type], shape))
    return specs
