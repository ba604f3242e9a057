"""Networks for image classification: convolutional ones, and two small others.

What torchvision has comes from there (with fresh weights); the rest is a plain sequence of named modules. Activations,
pooling and flattening are modules too, never function calls, since a conversion replaces them.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import cfgs, make_layers

from bibench.models.base import Architecture

__all__ = [
    "digits_cnn",
    "digits_mlp",
    "digits_transformer",
    "mobilenet_v2",
    "resnet18",
    "resnet20",
    "resnet20e",
    "resnet34",
    "resnet34e",
    "vgg16",
    "vgg_small",
]

_SMALL = 64
"""Images up to this side (CIFAR, Tiny ImageNet) get the stem for small images."""


def _size(name: str, input_shape: tuple[int, ...], least: int) -> tuple[int, int, int]:
    """Channels, height and width of an input shape, checked."""
    if len(input_shape) != 3 or input_shape[0] < 1 or min(input_shape[1:]) < least:
        raise ValueError(
            f"{name} takes images of shape (channels, height, width) of at least {least}x{least} pixels, "
            f"got input_shape={input_shape}; choose another architecture for this task"
        )
    channels, height, width = input_shape
    return channels, height, width


def initialise(model: nn.Module) -> nn.Module:
    """Draw convolutions from N(0, 2/fan_out) (He et al., 2015), biases 0, as torchvision's ResNet and VGG do."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


class _SkipBlock(BasicBlock):  # type: ignore[misc]  # torchvision has no types
    """A ResNet block with a skip past each of its two convolutions: ``y = relu(bn(conv(x)) + skip(x))``, twice.

    Its layers and their names are those of torchvision's block; the projection, where there is one, is the first skip.
    """

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)) + skip)
        y: Tensor = self.relu(self.bn2(self.conv2(x)) + x)
        return y


def _torchvision_resnet(
    name: str,
    blocks: list[int],
    input_shape: tuple[int, ...],
    outputs: int,
    block: type[BasicBlock] = BasicBlock,
) -> nn.Module:
    channels, height, width = _size(name, input_shape, 8)
    model: nn.Module = models.ResNet(block, blocks, num_classes=outputs)
    if max(height, width) <= _SMALL:
        model.conv1 = _conv3x3(channels, 64)
        model.maxpool = nn.Identity()
    elif channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return initialise(model)


