"""Training: how a run's weights come about. Methods build the model, the loop trains it, checkpoints keep it."""

from bibench.training.checkpoint import CheckpointError, load_weights, save_weights
from bibench.training.loop import Diverged, Trained, train
from bibench.training.methods import build_model, convert, full_precision_model

__all__ = [
    "CheckpointError",
    "Diverged",
    "Trained",
    "build_model",
    "convert",
    "full_precision_model",
    "load_weights",
    "save_weights",
    "train",
]
