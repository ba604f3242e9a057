"""A packed file as a model: called on arrays or tensors, it gives what the network gave that was exported."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bibench.deploy.format import PackedError, Program
from bibench.native import Engine, NativeError, instruction_sets
from bibench.tasks.preprocessing import Preprocessing

__all__ = ["PackedModel", "PackedModule", "Port", "engine_lacks", "load_packed"]

_Given = TypeVar("_Given", npt.NDArray[Any], Tensor)


@dataclass(frozen=True)
class Port:
    """An input or output of a packed file: shape of one sample, and type of its numbers."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def text(self) -> str:
        """``"(batch, 3, 32, 32) of float32"``."""
        return f"({', '.join(map(str, ('batch', *self.shape)))}) of {self.dtype}"


class PackedModel:
    """A packed file, loaded. See `load_packed`.

    Calling it takes the inputs with the batch first, as NumPy arrays or as tensors on the CPU, and returns the outputs
    as the same kind: one, or a tuple where there are several. Arrays that are contiguous and of the right type are read
    where they are.

    Args:
        content: the file's bytes.
        threads: 1 to 256.
        isa: one of `bibench.native.instruction_sets`; None for the best.

    Attributes:
        metadata: what the file says of itself.
        algorithm, task: names, or None where the file has none.
        labels: names of the outputs; empty where the file has none.
        preprocessing: how images become inputs; None where the file doesn't say.
        inputs, outputs: shape of one sample and type of each.
        size: bytes of the file.
        memory: upper bound of the bytes that are held, running or not, whatever the batch.
        threads, isa: how it runs.

    Raises:
        PackedError: the file is refused.
        NativeError: the engine isn't built, or has no such instruction set.
    """

    def __init__(self, content: bytes, *, threads: int = 1, isa: str | None = None) -> None:
        self.metadata: Mapping[str, Any] = Program.from_bytes(content).metadata
        self.engine = _engine(content, threads, isa)
        self.size, self.threads, self.isa, self.memory = len(content), threads, self.engine.isa, self.engine.memory
        self.inputs = _ports(self.metadata, "inputs", self.engine.inputs)
        self.outputs = _ports(self.metadata, "outputs", self.engine.outputs)
        algorithms = self.metadata.get("algorithms") or [None]
        self.algorithm: str | None = self.metadata.get("algorithm", algorithms[0] if len(algorithms) == 1 else None)
        self.task: str | None = self.metadata.get("task")
        self.labels = tuple(map(str, self.metadata.get("labels") or ()))
        self.preprocessing = _preprocessing(self.metadata.get("preprocessing"))

    def __call__(self, *inputs: _Given) -> Any:
        """Run a batch.

        Raises:
            ValueError: not as many inputs as the network has, another shape or type, or a tensor on another device.
            NativeError: an index outside an embedding's table.
        """
        arrays, batch = self._arrays(inputs)
        flat = self.engine.run(arrays, batch)
        found = tuple(value.reshape(batch, *port.shape) for value, port in zip(flat, self.outputs, strict=True))
        wanted = tuple(map(torch.from_numpy, found)) if isinstance(inputs[0], Tensor) else found
        return wanted[0] if len(wanted) == 1 else wanted

    def __repr__(self) -> str:
        takes, gives = (", ".join(port.text for port in ports) for ports in (self.inputs, self.outputs))
        return f"<PackedModel {takes} -> {gives}; {self.size:,} bytes, {self.isa}, threads: {self.threads}>"

    def prepared(self, *inputs: _Given) -> Callable[[], None]:
        """A call on these inputs whose memory is set up beforehand, as a call from C: for timing.

        What it computes is thrown away. In Python's own call the set-up takes some microseconds, as long as a small
        network runs.
        """
        arrays, batch = self._arrays(inputs)
        return self.engine.prepared(arrays, batch)

    def profile(self, *inputs: _Given, repeats: int = 20) -> npt.NDArray[np.float64]:
        """Seconds of each operation on the first sample, of shape ``(repeats, operations)``, after two runs to warm up.

        Raises:
            ValueError: as for a call, or fewer than 1 repeat.
        """
        if repeats < 1:
            raise ValueError(f"repeats is {repeats}: expected 1 or more")
        arrays, batch = self._arrays(inputs)
        if batch < 1:
            raise ValueError("the batch has no samples: expected at least one")
        first = [array[:1] for array in arrays]
        for _ in range(2):
            self.engine.profile(first)
        taken = np.stack([self.engine.profile(first) for _ in range(repeats)])
        return taken.astype(np.float64) * 1e-9

    def example(self) -> tuple[npt.NDArray[Any], ...]:
        """Inputs for one sample, for timing: standard normal numbers, or zeros where they are indices."""
        generator = np.random.default_rng(0)
        return tuple(
            generator.standard_normal((1, *port.shape), np.float32)
            if port.dtype == np.float32
            else np.zeros((1, *port.shape), port.dtype)
            for port in self.inputs
        )

    def _arrays(self, inputs: tuple[_Given, ...]) -> tuple[list[npt.NDArray[Any]], int]:
        if len(inputs) != len(self.inputs):
            expected = "; ".join(port.text for port in self.inputs)
            raise ValueError(f"{len(inputs)} inputs given, expected {len(self.inputs)}: {expected}")
        arrays = [_array(value, port, i) for i, (value, port) in enumerate(zip(inputs, self.inputs, strict=True))]
        batches = {len(array) for array in arrays}
        if len(batches) > 1:
            raise ValueError(f"inputs of {', '.join(map(str, sorted(batches)))} samples: expected as many of each")
        return arrays, batches.pop()


