"""ctypes over the C interface. One call a batch, on the callers' own memory; other Python threads run meanwhile."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Engine", "NativeError", "instruction_sets", "library_path", "peak"]

_ABI = 1
_NAME = {"win32": "bibench_engine.dll", "darwin": "libbibench_engine.dylib"}.get(sys.platform, "libbibench_engine.so")
_TYPES: dict[int, npt.DTypeLike] = {0: np.float32, 1: np.uint32, 2: np.int64, 3: np.uint8}
_UNITS = {"binary": 0, "float": 1, "int8": 2, "copy": 3}
_ERROR_SIZE = 512


class NativeError(RuntimeError):
    """The native part isn't there, refuses a file, or can't go on; the message says why and what to do."""


def library_path() -> Path:
    """Where the shared library is, or would be, in this installation."""
    here = Path(__file__).with_name(_NAME)
    if here.is_file():
        return here
    try:  # an editable installation keeps it beside other packages, away from the source
        installed = distribution("bibench").locate_file(f"bibench/native/{_NAME}")
    except PackageNotFoundError:
        return here
    return Path(str(installed))


@functools.cache
def _library() -> ctypes.CDLL:
    path = library_path()
    if not path.is_file():
        raise NativeError(
            f"the packed engine is not built: {path} is missing. Install a C++17 compiler (such as g++) and install "
            "bibench again, or install a wheel, which carries it"
        )
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeError(f"the packed engine can't be loaded: {error}; install bibench again") from error
    pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    number, pointers = ctypes.c_int, ctypes.POINTER(ctypes.c_void_p)
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "abi": (number, []),
        "isa": (text, [number]),
        "load": (pointer, [text, size, text, number, text, size]),
        "free": (None, [pointer]),
        "input_number": (number, [pointer]),
        "output_number": (number, [pointer]),
        "input_type": (number, [pointer, number]),
        "input_count": (size, [pointer, number]),
        "output_type": (number, [pointer, number]),
        "output_count": (size, [pointer, number]),
        "operation_number": (number, [pointer]),
        "model_isa": (text, [pointer]),
        "memory": (size, [pointer]),
        "run": (number, [pointer, pointers, pointers, size, text, size]),
        "observe": (number, [pointer, pointers, pointers, _OBSERVER, pointer, text, size]),
        "value": (pointer, [pointer, number]),
        "profile": (number, [pointer, pointers, pointers, ctypes.POINTER(ctypes.c_uint64), text, size]),
        "peak": (ctypes.c_double, [text, number, ctypes.c_double]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"bibench_{name}")
        function.restype, function.argtypes = result, arguments
    if library.bibench_abi() != _ABI:
        raise NativeError(
            f"{path} has interface {library.bibench_abi()}, expected {_ABI}: it belongs to another version; install "
            "bibench again"
        )
    return library


_OBSERVER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that are built in and that this processor has, best first; the last is ``"scalar"``.

    Raises:
        NativeError: the native part isn't there.

    >>> instruction_sets()[-1]
    'scalar'
    """
    library = _library()
    found: list[str] = []
    while (name := library.bibench_isa(len(found))) is not None:
        found.append(name.decode())
    return tuple(found)


def peak(isa: str, unit: Literal["binary", "float", "int8", "copy"], seconds: float = 0.05) -> float:
    """What one core does at most, measured: operations per second on registers alone, or bytes per second copied.

    A multiplication and an addition are two operations.

    Raises:
        NativeError: the native part or the instruction set isn't there.
    """
    found: float = _library().bibench_peak(isa.encode(), _UNITS[unit], seconds)
    if not found:
        raise NativeError(f"isa={isa!r}: expected one of {', '.join(instruction_sets())}")
    return found


