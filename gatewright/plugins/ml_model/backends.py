"""What runs models: one small interface, and what those who run them in this process have in common."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gatewright import ConfigError
from gatewright.plugins.ml_model.tensors import Tensors, TensorSpec

if TYPE_CHECKING:
    from gatewright.plugins.ml_model.options import ModelSource

__all__ = ["Backend", "LocalBackend", "file_identity", "needed"]


class Backend(Protocol):
    """A model that can be asked."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    """Known once it is open; empty where the model doesn't tell."""

    async def open(self) -> None:
        """Load the model, or see that its server has it.

        Raises:
            ConfigError: it isn't there, or isn't such a model.
            ModelDownError: its server can't be asked now.
        """

    async def infer(self, tensors: Tensors) -> Tensors:
        """Run the model on a batch.

        Raises:
            ModelDownError: it can't be asked.
            PluginError: it failed.
        """

    async def close(self) -> None:
        """Let go of it."""


class LocalBackend(ABC):
    """A model in this process: loaded and run in threads, so that the event loop goes on."""

    def __init__(self, source: ModelSource) -> None:
        self.source = source
        self.inputs: Sequence[TensorSpec] = ()
        self.outputs: Sequence[TensorSpec] = ()
        self._threads = ThreadPoolExecutor(source.concurrency, thread_name_prefix="gatewright-model")

    async def open(self) -> None:
        """Load the model."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self.load)

    async def infer(self, tensors: Tensors) -> Tensors:
        """Run the model on a batch, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.run, tensors)

    async def close(self) -> None:
        """End the threads, once what they do is done."""
        self._threads.shutdown(wait=False)

    @abstractmethod
    def load(self) -> None:
        """Load the model, and tell its inputs and outputs."""

    @abstractmethod
    def run(self, tensors: Tensors) -> Tensors:
        """Run the model."""


def needed(package: str, extra: str) -> None:
    """See that a package is installed.

    Raises:
        ConfigError: it isn't; says how to get it.
    """
    if find_spec(package) is None:
        raise ConfigError(f"this kind of model needs {package}: pip install 'gatewright[{extra}]'")


def file_identity(path: str) -> str:
    """What changes when a model's file, or a directory of files, is another one.

    Raises:
        ConfigError: there is no such file.
    """
    place = Path(path)
    try:
        files = sorted(each for each in place.rglob("*") if each.is_file()) if place.is_dir() else [place]
        states = [(str(each), each.stat()) for each in files]
    except OSError as error:
        raise ConfigError(f"the model can't be read: {error} - at `$.model.path`") from None
    text = "\n".join(f"{name} {state.st_ino} {state.st_size} {state.st_mtime_ns}" for name, state in states)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
