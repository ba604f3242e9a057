"""Detectors of torchvision around backbones that are binarized: Faster R-CNN on ResNet-18, SSD300 on VGG-16.

A detector takes a list of images ``(3, height, width)`` of any sizes, 0 to 1. In training mode it also takes a list of
targets (``boxes`` in pixels of the image, ``labels`` from 1) and returns its losses; in evaluation mode it returns the
objects found in each image: ``boxes``, ``labels``, ``scores``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision import models
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import MultiScaleRoIAlign

from bibench.algorithms import Algorithm
from bibench.models.base import Architecture
from bibench.models.image import initialise

__all__ = ["FrozenBatchNorm2d", "faster_rcnn", "faster_rcnn_fpn", "ssd300", "ssd300_bn"]

_ANCHORS = (0.04, 0.08, 0.16, 0.32, 0.64)
"""Sides of the anchors as shares of the image's shorter side: 32 to 512 pixels at 800."""

_SMALL = 320
"""Below this shorter side, fewer and coarser regions: objects there cover a few cells of the feature map."""


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that keeps the statistics and weights that it was given, in training too.

    A detector's batches are too small for statistics of their own, so in full precision those of pretraining stay. A
    binarized layer's outputs have others: there an ordinary `torch.nn.BatchNorm2d` takes its place, which is trained.

    Args:
        trained: the layer whose statistics and weights to keep; its state dict fits.

    >>> norm = FrozenBatchNorm2d(nn.BatchNorm2d(8)).train()
    >>> norm.training, any(parameter.requires_grad for parameter in norm.parameters())
    (False, False)
    """

    def __init__(self, trained: nn.BatchNorm2d) -> None:
        super().__init__(trained.num_features, eps=trained.eps, momentum=trained.momentum)
        self.load_state_dict(trained.state_dict())
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        """Stay in evaluation mode."""
        return super().train(False)

    def binarized_counterpart(self, algorithm: Algorithm) -> nn.BatchNorm2d:
        """The layer that is trained in a binarized network, starting from this one's statistics and weights."""
        counterpart = nn.BatchNorm2d(self.num_features, eps=self.eps, momentum=self.momentum)
        counterpart.load_state_dict(self.state_dict())
        return counterpart.to(self.weight.device)


def _freeze(model: nn.Module) -> None:
    """Freeze every batch normalisation inside a part of a detector."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, FrozenBatchNorm2d(child))


def _load(places: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], what: str) -> None:
    """Fill parts of a detector from a classifier's weights, then freeze their batch normalisation.

    Args:
        places: prefix in the file, such as ``"layer1"``, of each part.
        tensors: by name; those of other parts, such as the classifier's last layer, are left out.
        what: the network whose weights are expected.

    Raises:
        ValueError: a weight is missing, or has another shape.
    """
    for prefix, part in places.items():
        expected = part.state_dict()
        found = {name: tensors.get(f"{prefix}.{name}") for name in expected}
        for name, tensor in found.items():
            if tensor is None:
                raise ValueError(
                    f"'{prefix}.{name}' is missing: expected the weights of {what} with torchvision's names, or those "
                    "of a run that trained it"
                )
            if tensor.shape != expected[name].shape:
                raise ValueError(
                    f"'{prefix}.{name}' is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}, of {what} "
                    "with its stem for large images"
                )
        part.load_state_dict(found)
    for part in places.values():
        _freeze(part)


class _Scaled(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """torchvision's normalising and scaling of images; what comes as one tensor already has its size."""

    def forward(self, images: Any, targets: Any = None) -> Any:
        if not isinstance(images, Tensor):
            return super().forward(images, targets)
        sizes = [(images.shape[-2], images.shape[-1])] * len(images)
        return ImageList(self.batch_images([self.normalize(image) for image in images]), sizes), targets


