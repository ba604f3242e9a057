"""Small packed programs made by hand, for tests that are not about exporting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bibench.deploy.format import SLOTS, Code, Constant, Operation, Place, Program, Type, Value


def operation(code: Code, values: Any = (), constants: Any = (), params: Any = (), floats: Any = ()) -> Operation:
    """An operation, filled up to its room."""

    def filled(given: Any, name: str, empty: Any) -> Any:
        return (*given, *(empty for _ in range(SLOTS[name] - len(given))))

    return Operation(
        code,
        filled(values, "values", -1),
        filled(constants, "constants", -1),
        filled(params, "params", 0),
        filled(floats, "floats", 0.0),
    )


def linear(weight: np.ndarray, shape: tuple[int, ...], **metadata: Any) -> Program:
    """``weight @ x.ravel()`` for inputs of a shape."""
    outputs, inputs = weight.shape
    params = [1, 1, inputs, 1, outputs, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]
    return Program(
        values=(
            Value(Place.INPUT, Type.FLOAT32, 0, inputs),
            Value(Place.OUTPUT, Type.FLOAT32, 0, outputs),
        ),
        constants=(Constant.floats(weight),),
        operations=(operation(Code.FCONV, (0, -1, -1, 1), (0,), params),),
        arena=0,
        metadata={
            "inputs": [{"shape": list(shape), "type": "float32"}],
            "outputs": [{"shape": [outputs], "type": "float32"}],
            "operations": ["classifier"],
        }
        | metadata,
    )


def lookup_and_sum(table: np.ndarray) -> Program:
    """Two inputs, an index into a table of rows and a float row: the row itself, and the sum of both."""
    rows, width = table.shape
    sizes = [1, 1, 1, 1, width]
    strides = [width, width, width, width, 1]
    return Program(
        values=(
            Value(Place.INPUT, Type.INT64, 0, 1),
            Value(Place.INPUT, Type.FLOAT32, 1, width),
            Value(Place.OUTPUT, Type.FLOAT32, 0, width),
            Value(Place.OUTPUT, Type.FLOAT32, 1, width),
        ),
        constants=(Constant.floats(table),),
        operations=(
            operation(Code.EMBED, (0, 2), (0,), [1, rows, width, 0, 1]),
            operation(Code.BINARY, (2, 1, 3), (), [0, *sizes, *strides, *strides]),
        ),
        arena=0,
        metadata={
            "inputs": [{"shape": [], "type": "int64"}, {"shape": [width], "type": "float32"}],
            "outputs": [{"shape": [width], "type": "float32"}, {"shape": [width], "type": "float32"}],
        },
    )


def written(folder: Path, program: Program, name: str = "model.bibpack") -> Path:
    """The program in a file."""
    path = folder / name
    path.write_bytes(program.to_bytes())
    return path
