"""TensorFlow's SavedModels, by one of their signatures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from gatewright import ConfigError, PluginError
from gatewright.plugins.ml_model.backends import LocalBackend, needed
from gatewright.plugins.ml_model.tensors import DTYPES, Tensors, TensorSpec

if TYPE_CHECKING:
    from gatewright.plugins.ml_model.options import ModelSource

__all__ = ["SavedModel"]


class SavedModel(LocalBackend):
    """A SavedModel in TensorFlow."""

    def __init__(self, source: ModelSource) -> None:
        needed("tensorflow", "tensorflow")
        super().__init__(source)
        self._loaded: Any = None
        self._signature: Any = None

    def load(self) -> None:
        """Load it; the signature holds it only weakly, so it's kept, too."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when it's imported
        import tensorflow

        if self.source.threads:
            try:
                tensorflow.config.threading.set_intra_op_parallelism_threads(self.source.threads)
            except RuntimeError as error:
                raise ConfigError(f"all of TensorFlow's models of a process share `threads`: {error}") from None
        try:
            self._loaded = tensorflow.saved_model.load(self.source.path)
        except Exception as error:
            raise ConfigError(f"TensorFlow can't load {self.source.path}: {type(error).__name__}: {error}") from None
        signatures = self._loaded.signatures
        if self.source.signature not in signatures:
            known = ", ".join(signatures) or "none"
            raise ConfigError(f"{self.source.path} has no signature {self.source.signature!r}; there are: {known}")
        self._signature = signatures[self.source.signature]
        self.inputs = [_spec(name, each) for name, each in self._signature.structured_input_signature[1].items()]
        self.outputs = [_spec(name, each) for name, each in self._signature.structured_outputs.items()]

    def run(self, tensors: Tensors) -> Tensors:
        """Call the signature."""
        import tensorflow

        try:
            results = self._signature(**{name: tensorflow.constant(array) for name, array in tensors.items()})
        except Exception as error:  # its errors share no base with those of its argument checks
            raise PluginError(f"TensorFlow: {error}") from None
        return {name: np.asarray(result.numpy()) for name, result in results.items()}


def _spec(name: str, spec: Any) -> TensorSpec:
    kind = "BYTES" if spec.dtype.name == "string" else None
    for datatype, dtype in DTYPES.items():
        if datatype != "BYTES" and dtype == np.dtype(spec.dtype.as_numpy_dtype):
            kind = datatype
    if kind is None:
        raise ConfigError(f"{name!r} is {spec.dtype.name}, for which the protocol has no data type")
    shape = () if spec.shape.rank is None else tuple(-1 if size is None else size for size in spec.shape)
    return TensorSpec(name, kind, shape)