def _engine(content: bytes, threads: int, isa: str | None) -> Engine:
    known = instruction_sets()  # where there is no engine, that is what's wrong, and not the file
    try:
        return Engine(content, threads=threads, isa=isa)
    except NativeError as error:
        if isa not in (None, *known) or not 1 <= threads <= 256:
            raise
        raise PackedError(str(error)) from error


class PackedModule(nn.Module):
    """A packed model in a module's place, such as in a task's evaluation. It has no parameters, and cannot be trained.

    Args:
        packed: runs on the CPU; inputs on other devices are moved, and outputs moved back.
    """

    def __init__(self, packed: PackedModel) -> None:
        super().__init__()
        self.packed = packed
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs, for tensors."""
        device = inputs[0].device
        found = self.packed(*(value.detach().cpu() for value in inputs))
        if device.type == "cpu":
            return found
        return tuple(value.to(device) for value in found) if isinstance(found, tuple) else found.to(device)


def load_packed(path: str | os.PathLike[str], threads: int = 1, isa: str | None = None) -> PackedModel:
    """Load a file that `bibench.export` wrote.

    Args:
        path: the file.
        threads: 1 to 256.
        isa: an instruction set, such as ``"avx2"``; None for the best that the processor has.

    Raises:
        PackedError: no such file, not a packed file, damaged, or refused by the engine.
        NativeError: the engine isn't built, or has no such instruction set.

    >>> load_packed("none.bibpack")
    Traceback (most recent call last):
    bibench.deploy.format.PackedError: none.bibpack: no such file; `bibench export RUN` writes one
    """
    where = Path(path)
    try:
        content = where.read_bytes()
    except FileNotFoundError as error:
        raise PackedError(f"{where}: no such file; `bibench export RUN` writes one") from error
    except OSError as error:
        raise PackedError(f"{where}: can't be read ({error.strerror or error})") from error
    try:
        return PackedModel(content, threads=threads, isa=isa)
    except PackedError as error:
        raise PackedError(f"{where}: {error}") from error


def engine_lacks() -> str | None:
    """Why the packed engine can't be used here; None where it can."""
    try:
        instruction_sets()
    except NativeError as error:
        return str(error)
    return None


def _array(value: npt.NDArray[Any] | Tensor, port: Port, number: int) -> npt.NDArray[Any]:
    if isinstance(value, Tensor):
        if value.device.type != "cpu":
            raise ValueError(f"input {number} is on '{value.device}': expected a tensor on the CPU; give it .cpu()")
        value = value.detach().numpy()
    if not isinstance(value, np.ndarray):
        raise ValueError(f"input {number} is of type {type(value).__name__}: expected a NumPy array or a tensor")
    if value.ndim != 1 + len(port.shape) or value.shape[1:] != port.shape or value.dtype != port.dtype:
        raise ValueError(f"input {number} has shape {value.shape} of {value.dtype}: expected {port.text}")
    return np.ascontiguousarray(value)


def _ports(metadata: Mapping[str, Any], key: str, found: tuple[tuple[np.dtype[Any], int], ...]) -> tuple[Port, ...]:
    """Shapes from the metadata where they fit what the engine says; flat ones where they don't."""
    given = metadata.get(key)
    entries = given if isinstance(given, list) and len(given) == len(found) else [None] * len(found)
    ports = []
    for entry, (dtype, count) in zip(entries, found, strict=True):
        shape = tuple(entry.get("shape", ())) if isinstance(entry, Mapping) else ()
        fits = all(isinstance(side, int) and side > 0 for side in shape) and np.prod(shape, dtype=object) == count
        ports.append(Port(shape if fits else (count,), dtype))
    return tuple(ports)


def _preprocessing(content: Any) -> Preprocessing | None:
    if content is None:
        return None
    try:
        return Preprocessing.model_validate(content)
    except ValueError as error:
        raise PackedError(f"its preprocessing is not understood ({' '.join(str(error).split())})") from error
