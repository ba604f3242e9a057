"""The one registry at the edge: names on a command line or in a suite become objects here.

Built-in objects are listed by import path and imported when asked for. Other packages add theirs through
entry points, without any change to this one::

    [project.entry-points."bibench.algorithms"]   # or .tasks, .architectures, .tracks
    mine = "my_package:mine"
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

__all__ = ["KINDS", "UnknownName", "did_you_mean", "get", "names", "origin"]

_BUILTIN: Mapping[str, Mapping[str, str]] = {
    "algorithms": {
        "bnn": "bibench.algorithms.bnn:bnn",
        "xnor": "bibench.algorithms.xnor:xnor",
        "dorefa": "bibench.algorithms.dorefa:dorefa",
        "bireal": "bibench.algorithms.bireal:bireal",
        "xnorpp": "bibench.algorithms.xnorpp:xnorpp",
        "reactnet": "bibench.algorithms.reactnet:reactnet",
        "recu": "bibench.algorithms.recu:recu",
        "fda": "bibench.algorithms.fda:fda",
        "pact": "bibench.algorithms.pact:pact",
    },
    "architectures": {
        "resnet18": "bibench.models.image:resnet18",
        "resnet20": "bibench.models.image:resnet20",
        "resnet20e": "bibench.models.image:resnet20e",
        "resnet34": "bibench.models.image:resnet34",
        "resnet34e": "bibench.models.image:resnet34e",
        "vgg16": "bibench.models.image:vgg16",
        "vgg_small": "bibench.models.image:vgg_small",
        "mobilenet_v2": "bibench.models.image:mobilenet_v2",
        "digits_cnn": "bibench.models.image:digits_cnn",
        "digits_mlp": "bibench.models.image:digits_mlp",
        "digits_transformer": "bibench.models.image:digits_transformer",
        "ncf": "bibench.models.ncf:ncf",
        "fsmn": "bibench.models.speech:fsmn",
        "d_fsmn": "bibench.models.speech:d_fsmn",
        "bert_tiny4": "bibench.models.bert:bert_tiny4",
        "bert_tiny6": "bibench.models.bert:bert_tiny6",
        "bert_base": "bibench.models.bert:bert_base",
        "pointnet": "bibench.models.point:pointnet",
        "pointnet_vanilla": "bibench.models.point:pointnet_vanilla",
        "faster_rcnn": "bibench.models.detection:faster_rcnn",
        "faster_rcnn_fpn": "bibench.models.detection:faster_rcnn_fpn",
        "ssd300": "bibench.models.detection:ssd300",
        "ssd300_bn": "bibench.models.detection:ssd300_bn",
    },
    "tasks": {
        "digits": "bibench.tasks.digits:digits",
        "cifar10": "bibench.tasks.cifar10:cifar10",
        "imagenet": "bibench.tasks.imagenet:imagenet",
        "noise32": "bibench.tasks.noise:noise32",
        "noise224": "bibench.tasks.noise:noise224",
        "voc07": "bibench.tasks.voc:voc07",
        "voc0712": "bibench.tasks.voc:voc0712",
        "voc07_small": "bibench.tasks.voc:voc07_small",
        "coco17": "bibench.tasks.coco:coco17",
        "coco17_small": "bibench.tasks.coco:coco17_small",
        "movielens": "bibench.tasks.movielens:movielens",
        "speech_commands": "bibench.tasks.speech_commands:speech_commands",
        "speech_commands_v2_35": "bibench.tasks.speech_commands:speech_commands_v2_35",
        "modelnet40": "bibench.tasks.modelnet40:modelnet40",
        "modelnet40_normals": "bibench.tasks.modelnet40:modelnet40_normals",
        "shapenet": "bibench.tasks.shapenet_parts:shapenet",
        "shapenet_normals": "bibench.tasks.shapenet_parts:shapenet_normals",
        "glue_cola": "bibench.tasks.glue:glue_cola",
        "glue_sst2": "bibench.tasks.glue:glue_sst2",
        "glue_mrpc": "bibench.tasks.glue:glue_mrpc",
        "glue_stsb": "bibench.tasks.glue:glue_stsb",
        "glue_qqp": "bibench.tasks.glue:glue_qqp",
        "glue_mnli_m": "bibench.tasks.glue:glue_mnli_m",
        "glue_mnli_mm": "bibench.tasks.glue:glue_mnli_mm",
        "glue_qnli": "bibench.tasks.glue:glue_qnli",
        "glue_rte": "bibench.tasks.glue:glue_rte",
        "glue_wnli": "bibench.tasks.glue:glue_wnli",
    },
    "tracks": {
        "learning_task": "bibench.tracks.learning_task:learning_task",
        "neural_architecture": "bibench.tracks.neural_architecture:neural_architecture",
        "corruption_robustness": "bibench.tracks.corruption_robustness:corruption_robustness",
        "training_consumption": "bibench.tracks.training_consumption:training_consumption",
        "theoretical_complexity": "bibench.tracks.theoretical_complexity:theoretical_complexity",
        "hardware_inference": "bibench.tracks.hardware_inference:hardware_inference",
        "training_speed": "bibench.tracks.training_speed:training_speed",
    },
}

KINDS: tuple[str, ...] = tuple(_BUILTIN)


class UnknownName(ValueError):
    """A name that no built-in object and no installed package provides, or whose package can't be loaded."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or the empty string."""
    near = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _plugins(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"bibench.{kind}")}


def names(kind: str) -> list[str]:
    """Every name of a kind: the built-in ones first, in their own order, then those of other packages.

    >>> names("algorithms")[:2]
    ['bnn', 'xnor']
    """
    built_in = _BUILTIN[kind]
    return [*built_in, *sorted(name for name in _plugins(kind) if name not in built_in)]


def origin(kind: str, name: str) -> str:
    """The distribution that provides a name, such as ``'bibench'``."""
    if name in _BUILTIN[kind]:
        return "bibench"
    distribution = _plugins(kind)[name].dist
    return distribution.name if distribution is not None else "unknown"


def get(kind: str, name: str) -> Any:
    """The object behind a name.

    Raises:
        UnknownName: the name is not known, and the message has the nearest one that is; or the package that provides
            it fails to load.
    """
    built_in = _BUILTIN[kind]
    if name in built_in:
        module, _, attribute = built_in[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    plugins = _plugins(kind)
    if name in plugins:
        try:
            return plugins[name].load()
        except Exception as error:  # it is somebody else's code, and can fail in any way
            raise UnknownName(
                f"{kind[:-1]} '{name}' of package '{origin(kind, name)}' can't be loaded ({plugins[name].value}): "
                f"{type(error).__name__}: {error}"
            ) from error
    known = names(kind)
    raise UnknownName(f"unknown {kind[:-1]} '{name}'{did_you_mean(name, known)} (known: {', '.join(known)})")
