"""bibench: benchmark, train and ship neural networks whose weights and activations are single bits.

>>> import torch, torchvision, bibench
>>> model = bibench.binarize(torchvision.models.resnet18(), "recu", example=torch.randn(1, 3, 64, 64))
>>> print(bibench.summary(model).layers[0].reason)
first layer on the example
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING
from typing import Any as _Any

from bibench import nn
from bibench.algorithms import Algorithm
from bibench.nn import (
    BinarizeError,
    binarize,
    complexity,
    default_filter,
    partial_pretraining,
    set_progress,
    summary,
)

if TYPE_CHECKING:
    from bibench.deploy.export import export
    from bibench.deploy.packed import load_packed

__version__ = _version("bibench")

__all__ = [
    "Algorithm",
    "BinarizeError",
    "__version__",
    "binarize",
    "complexity",
    "default_filter",
    "export",
    "load_packed",
    "nn",
    "partial_pretraining",
    "set_progress",
    "summary",
]

_LATER = {"export": "bibench.deploy.export", "load_packed": "bibench.deploy.packed"}
"""What is imported when it is asked for, since training needs nothing of it."""


def __getattr__(name: str) -> _Any:
    if name not in _LATER:
        raise AttributeError(f"module 'bibench' has no attribute '{name}'")
    found = globals()[name] = getattr(_import_module(_LATER[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
