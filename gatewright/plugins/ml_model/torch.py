"""PyTorch models: programs of `torch.export` (`.pt2`) and TorchScript.

Such a file can hold code: load your own models only.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gatewright import ConfigError, PluginError
from gatewright.plugins.ml_model.backends import LocalBackend, needed
from gatewright.plugins.ml_model.tensors import Tensors, TensorSpec, datatype_of

if TYPE_CHECKING:
    from gatewright.plugins.ml_model.options import ModelSource

__all__ = ["TorchModel"]

_DATATYPES: Final = {
    "bool": "BOOL",
    "uint8": "UINT8",
    **{f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}


class TorchModel(LocalBackend):
    """A model in PyTorch, on the CPU."""

    def __init__(self, source: ModelSource) -> None:
        needed("torch", "torch")
        super().__init__(source)
        self._module: Callable[..., Any] | None = None
        self._names: Sequence[str] = ()

    def load(self) -> None:
        """Load the program, and see what it takes."""
        import torch

        if self.source.threads:
            torch.set_num_threads(self.source.threads)
        try:
            if _is_script(self.source.path):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is old, and in use
                    script = torch.jit.load(self.source.path, map_location="cpu")
                script.eval()
                self._module, self._names = script, [each.name for each in script.forward.schema.arguments[1:]]
                return
            program = torch.export.load(self.source.path)
        except Exception as error:  # whatever a file that isn't one of these makes it raise
            raise ConfigError(f"PyTorch can't load {self.source.path}: {type(error).__name__}: {error}") from None
        self._module = program.module()
        self.inputs = _specs(program)
        self._names = [spec.name for spec in self.inputs]

    def run(self, tensors: Tensors) -> Tensors:
        """Run the model."""
        import torch

        module = self._module
        assert module is not None  # noqa: S101 - it's loaded before it's run
        missing = [name for name in self._names if name not in tensors]
        if missing:
            raise PluginError(f"the model takes {', '.join(self._names)}: {missing[0]!r} isn't there")
        arguments = [torch.from_numpy(np.array(tensors[name], order="C")) for name in self._names]
        try:
            with torch.inference_mode():
                result = module(*arguments)
        except Exception as error:
            raise PluginError(f"PyTorch: {error}") from None
        outputs = {name: each.detach().cpu().numpy() for name, each in _named(result).items()}
        if not self.outputs:
            self.outputs = [
                TensorSpec(name, datatype_of(array), (-1, *array.shape[1:])) for name, array in outputs.items()
            ]
        return outputs


def _is_script(path: str) -> bool:
    """Whether a file is TorchScript: both kinds are zip archives, but only this one keeps its code as text."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} is no model of PyTorch: {error}") from None
    return any("/code/" in name for name in names) and not any(name.endswith("models/model.json") for name in names)


def _specs(program: Any) -> list[TensorSpec]:
    wanted = list(program.graph_signature.user_inputs)
    nodes = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    specs = []
    for name in wanted:
        value = nodes[name]
        kind = _DATATYPES.get(str(value.dtype).removeprefix("torch."))
        if kind is None:
            raise ConfigError(f"{name!r} is {value.dtype}, for which the protocol has no data type")
        specs.append(TensorSpec(name, kind, tuple(size if type(size) is int else -1 for size in value.shape)))
    return specs


def _named(result: Any) -> Mapping[str, Any]:
    """What a model returned, by name: a mapping has them, others are numbered."""
    if isinstance(result, Mapping):
        return {str(name): each for name, each in result.items()}
    if isinstance(result, tuple | list):
        return {f"output_{number}": each for number, each in enumerate(result)}
    return {"output_0": result}
