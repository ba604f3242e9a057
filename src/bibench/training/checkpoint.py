"""Checkpoints: tensors in safetensors, everything else in JSON. Reading one never runs code.

A checkpoint is two files. The JSON file names the tensor file and holds its SHA-256; it is moved into place last, so it
is what makes a checkpoint exist. A run that is killed between the two still has its previous checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ConfigDict, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bibench.files import file_sha256, write_bytes, write_json

__all__ = [
    "CheckpointError",
    "State",
    "holds_pretrained",
    "load_optimizer",
    "load_pretrained",
    "load_state",
    "load_weights",
    "save_optimizer",
    "save_state",
    "save_weights",
]

_JSON = "checkpoint.json"
_T = TypeVar("_T")


class CheckpointError(ValueError):
    """A checkpoint that is truncated, altered, or doesn't fit the model; the message names the file."""


@dataclass
class State:
    """What a run needs to go on as if it had never stopped.

    Args:
        run: identity of the run.
        epoch: number of finished epochs.
        history: one row of figures a finished epoch.
        phases: seconds by phase so far.
        layers: rows of per-layer statistics, where they were asked for.
    """

    __pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False)

    run: str
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)


_STATE = TypeAdapter(State)


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a model's state dict as safetensors, atomically."""
    _write(path, _plain(model.state_dict()))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load a state dict from safetensors into a model, strictly.

    Raises:
        CheckpointError: no such file, not safetensors, truncated, or other names or shapes than the model's.
    """
    _fill(model, _read_for(model, path), path)


def holds_pretrained(path: Path, model: nn.Module) -> bool:
    """Whether a file has pretrained weights for a part of the model, which is to be trained, and not a trained model's.

    That is so where the model has a method ``load_pretrained(tensors)`` and the file lacks some of its weights.

    Raises:
        CheckpointError: no such file, not safetensors, truncated, or what the model's ``own_names`` refuses.
    """
    return hasattr(model, "load_pretrained") and not model.state_dict().keys() <= _read_for(model, path).keys()


def load_pretrained(path: Path, model: nn.Module) -> None:
    """Give a model pretrained weights by its own method ``load_pretrained(tensors)``; the rest of it stays as it is.

    Raises:
        CheckpointError: no such file, not safetensors, truncated, or what the model's method refuses.
    """
    load: Any = model.load_pretrained
    _read_by(load, path)


_SLOTS: dict[type[torch.optim.Optimizer], set[str]] = {
    torch.optim.SGD: {"momentum_buffer"},
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
}


def save_optimizer(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write an optimizer's state as safetensors, atomically: ``parameter/slot``, such as ``fc.weight/exp_avg``."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    slots = {
        f"{names[id(parameter)]}/{slot}": value
        for parameter, values in optimizer.state.items()
        for slot, value in values.items()
        if isinstance(value, Tensor)  # SGD without momentum has a slot that holds None
    }
    _write(path, _plain(slots))


def load_optimizer(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give a model's optimizer the state that another one had, for the parameters whose names both models have.

    A parameter that the other model didn't have, such as a threshold, starts without state.

    Args:
        path: written by `save_optimizer`, with an optimizer of the same kind.
        model: on its device.
        optimizer: of the model, before its first step.

    Raises:
        CheckpointError: not a complete file of the kind, a state of another kind of optimizer, or one of another shape
            than its parameter's.
    """
    parameters = dict(model.named_parameters())
    known = _SLOTS[type(optimizer)]
    for key, value in _read(path).items():
        name, _, slot = key.rpartition("/")
        parameter = parameters.get(name)
        if slot not in known:
            raise CheckpointError(f"{path}: '{key}' is not of the state of {type(optimizer).__name__}")
        if parameter is None:
            continue
        if slot != "step" and value.shape != parameter.shape:
            raise CheckpointError(
                f"{path}: '{key}' is {tuple(value.shape)}, expected {tuple(parameter.shape)} as the parameter '{name}'"
            )
        optimizer.state[parameter][slot] = value if slot == "step" else value.to(parameter.device)


