"""bibench: benchmark, train and ship neural networks whose weights and activations are single bits.

>>> import torch, torchvision, bibench
>>> model = bibench.binarize(torchvision.models.resnet18(), "recu", example=torch.randn(1, 3, 64, 64))
>>> print(bibench.summary(model).layers[0].reason)
first layer on the example
"""

from importlib.metadata import version as _version

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

__version__ = _version("bibench")

__all__ = [
    "Algorithm",
    "BinarizeError",
    "__version__",
    "binarize",
    "complexity",
    "default_filter",
    "nn",
    "partial_pretraining",
    "set_progress",
    "summary",
]
