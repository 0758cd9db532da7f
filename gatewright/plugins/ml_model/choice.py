"""Which backend runs a model. Each imports what it needs only when it is opened."""

from __future__ import annotations

from gatewright.plugins.ml_model.backends import Backend
from gatewright.plugins.ml_model.options import ModelSource

__all__ = ["make_backend"]


def make_backend(source: ModelSource) -> Backend:
    """The backend for a model, not yet open.

    Raises:
        ConfigError: what it needs is not installed.
    """
    kind = source.kind
    if kind == "onnx":
        from gatewright.plugins.ml_model.onnx import OnnxModel

        return OnnxModel(source)
    if kind == "torch":
        from gatewright.plugins.ml_model.torch import TorchModel

        return TorchModel(source)
    if kind == "tensorflow":
        from gatewright.plugins.ml_model.tensorflow import SavedModel

        return SavedModel(source)
    if kind == "oip-grpc":
        from gatewright.plugins.ml_model.oip_grpc import GrpcModel

        return GrpcModel(source)
    from gatewright.plugins.ml_model.oip_http import HttpModel

    return HttpModel(source)
