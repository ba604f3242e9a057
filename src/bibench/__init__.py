"""bibench: benchmark, train and ship neural networks whose weights and activations are single bits."""

from importlib.metadata import version as _version

__version__ = _version("bibench")