def _read_for(model: nn.Module, path: Path) -> dict[str, Tensor]:
    """A file's tensors; a model that knows them by other names too has a method ``own_names(tensors)``."""
    own_names: Callable[[dict[str, Tensor]], dict[str, Tensor]] = getattr(model, "own_names", dict)
    return _read_by(own_names, path)


def _read_by(method: Callable[[dict[str, Tensor]], _T], path: Path) -> _T:
    """What a model's own method makes of a file's tensors; what it refuses is an error that names the file."""
    tensors = _read(path)
    try:
        return method(tensors)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _fill(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    expected = model.state_dict()
    missing = [name for name in expected if name not in tensors]
    surplus = [name for name in tensors if name not in expected]
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if missing or surplus or shapes:
        parts = [
            f"missing: {', '.join(missing[:5])}" if missing else "",
            f"not in the model: {', '.join(surplus[:5])}" if surplus else "",
            "; ".join(shapes[:5]),
        ]
        raise CheckpointError(f"{path} doesn't fit the model ({'; '.join(part for part in parts if part)})")
    model.load_state_dict(tensors)


def save_state(folder: Path, state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint into a run's folder; the one before it is removed once the new one is complete."""
    slots: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                slots[f"{index}.{name}"] = value
            else:
                numbers[f"{index}.{name}"] = value
    tensors = _plain({f"model/{name}": tensor for name, tensor in model.state_dict().items()})
    tensors |= _plain({f"optimizer/{name}": tensor for name, tensor in slots.items()})
    path = folder / f"checkpoint-{state.epoch:05d}.safetensors"
    _write(path, tensors)
    content = asdict(state) | {"tensors": path.name, "sha256": file_sha256(path), "optimizer": numbers}
    write_json(folder / _JSON, content)
    for old in folder.glob("checkpoint-*.safetensors"):
        if old != path:
            old.unlink()


def start_again(folder: Path) -> str:
    """What to do about a checkpoint that can't be used."""
    return f"delete {folder} and run the same command again to train this run from the start"


def load_state(folder: Path, run: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> State | None:
    """Load the run's checkpoint into model and optimizer; None if there is none.

    The model must be on its device: the optimizer's state goes to where the parameters are.

    Raises:
        CheckpointError: truncated, altered, another run's, or it doesn't fit the model.
    """
    description = folder / _JSON
    if not description.exists():
        return None
    advice = start_again(folder)
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
        name, sha256 = str(content.pop("tensors")), content.pop("sha256")
        numbers: dict[str, Any] = content.pop("optimizer")
        if not isinstance(numbers, dict):
            raise TypeError("'optimizer' is not an object")
        for key in numbers:
            int(key.partition(".")[0])
        _STATE.validate_json(json.dumps(content))  # for its checks; what it returns has every integer as a float
        state = State(**content)
        if state.epoch != len(state.history):
            raise ValueError(f"{state.epoch} epochs with {len(state.history)} rows of history")
        if any(row.keys() != rows[0].keys() for rows in (state.history, state.layers) for row in rows):
            raise ValueError("rows with different columns")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{description} is not a checkpoint ({error}); {advice}") from error
    path = folder / Path(name).name
    if not path.is_file() or file_sha256(path) != sha256:
        found = (
            f"has {path.stat().st_size} bytes and another SHA-256 than" if path.is_file() else "is missing, unlike what"
        )
        raise CheckpointError(f"{path} {found} {_JSON} says: truncated or altered; {advice}")
    if state.run != run:
        raise CheckpointError(f"{description} belongs to run {state.run}, not {run}; {advice}")
    tensors = _read(path)
    _fill(model, {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}, path)
    slots: dict[int, dict[str, Any]] = {}
    stored = {n.removeprefix("optimizer/"): t for n, t in tensors.items() if n.startswith("optimizer/")}
    for key, value in (stored | numbers).items():
        index, _, name = key.partition(".")
        slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return state


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected the model's weights as safetensors")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}). Pickled weights (.pt, .pth, .bin) can run "
            "code when they are read and are not accepted: convert them, where you trust them, with "
            "safetensors.torch.save_file(model.state_dict(), path)"
        ) from error


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    # Not save_file: it reports a full disk as an error of its own, without the operating system's number.
    write_bytes(path, save(tensors))


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
