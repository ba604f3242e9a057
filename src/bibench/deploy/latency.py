"""Latency side by side: in turns, in one process, so that what slows the machine down slows all of them down.

A round takes every candidate once, each for as many calls as it needs to last `LEAST_SECONDS`; its time is their mean.
Every other round goes backwards. The median over the rounds is the latency, the lowest what it is when nothing
interferes, and the quartiles are the spread: the highest is whatever the system did meanwhile. A ratio is taken within
each round.
"""

from __future__ import annotations

import gc
import importlib
import io
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["LEAST_SECONDS", "Latency", "Ratio", "eager", "measure", "one_of", "onnx_runtime", "ratio"]

LEAST_SECONDS = 0.0005
"""What a candidate's calls in a round last at least: far above the timer's resolution, and far below the milliseconds
for which a system lets other work run, so that this hits all candidates alike. Beside two busy processes on two cores,
14 measurements of one ratio gave 3.4 to 3.6 with 61 rounds of 0.5 ms, and 1.6 to 7.9 with 9 rounds of 4 ms."""

_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Latency:
    """The time of a call, in seconds.

    Args:
        seconds: mean time of a call in each round, in order.
        calls: calls in a round.

    Raises:
        ValueError: no round, or a time that is not positive and finite.

    >>> Latency((0.3, 0.1, 0.2), calls=10).median
    0.2
    """

    seconds: tuple[float, ...]
    calls: int = 1

    def __post_init__(self) -> None:
        if not self.seconds or not all(0 < value < math.inf for value in self.seconds):
            raise ValueError(f"times of a call: expected positive seconds, one a round, got {self.seconds}")

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.seconds)

    @property
    def lowest(self) -> float:
        """Lowest over the rounds."""
        return min(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between them lies the middle half of the rounds."""
        return _quartiles(self.seconds)


@dataclass(frozen=True)
class Ratio:
    """How many times faster something is than something else: median and quartiles over the rounds."""

    median: float
    quartiles: tuple[float, float]


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.25, 0.75)).tolist()
    return low, high


def ratio(reference: Latency, own: Latency) -> Ratio:
    """``reference / own`` within each round, so that a machine's changing load cancels.

    Raises:
        ValueError: not the same number of rounds.

    >>> ratio(Latency((2.0, 4.0, 2.0)), Latency((1.0, 2.0, 0.5)))
    Ratio(median=2.0, quartiles=(2.0, 3.0))
    """
    if len(reference.seconds) != len(own.seconds):
        raise ValueError(
            f"{len(reference.seconds)} rounds of the reference and {len(own.seconds)} of the other; measure both in "
            "one call of measure"
        )
    factors = [one / other for one, other in zip(reference.seconds, own.seconds, strict=True)]
    return Ratio(statistics.median(factors), _quartiles(factors))


def measure(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 41,
    warm_up: int = 2,
    least_seconds: float = LEAST_SECONDS,
    threads: int = 1,
) -> dict[str, Latency]:
    """Time calls in turns, in one process.

    Each candidate is first called ``warm_up`` times, then as often as it takes to find out how many calls last
    ``least_seconds``; none of that counts. No garbage is collected meanwhile.

    Args:
        candidates: a function by name that makes one call.
        rounds: times of each candidate.
        warm_up: calls of each before (the first one allocates).
        least_seconds: what a candidate's calls in a round last at least.
        threads: of PyTorch meanwhile. Other runtimes' threads are set where the candidate is made.

    Raises:
        ValueError: no candidate, fewer than 1 round or thread, or a negative warm-up.

    >>> times = measure({"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.01)}, rounds=3)
    >>> times["short"].median < times["long"].median, len(times["long"].seconds)
    (True, 3)
    """
    if not candidates:
        raise ValueError("no call to measure: expected at least one candidate")
    for name, value, least in (("rounds", rounds, 1), ("warm_up", warm_up, 0), ("threads", threads, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}: expected {least} or more")
    order = list(candidates)
    times: dict[str, list[float]] = {name: [] for name in order}
    with _undisturbed(threads):
        calls = {}
        for name, call in candidates.items():
            for _ in range(warm_up):
                call()
            calls[name] = _calls_to_last(call, least_seconds)
        for number in range(rounds):
            for name in reversed(order) if number % 2 else order:
                times[name].append(_seconds(candidates[name], calls[name]) / calls[name])
    return {name: Latency(tuple(seconds), calls[name]) for name, seconds in times.items()}


def _seconds(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


def _calls_to_last(call: Callable[[], object], least: float) -> int:
    count = 1
    while (seconds := _seconds(call, count)) < least:
        count = max(count + 1, min(10 * count, math.ceil(1.1 * least * count / max(seconds, 1e-9))))
    return count


@contextmanager
def _undisturbed(threads: int) -> Iterator[None]:
    """No garbage collection and so many threads of PyTorch inside; afterwards as before."""
    collecting, before = gc.isenabled(), torch.get_num_threads()
    gc.disable()
    if before != threads:  # setting it costs time, and in some builds a pool of threads
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if before != threads:
            torch.set_num_threads(before)
        if collecting:
            gc.enable()


def one_of(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The first sample of a model's inputs, as a batch of one.

    >>> one_of((torch.zeros(2, 3),))[0].shape
    torch.Size([1, 3])
    """
    return tuple(value[:1].contiguous() for value in inputs)


def eager(model: nn.Module, *inputs: Tensor) -> Callable[[], object]:
    """A call of a model in PyTorch, without gradients; the model is in evaluation mode.

    >>> eager(nn.Identity(), torch.ones(1))()
    tensor([1.])
    """

    def call() -> object:
        with torch.inference_mode():
            return model(*inputs)

    return call


def onnx_runtime(model: nn.Module, *inputs: Tensor, threads: int = 1) -> Callable[[], object] | None:
    """A call of a model in ONNX Runtime on the CPU; None where that isn't installed or can't run the model.

    The model is exported by PyTorch. What comes out must be what the model gives, within rounding. Inputs and outputs
    are bound beforehand, as `PackedModel.prepared` does; a call returns the binding.
    """
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")
    except ImportError:
        return None
    content = _onnx(model, inputs)
    if content is None:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()  # what each call would set up anew otherwise
        for node, value in zip(session.get_inputs(), inputs, strict=True):
            binding.bind_cpu_input(node.name, value.numpy())
        for node in session.get_outputs():
            binding.bind_output(node.name)
        session.run_with_iobinding(binding)
        found = binding.copy_outputs_to_cpu()
    except Exception:  # whatever it has no kernel for
        return None
    with torch.inference_mode():
        expected = model(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    if len(found) != len(expected) or not all(map(_close, found, expected)):
        return None

    def call() -> object:
        session.run_with_iobinding(binding)
        return binding

    return call


def _close(found: Any, expected: Tensor) -> bool:
    wanted = expected.numpy()
    bound = _TOLERANCE * max(1.0, float(np.abs(wanted).max(initial=0)))
    return found.shape == wanted.shape and bool((np.abs(found - wanted) <= bound).all())


def _onnx(model: nn.Module, inputs: tuple[Tensor, ...]) -> bytes | None:
    """The model in ONNX, or None. The older exporter first: it takes milliseconds and needs no other package."""
    for dynamo in (False, True):
        target = io.BytesIO()
        try:
            with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                if dynamo:
                    program: Any = torch.onnx.export(model, inputs, dynamo=True, verbose=False)
                    program.save(target)
                else:
                    export: Any = torch.onnx.export  # its type knows only paths, and it writes to files too
                    export(model, inputs, target, dynamo=False)
        except Exception:  # noqa: S112 - it refuses models in many ways, and lacks packages in others
            continue
        return target.getvalue()
    return None