class Engine:
    """A packed file's program, loaded.

    Args:
        content: the file's bytes.
        threads: 1 to 256.
        isa: one of `instruction_sets`; None for the best.

    Attributes:
        inputs, outputs: type and count of numbers of each for one sample.
        operations: how many the program has.
        isa: the instruction set.
        memory: upper bound of the bytes held, running or not, whatever the batch.

    Raises:
        NativeError: the native part isn't there, or the file is refused.
    """

    def __init__(self, content: bytes, *, threads: int = 1, isa: str | None = None) -> None:
        self._handle = None
        self._lib = library = _library()
        if isa is not None and isa not in instruction_sets():
            raise NativeError(f"isa={isa!r}: expected one of {', '.join(instruction_sets())} on this processor")
        if not 1 <= threads <= 256:
            raise NativeError(f"threads={threads}: expected 1 to 256")
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        handle = library.bibench_load(
            content, len(content), None if isa is None else isa.encode(), threads, error, _ERROR_SIZE
        )
        if not handle:
            raise NativeError(error.value.decode(errors="replace"))
        self._handle = handle
        self.inputs = tuple(
            (np.dtype(_TYPES[library.bibench_input_type(handle, i)]), int(library.bibench_input_count(handle, i)))
            for i in range(library.bibench_input_number(handle))
        )
        self.outputs = tuple(
            (np.dtype(_TYPES[library.bibench_output_type(handle, i)]), int(library.bibench_output_count(handle, i)))
            for i in range(library.bibench_output_number(handle))
        )
        self.operations = int(library.bibench_operation_number(handle))
        self.isa: str = library.bibench_model_isa(handle).decode()
        self.memory = int(library.bibench_memory(handle))

    def __del__(self) -> None:
        if self._handle:
            self._lib.bibench_free(self._handle)

    def run(self, inputs: Sequence[npt.NDArray[Any]], batch: int) -> list[npt.NDArray[Any]]:
        """Run a batch.

        Args:
            inputs: one C-contiguous array each, of the input's type and ``batch`` times its count.
            batch: number of samples.

        Returns:
            Flat arrays, ``batch`` times each output's count.

        Raises:
            NativeError: an input of another size, or an index outside an embedding's table.
        """
        sources, outputs, targets = self._pointers(inputs, batch)
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        status = self._lib.bibench_run(self._handle, sources, targets, batch, error, _ERROR_SIZE)
        self._check(status, error)
        return outputs

    def prepared(self, inputs: Sequence[npt.NDArray[Any]], batch: int) -> Callable[[], None]:
        """A run whose memory is set up beforehand, as in C, and whose outputs are thrown away: for timing.

        Python's part of `run` takes some microseconds, as long as a small network.
        """
        sources, outputs, targets = self._pointers(inputs, batch)
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        run, handle = self._lib.bibench_run, self._handle
        held = (self, inputs, outputs)  # the memory behind the pointers

        def call(held: Any = held) -> None:
            if run(handle, sources, targets, batch, error, _ERROR_SIZE):
                raise NativeError(error.value.decode(errors="replace"))

        return call

    def profile(self, inputs: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.uint64]:
        """Nanoseconds of each operation for one sample."""
        sources, _, targets = self._pointers(inputs, 1)
        taken = np.zeros(self.operations, np.uint64)
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        where = taken.ctypes.data_as(ctypes.POINTER(ctypes.c_uint64))
        self._check(self._lib.bibench_profile(self._handle, sources, targets, where, error, _ERROR_SIZE), error)
        return taken

    def observe(self, inputs: Sequence[npt.NDArray[Any]], after: Callable[[int], None]) -> list[npt.NDArray[Any]]:
        """Run one sample and call ``after(operation)`` behind each operation; `value` is valid inside it."""
        sources, outputs, targets = self._pointers(inputs, 1)
        raised: list[BaseException] = []

        def call(_: Any, operation: int) -> None:
            if not raised:
                try:
                    after(operation)
                except BaseException as error:  # it can't pass through the C function
                    raised.append(error)

        error = ctypes.create_string_buffer(_ERROR_SIZE)
        observer = _OBSERVER(call)
        status = self._lib.bibench_observe(self._handle, sources, targets, observer, None, error, _ERROR_SIZE)
        if raised:
            raise raised[0]
        self._check(status, error)
        return outputs

    def value(self, index: int, count: int, type: int) -> npt.NDArray[Any]:
        """A copy of a value: ``count`` numbers of a type: 0 float32, 1 words of bits, 2 int64, 3 uint8."""
        dtype: np.dtype[Any] = np.dtype(_TYPES[type])
        address = self._lib.bibench_value(self._handle, index)
        if not address:
            raise NativeError(f"value {index}: there is none at this moment")
        return np.frombuffer(ctypes.string_at(address, count * dtype.itemsize), dtype)

    def _pointers(self, inputs: Sequence[npt.NDArray[Any]], batch: int) -> tuple[Any, list[npt.NDArray[Any]], Any]:
        if len(inputs) != len(self.inputs):
            raise NativeError(f"{len(inputs)} inputs given, expected {len(self.inputs)}")
        for i, (array, (dtype, count)) in enumerate(zip(inputs, self.inputs, strict=True)):
            if array.dtype != dtype or array.size != batch * count or not array.flags.c_contiguous:
                raise NativeError(
                    f"input {i}: {array.size} numbers of type {array.dtype}, expected {batch} samples of {count} of "
                    f"type {dtype}, contiguous"
                )
        outputs: list[npt.NDArray[Any]] = [np.empty(batch * count, dtype) for dtype, count in self.outputs]
        sources = (ctypes.c_void_p * len(inputs))(*(array.ctypes.data for array in inputs))
        targets = (ctypes.c_void_p * len(outputs))(*(array.ctypes.data for array in outputs))
        return sources, outputs, targets

    def _check(self, status: int, error: ctypes.Array[ctypes.c_char]) -> None:
        if status:
            raise NativeError(error.value.decode(errors="replace"))
