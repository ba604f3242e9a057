"""The training methods: where a run's model starts, and what of it is binarized.

- ``full_precision``: initialised from the seed, or of BERT and its like with a pretrained part from the user's file.
- ``checkpoint``: full-precision weights from the user's file; evaluated, not trained.
- ``fine_tune``: the final weights of the full-precision run of the same seed, then binarized (BiBench, section 4).
- ``from_scratch``: the full-precision run's initialisation, binarized before the first step.
- ``partial_pretraining``: the final weights of a full-precision run that has a share of the budget, then binarized and
  trained for the rest of it (Partial pre-training, algorithm 1). Each of the two has the original schedule, compressed.
  It differs from ``fine_tune`` in the budgets alone, so the full-precision part is a run of its own, which all
  algorithms share.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from bibench.models.base import Architecture
from bibench.nn import binarize, resolve
from bibench.records import RunConfig
from bibench.tasks.base import Data, Task
from bibench.training.checkpoint import load_pretrained, load_weights
from bibench.training.seeds import derive_seed

__all__ = ["build_model", "convert", "full_precision_model"]


def build_model(
    config: RunConfig, *, task: Task, architecture: Architecture, data: Data, start: Path | None = None
) -> nn.Module:
    """The model as it is before its first step, on the CPU; every parameter exists.

    Args:
        config: the run.
        task, architecture, data: what the run names.
        start: full-precision weights (safetensors) for the methods that start from some.

    Raises:
        CheckpointError: ``start`` can't be read or doesn't fit.
        BinarizeError: the algorithm can't take a layer.
    """
    return convert(
        config, full_precision_model(config, task=task, architecture=architecture, data=data, start=start), task
    )


def full_precision_model(
    config: RunConfig, *, task: Task, architecture: Architecture, data: Data, start: Path | None = None
) -> nn.Module:
    """The network of a run before it is binarized, if it is; see `build_model`."""
    torch.manual_seed(derive_seed(config.seed, "initialisation"))
    model = architecture.build(task.input_shape, data.outputs)
    if start is not None:
        (load_pretrained if config.method == "full_precision" else load_weights)(start, model)
    return model


def convert(config: RunConfig, model: nn.Module, task: Task) -> nn.Module:
    """Binarize a run's full-precision network as the run says; a full-precision run's is returned as it is.

    Whatever was before, the same weights and the run's seed give the same model.
    """
    if config.operator is not None:
        torch.manual_seed(derive_seed(config.seed, "rules"))
        model = binarize(
            model,
            resolve(config.operator, **config.options),
            example=task.example(),
            inplace=True,
            shortcuts=config.shortcuts,
            heads=config.heads,
            padding_value=config.padding_value,
        )
    return model