class _FasterRCNN(FasterRCNN):  # type: ignore[misc]
    head_names: tuple[str, ...] = ("rpn", "roi_heads.box_predictor")
    """The parts that stay in full precision unless they are asked for."""

    def load_pretrained(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the four stages of a ResNet-18 classifier and freeze its batch normalisation.

        Raises:
            ValueError: a weight is missing, or has another shape.
        """
        body: Any = getattr(self.backbone, "body", self.backbone)
        places = {name: getattr(body, name) for name in ("conv1", "bn1", "layer1", "layer2", "layer3")}
        places["layer4"] = body.layer4 if hasattr(body, "layer4") else self.roi_heads.box_head.layer4
        _load(places, tensors, "a ResNet-18")
        _freeze(body)  # the stem's, which is a part itself


class _PyramidRCNN(_FasterRCNN):
    head_names = ("backbone.fpn", "rpn", "roi_heads")


def _sides(name: str, input_shape: tuple[int, ...]) -> tuple[int, int]:
    """Shorter and longer side that images are brought to."""
    if len(input_shape) != 3 or input_shape[0] != 3 or not 64 <= input_shape[1] <= input_shape[2]:
        raise ValueError(
            f"{name} takes colour images: input_shape=(3, shorter side, longer side) with at least 64 pixels, "
            f"got input_shape={input_shape}; choose another architecture for this task"
        )
    return input_shape[1], input_shape[2]


def _faster_rcnn(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    short, long = _sides("faster_rcnn", input_shape)
    net = models.resnet18()
    stem = OrderedDict[str, nn.Module](conv1=net.conv1, bn1=net.bn1, relu=net.relu, maxpool=net.maxpool)
    backbone: Any = nn.Sequential(stem | {name: net.get_submodule(name) for name in ("layer1", "layer2", "layer3")})
    backbone.out_channels = 256  # where torchvision's detector looks for it
    small = short < _SMALL
    model = _FasterRCNN(
        backbone,
        min_size=short,
        max_size=long,
        rpn_anchor_generator=AnchorGenerator((tuple(short * share for share in _ANCHORS),), ((0.5, 1.0, 2.0),)),
        rpn_post_nms_top_n_test=100 if small else 300,
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=7 if small else 14, sampling_ratio=2),
        box_head=nn.Sequential(
            OrderedDict[str, nn.Module](layer4=net.layer4, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
        ),
        box_predictor=FastRCNNPredictor(512, outputs + 1),
        box_batch_size_per_image=32 if small else 128,
    )
    return _scaled(model, short, long)


def _faster_rcnn_fpn(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    short, long = _sides("faster_rcnn_fpn", input_shape)
    layers = {f"layer{stage}": str(stage - 1) for stage in range(1, 5)}
    sizes = tuple((short * share,) for share in _ANCHORS)  # one a level, and one for the pool above them
    model = _PyramidRCNN(
        BackboneWithFPN(models.resnet18(), layers, [64, 128, 256, 512], 256),
        outputs + 1,
        min_size=short,
        max_size=long,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        box_batch_size_per_image=64 if short < _SMALL else 512,
    )
    return _scaled(model, short, long)


def _scaled(model: _FasterRCNN, short: int, long: int) -> nn.Module:
    model.transform = _Scaled(short, long, model.transform.image_mean, model.transform.image_std)
    return model


class _SSD300(SSD):  # type: ignore[misc]
    head_names = ("backbone.extra.1", "backbone.extra.2", "backbone.extra.3", "backbone.extra.4", "head")
    """The layers that SSD adds to VGG-16, and its predictors."""

    def load_pretrained(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the convolutions of a VGG-16 classifier and freeze its batch normalisation, where it has some.

        The two layers that SSD makes of the classifier's first ones, conv6 and conv7, start fresh.

        Raises:
            ValueError: a weight is missing, or has another shape.
        """
        features, rest = self.backbone.features, self.backbone.extra[0]
        modules = [*features, *rest[:-1]]
        places = {f"features.{index}": module for index, module in enumerate(modules) if list(module.parameters())}
        what = "a VGG-16 with batch norm" if any(isinstance(m, nn.BatchNorm2d) for m in modules) else "a VGG-16"
        _load(places, tensors, what)
        _freeze(features)
        _freeze(rest)


def _ssd300(input_shape: tuple[int, ...], outputs: int, *, batch_norm: bool) -> nn.Module:
    _sides("ssd300", input_shape)
    layers = make_layers(cfgs["D"], batch_norm=batch_norm)
    initialise(layers)
    # Boxes and steps of the original at 300 pixels (Liu et al., 2016, section 3.1 and its released configuration).
    boxes = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )
    return _SSD300(SSDFeatureExtractorVGG(layers, False), boxes, (300, 300), outputs + 1)


_REN = "Ren et al., Faster R-CNN, NeurIPS 2015"
_LIU = "Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016"

faster_rcnn = Architecture(
    name="faster_rcnn",
    title="Faster-RCNN",
    family="cnns",
    modality="detection",
    build=_faster_rcnn,
    source=f"{_REN}; on ResNet-18 (He et al., CVPR 2016): features of stage 3, stage 4 on each region; torchvision",
)
"""Faster R-CNN on the features of ResNet-18's third stage, stride 16 (C4); the fourth stage works on each region.

Binarized are the convolutions of all four stages but the stem and the 1x1 shortcuts; the region proposal network and
the two predictors are the heads. Anchors have sides of 4, 8, 16, 32 and 64 % of the image's shorter side, 128 regions
of 14x14 cells an image are trained on and 300 looked at in a test; where the shorter side is below 320 pixels, 32, 7x7
and 100. One tensor of images, such as an example, is taken at its own size, a list of images is scaled.

>>> import torch
>>> model = faster_rcnn.build((3, 160, 267), 20).eval()
>>> [sorted(found) for found in model([torch.rand(3, 120, 200)])]
[['boxes', 'labels', 'scores']]
"""

faster_rcnn_fpn = Architecture(
    name="faster_rcnn_fpn",
    title="Faster-RCNN FPN",
    family="cnns",
    modality="detection",
    build=_faster_rcnn_fpn,
    source=f"{_REN}; with Lin et al., Feature Pyramid Networks, CVPR 2017, on ResNet-18; torchvision",
)
"""Faster R-CNN on a feature pyramid over ResNet-18's four stages, which are the binarized part; the rest is heads."""

ssd300 = Architecture(
    name="ssd300",
    title="SSD300",
    family="cnns",
    modality="detection",
    build=partial(_ssd300, batch_norm=False),
    source=f"{_LIU}; on VGG-16 (Simonyan & Zisserman, ICLR 2015); torchvision",
)
"""SSD at 300x300 pixels on VGG-16 without batch norm, as the original.

Binarized are VGG-16's convolutions but the first, and conv6 and conv7 in place of its classifier; the extra layers
conv8 to conv11 and the predictors are the heads. Every image is scaled to 300x300, whatever the task's size.

>>> import torch
>>> model = ssd300.build((3, 300, 500), 20)
>>> sorted(model([torch.rand(3, 60, 90)], [{"boxes": torch.tensor([[9., 9, 40, 50]]), "labels": torch.tensor([3])}]))
['bbox_regression', 'classification']
"""

ssd300_bn = Architecture(
    name="ssd300_bn",
    title="SSD300 BN",
    family="cnns",
    modality="detection",
    build=partial(_ssd300, batch_norm=True),
    source=f"{_LIU}; on VGG-16 (Simonyan & Zisserman, ICLR 2015) with batch norm after each convolution; torchvision",
)
"""``ssd300`` on VGG-16 with batch norm after each of its 13 convolutions."""