def _resnet18(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return _torchvision_resnet("resnet18", [2, 2, 2, 2], input_shape, outputs)


def _resnet34(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return _torchvision_resnet("resnet34", [3, 4, 6, 3], input_shape, outputs)


def _resnet34e(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return _torchvision_resnet("resnet34e", [3, 4, 6, 3], input_shape, outputs, _SkipBlock)


def _stage(block: type[BasicBlock], inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """Residual blocks, the first of which changes the shape through a projection shortcut where it must."""
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
    first = block(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(block(outputs, outputs) for _ in range(blocks - 1)))


def _cifar_resnet(name: str, input_shape: tuple[int, ...], outputs: int, block: type[BasicBlock]) -> nn.Module:
    channels, _, _ = _size(name, input_shape, 4)
    return initialise(
        nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=_conv3x3(channels, 16),
                bn1=nn.BatchNorm2d(16),
                relu=nn.ReLU(inplace=True),
                layer1=_stage(block, 16, 16, blocks=3, stride=1),
                layer2=_stage(block, 16, 32, blocks=3, stride=2),
                layer3=_stage(block, 32, 64, blocks=3, stride=2),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(64, outputs),
            )
        )
    )


def _resnet20(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return _cifar_resnet("resnet20", input_shape, outputs, BasicBlock)


def _resnet20e(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return _cifar_resnet("resnet20e", input_shape, outputs, _SkipBlock)


def _block(number: int, inputs: int, outputs: int, stride: int = 1) -> dict[str, nn.Module]:
    """A convolution with batch normalisation and ReLU, numbered from 1."""
    return {
        f"conv{number}": _conv3x3(inputs, outputs, stride),
        f"bn{number}": nn.BatchNorm2d(outputs),
        f"relu{number}": nn.ReLU(inplace=True),
    }


def _vgg_small(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    channels, height, width = _size("vgg_small", input_shape, 8)
    return initialise(
        nn.Sequential(
            OrderedDict[str, nn.Module](
                **_block(1, channels, 128),
                **_block(2, 128, 128),
                pool1=nn.MaxPool2d(2),
                **_block(3, 128, 256),
                **_block(4, 256, 256),
                pool2=nn.MaxPool2d(2),
                **_block(5, 256, 512),
                **_block(6, 512, 512),
                pool3=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc=nn.Linear(512 * (height // 8) * (width // 8), outputs),
            )
        )
    )


def _vgg16(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    channels, height, width = _size("vgg16", input_shape, 32)
    features = make_layers(cfgs["D"], batch_norm=True)
    if channels != 3:
        features[0] = nn.Conv2d(channels, 64, kernel_size=3, padding=1)
    if max(height, width) > _SMALL:
        return initialise(models.VGG(features, num_classes=outputs))
    return initialise(
        nn.Sequential(
            OrderedDict[str, nn.Module](
                features=features,
                flatten=nn.Flatten(),
                fc=nn.Linear(512 * (height // 32) * (width // 32), outputs),
            )
        )
    )


def _digits_cnn(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    channels, height, width = _size("digits_cnn", input_shape, 2)
    return initialise(
        nn.Sequential(
            OrderedDict[str, nn.Module](
                **_block(1, channels, 32),
                **_block(2, 32, 64, stride=2),  # max-pooling would leave few -1 for the next sign
                **_block(3, 64, 64),
                flatten=nn.Flatten(),
                fc=nn.Linear(64 * ((height + 1) // 2) * ((width + 1) // 2), outputs),
            )
        )
    )


def _dense(number: int, inputs: int, outputs: int) -> dict[str, nn.Module]:
    """A linear layer with batch normalisation and ReLU, numbered from 1."""
    return {
        f"linear{number}": nn.Linear(inputs, outputs, bias=False),
        f"bn{number}": nn.BatchNorm1d(outputs),
        f"relu{number}": nn.ReLU(inplace=True),
    }


def _digits_mlp(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    channels, height, width = _size("digits_mlp", input_shape, 2)
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            flatten=nn.Flatten(),
            **_dense(1, channels * height * width, 256),
            **_dense(2, 256, 256),
            **_dense(3, 256, 256),
            fc=nn.Linear(256, outputs),
        )
    )


class _Attention(nn.Module):
    """Multi-head self-attention whose four projections are linear layers of their own, so that each can be replaced."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """``softmax(q kᵀ / sqrt(width / heads)) v`` of each head, projected; (N, tokens, width) to the same shape."""
        query, key, value = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        shares = self.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]))
        mixed: Tensor = self.out((shares @ value).transpose(1, 2).flatten(2))
        return mixed


class _Block(nn.Module):
    """Attention and feed-forward, each normalised before (Xiong et al., 2020) and added to its input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.feedforward(self.norm2(x))
        return y


class _Transformer(nn.Module):
    """An image's rows as tokens, linear embedding plus learned positions, a block, the tokens' mean, a classifier."""

    def __init__(self, features: int, tokens: int, outputs: int, *, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(features, width)
        # As large as what they are added to: with the usual 0.02 the tokens' mean hardly knows where anything is, and a
        # short training ends before it has learned it.
        self.positions = nn.Parameter(torch.randn(tokens, width))
        self.block = _Block(width, heads, hidden)
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.transpose(1, 2).flatten(2)  # (N, height, channels · width)
        tokens = self.block(self.embedding(rows) + self.positions)
        logits: Tensor = self.fc(self.norm(tokens).mean(dim=1))
        return logits


def _digits_transformer(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    channels, height, width = _size("digits_transformer", input_shape, 2)
    return _Transformer(channels * width, height, outputs, width=64, heads=4, hidden=128)


def _mobilenet_v2(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    channels, height, width = _size("mobilenet_v2", input_shape, 8)
    small = max(height, width) <= _SMALL
    # expansion, channels, blocks, stride: table 2 of the paper
    settings = [
        [1, 16, 1, 1],
        [6, 24, 2, 1 if small else 2],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    model: nn.Module = models.MobileNetV2(num_classes=outputs, inverted_residual_setting=settings)
    stem = model.get_submodule("features.0")
    assert isinstance(stem, nn.Sequential)
    stem[0] = _conv3x3(channels, 32, stride=1 if small else 2)
    return initialise(model)


_HE = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
_SKIPS = (
    "a skip past every convolution: Bethge et al., Back to Simplicity: How to Train Accurate BNNs from Scratch?, 2019, "
    "as in Partial pre-training, section 4.1; ReLU after each sum and projections of ResNet"
)
_STEM = "torchvision; images up to 64x64 pixels: 3x3 stem of stride 1, no max-pool (the usual CIFAR adaptation)"

resnet18 = Architecture(
    name="resnet18",
    title="ResNet-18",
    family="cnns",
    modality="image",
    build=_resnet18,
    source=f"{_HE}, table 1; {_STEM}",
)
"""ResNet-18 of torchvision; for images up to 64x64 pixels the stem is 3x3 of stride 1, without max-pool.

>>> resnet18.build((3, 32, 32), 10).conv1
Conv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
"""

resnet34 = Architecture(
    name="resnet34",
    title="ResNet-34",
    family="cnns",
    modality="image",
    build=_resnet34,
    source=f"{_HE}, table 1; {_STEM}",
)
"""ResNet-34 of torchvision, with the stem of ``resnet18`` for small images."""

resnet20 = Architecture(
    name="resnet20",
    title="ResNet-20",
    family="cnns",
    modality="image",
    build=_resnet20,
    source=f"{_HE}, section 4.2, with projection shortcuts (option B)",
)
"""The CIFAR ResNet with 3 stages of 3 blocks, 16-32-64 channels, and 1x1 projections where the shape changes.

>>> sum(parameter.numel() for parameter in resnet20.build((3, 32, 32), 10).parameters())
272474
"""

resnet20e = Architecture(
    name="resnet20e",
    title="ResNetE-20",
    family="cnns",
    modality="image",
    build=_resnet20e,
    source=f"{_HE}, section 4.2, with projection shortcuts (option B); {_SKIPS}",
)
"""``resnet20`` with a skip past each of the 18 3x3 convolutions after the stem; layers and their names are the same.

>>> sum(parameter.numel() for parameter in resnet20e.build((3, 32, 32), 10).parameters())
272474
"""

resnet34e = Architecture(
    name="resnet34e",
    title="ResNetE-34",
    family="cnns",
    modality="image",
    build=_resnet34e,
    source=f"{_HE}, table 1; {_STEM}; {_SKIPS}",
)
"""``resnet34`` with a skip past each of the 32 3x3 convolutions after the stem; layers and their names are the same."""

vgg16 = Architecture(
    name="vgg16",
    title="VGG-16",
    family="cnns",
    modality="image",
    build=_vgg16,
    source="Simonyan & Zisserman, ICLR 2015, table 1, column D; torchvision, batch norm after each convolution; images "
    "up to 64x64 pixels: one linear classifier (the usual CIFAR adaptation)",
)
"""VGG-16 of torchvision with BN; for images up to 64x64 pixels the classifier is one linear layer.

>>> vgg16.build((3, 32, 32), 10).fc
Linear(in_features=512, out_features=10, bias=True)
"""

vgg_small = Architecture(
    name="vgg_small",
    title="VGG-Small",
    family="cnns",
    modality="image",
    build=_vgg_small,
    source="Zhang et al., LQ-Nets, ECCV 2018, after Simonyan & Zisserman, ICLR 2015; batch norm after each convolution",
)
"""3x3 convolutions 128-128-pool-256-256-pool-512-512-pool, BN and ReLU after each, and a linear classifier.

>>> vgg_small.build((3, 32, 32), 10).fc
Linear(in_features=8192, out_features=10, bias=True)
"""

mobilenet_v2 = Architecture(
    name="mobilenet_v2",
    title="MobileNetV2",
    family="cnns",
    modality="image",
    build=_mobilenet_v2,
    source="Sandler et al., MobileNetV2, CVPR 2018; torchvision; images up to 64x64 pixels: stride 1 in the stem and "
    "in the 24-channel stage (the usual CIFAR adaptation)",
)
"""MobileNetV2 of torchvision; for images up to 64x64 pixels the first two strides are 1.

>>> mobilenet_v2.build((3, 32, 32), 10).classifier[1]
Linear(in_features=1280, out_features=10, bias=True)
"""

digits_cnn = Architecture(
    name="digits_cnn",
    title="Digits CNN",
    family="cnns",
    modality="image",
    build=_digits_cnn,
    source="this package: the smallest network that shows the differences between algorithms in seconds",
)
"""3x3 convolutions 32-64-64, the second of stride 2, BN and ReLU after each, and a linear classifier.

>>> digits_cnn.build((1, 8, 8), 10).fc
Linear(in_features=1024, out_features=10, bias=True)
"""

digits_mlp = Architecture(
    name="digits_mlp",
    title="Digits MLP",
    family="mlps",
    modality="image",
    build=_digits_mlp,
    source="this package: a small network of linear layers, to see the algorithms on this family in seconds",
)
"""Three hidden linear layers of 256 units, BN and ReLU after each, and a linear classifier.

>>> digits_mlp.build((1, 8, 8), 10).linear1
Linear(in_features=64, out_features=256, bias=False)
"""

digits_transformer = Architecture(
    name="digits_transformer",
    title="Digits transformer",
    family="transformers",
    modality="image",
    build=_digits_transformer,
    source="this package: a small encoder after Dosovitskiy et al., ViT, ICLR 2021, with norms before each part (Xiong "
    "et al., On Layer Normalization in the Transformer Architecture, ICML 2020), ReLU, and the tokens' mean",
)
"""One encoder block of width 64 with 4 heads and 128 hidden units over the image's rows, and a linear classifier.

Query, key, value, output and feed-forward are linear layers, which ``bibench.binarize`` replaces. The attention's two
products and its softmax stay in full precision: binarized attention (bi-attention) is not part of this network.

>>> digits_transformer.build((1, 8, 8), 10).block.attention.query
Linear(in_features=64, out_features=64, bias=True)
"""
