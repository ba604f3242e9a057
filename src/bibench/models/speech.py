"""FSMN and Deep-FSMN: spoken words from log-mel bands, by layers with a short memory."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from bibench.models.base import Architecture

__all__ = ["FSMN", "MemoryLayer", "d_fsmn", "fsmn"]


def _quarter(size: int) -> int:
    """What two convolutions of stride 2 leave of a size."""
    return -(-size // 4)


class MemoryLayer(nn.Module):
    """One layer: a memory over the time of each channel, then a transform over the channels of each time.

    ``m = relu(bn(memory(x)))`` with a filter of its own for each channel over ``left`` past times, the present and
    ``right`` coming ones; ``y = relu(bn(narrow(relu(bn(widen(m))))))`` with two 1x1 convolutions. With ``skip`` each of
    the two adds its input: ``m + x`` and ``y + m``.

    Args:
        channels: of the input and the output.
        hidden: channels between the two convolutions of the transform.
        left, right: reach of the memory, both alike, so that times stay where they are.
        skip: add the input around memory and transform.

    Raises:
        ValueError: another reach to the left than to the right.

    Input and output: ``(batch, channels, times)``.
    """

    def __init__(self, channels: int, hidden: int, *, left: int = 2, right: int = 2, skip: bool = False) -> None:
        super().__init__()
        if left != right:
            raise ValueError(f"left={left}, right={right}: expected the same reach to both sides")
        self.skip = skip
        memory = nn.Conv1d(channels, channels, left + 1 + right, padding=left, groups=channels, bias=False)
        self.memory = nn.Sequential(
            OrderedDict[str, nn.Module]([("conv", memory), ("bn", nn.BatchNorm1d(channels)), ("relu", nn.ReLU())])
        )
        self.transform = nn.Sequential(
            OrderedDict[str, nn.Module](
                [
                    ("conv1", nn.Conv1d(channels, hidden, 1, bias=False)),
                    ("bn1", nn.BatchNorm1d(hidden)),
                    ("relu1", nn.ReLU()),
                    ("conv2", nn.Conv1d(hidden, channels, 1, bias=False)),
                    ("bn2", nn.BatchNorm1d(channels)),
                    ("relu2", nn.ReLU()),
                ]
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, of the input's shape."""
        if not self.skip:
            transformed: Tensor = self.transform(self.memory(x))
            return transformed
        remembered: Tensor = self.memory(x) + x
        transformed = self.transform(remembered)
        return transformed + remembered


class FSMN(nn.Module):
    """A front end of two 5x5 convolutions, a linear layer, memory layers, and a classifier over all times.

    Args:
        bands, times: size of the input.
        classes: number of outputs.
        layers: memory layers.
        skip: skips around memory and transform, as Deep-FSMN has them.

    Input: ``(batch, 1, bands, times)``. Output: ``(batch, classes)``.

    >>> import torch
    >>> FSMN(32, 32, 12)(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 12])
    """

    def __init__(self, bands: int, times: int, classes: int, *, layers: int = 8, skip: bool = False) -> None:
        super().__init__()
        self.front = nn.Sequential(
            OrderedDict[str, nn.Module](
                [
                    ("conv1", nn.Conv2d(1, 16, 5, stride=2, padding=2, bias=False)),
                    ("bn1", nn.BatchNorm2d(16)),
                    ("relu1", nn.ReLU()),
                    ("conv2", nn.Conv2d(16, 32, 5, stride=2, padding=2, bias=False)),
                    ("bn2", nn.BatchNorm2d(32)),
                    ("relu2", nn.ReLU()),
                    ("flatten", nn.Flatten(1, 2)),
                ]
            )
        )
        self.linear = nn.Linear(32 * _quarter(bands), 128)
        self.relu = nn.ReLU()
        self.layers = nn.Sequential(*(MemoryLayer(128, 256, skip=skip) for _ in range(layers)))
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(128 * _quarter(times), classes)

    def forward(self, features: Tensor) -> Tensor:
        """One logit a class."""
        by_time = self.front(features).transpose(1, 2)
        x = self.relu(self.linear(by_time)).transpose(1, 2)
        logits: Tensor = self.fc(self.flatten(self.layers(x)))
        return logits


def _build(name: str, input_shape: tuple[int, ...], outputs: int, skip: bool) -> nn.Module:
    if len(input_shape) != 3 or input_shape[0] != 1 or min(input_shape) < 1:
        raise ValueError(
            f"{name} takes bands over time, input_shape=(1, bands, times), got input_shape={input_shape}; "
            "choose another architecture for this task"
        )
    _, bands, times = input_shape
    return FSMN(bands, times, outputs, skip=skip)


def _fsmn(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return _build("fsmn", input_shape, outputs, skip=False)


def _d_fsmn(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return _build("d_fsmn", input_shape, outputs, skip=True)


fsmn = Architecture(
    name="fsmn",
    title="FSMN",
    family="mlps",
    modality="speech",
    build=_fsmn,
    source="Zhang et al., Feedforward sequential memory networks, 2015; sizes as in Qin et al., BiFSMN, 2022",
)
"""8 memory layers of 128 channels.

>>> sum(parameter.numel() for parameter in fsmn.build((1, 32, 32), 12).parameters())
596092
"""

d_fsmn = Architecture(
    name="d_fsmn",
    title="Deep-FSMN",
    family="mlps",
    modality="speech",
    build=_d_fsmn,
    source="Zhang et al., Deep-FSMN for large vocabulary continuous speech recognition, 2018; sizes as in BiFSMN, 2022",
)
"""The same layers with skips around each memory and each transform; no parameter more."""
