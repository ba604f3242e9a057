"""The binarized layers. Each takes its maths from an `Algorithm`; none knows which one it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bibench import registry
from bibench.algorithms import Algorithm, LayerSpec, Rule

__all__ = [
    "AlgorithmError",
    "BinarizeError",
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryConv3d",
    "BinaryLayer",
    "BinaryLinear",
    "BinaryMatmul",
    "resolve",
]

PaddingValue = Literal[-1, 0, 1]


class BinarizeError(ValueError):
    """A model that can't be binarized as asked; the message says why and what to do."""


class AlgorithmError(ValueError):
    """What was given as an algorithm isn't one, or not with these options."""


def resolve(algorithm: str | Algorithm | Callable[..., Algorithm], **options: Any) -> Algorithm:
    """Turn a name, an algorithm or a function that returns one into an `Algorithm`.

    Raises:
        UnknownName: no algorithm of that name.
        AlgorithmError: no algorithm, options that it doesn't have, or values that it doesn't take.

    >>> resolve("recu", quantile="empirical").title
    'ReCU'
    """
    if isinstance(algorithm, Algorithm):
        if options:
            raise AlgorithmError(f"options {options} given with an Algorithm that is already built")
        return algorithm
    if algorithm == "fp32":
        raise AlgorithmError("'fp32' is full precision: there is nothing to binarize")
    if not isinstance(algorithm, str) and not callable(algorithm):
        raise AlgorithmError(
            f"algorithm {algorithm!r} is of type {type(algorithm).__name__}, expected a name, a "
            "bibench.algorithms.Algorithm or a function that returns one"
        )
    factory = registry.get("algorithms", algorithm) if isinstance(algorithm, str) else algorithm
    if isinstance(factory, Algorithm):
        return resolve(factory, **options)
    try:
        built = factory(**options)
    except TypeError as error:
        raise AlgorithmError(f"algorithm {algorithm!r} with options {options}: {error}") from error
    except registry.UnknownName:
        raise
    except ValueError as error:
        raise AlgorithmError(str(error)) from error
    if not isinstance(built, Algorithm):
        raise AlgorithmError(
            f"algorithm {algorithm!r} returned {type(built).__name__}, expected bibench.algorithms.Algorithm"
        )
    return built


class BinaryLayer(nn.Module):
    """What the binarized convolutions and linear layers share: ``y = product(activation(x), weight(w))·scale + bias``.

    Attributes:
        algorithm: name of the algorithm.
        weight_rule, activation_rule: how the operands become two-valued.
        scale: the scale of the product, or None.
    """

    weight: Tensor
    bias: Any  # a parameter or None; torch's own annotations differ between layers
    algorithm: str
    weight_rule: Rule
    activation_rule: Rule
    scale: nn.Module | None

    def _attach(self, algorithm: Algorithm, spec: LayerSpec) -> None:
        self.algorithm = algorithm.name
        self.spec = spec
        self.weight_rule = algorithm.weight(spec)
        self.activation_rule = algorithm.activation(spec)
        self.scale = algorithm.scale(spec)

    def _product(self, activation: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def binary_weight(self) -> Tensor:
        """The two-valued weight as it is deployed, whatever the mode: shape of the latent weight, no gradient."""
        training = self.weight_rule.training
        with torch.no_grad():
            binary: Tensor = self.weight_rule.eval()(self.weight)
        self.weight_rule.train(training)
        return binary

    def forward(self, input: Tensor) -> Tensor:
        product = self._product(self.activation_rule(input), self.weight_rule(self.weight))
        amplitude = self.activation_rule.amplitude()
        if amplitude is not None:
            product = product * amplitude.to(product.dtype)
        if self.scale is not None:
            product = self.scale(product, input, self.weight)
        if self.bias is not None:
            product = product + self.bias.view(self.spec.per_channel).to(product.dtype)
        return product

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, algorithm={self.algorithm}"


class _BinaryConv(BinaryLayer):
    _dims: int
    _function: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        algorithm: str | Algorithm | Callable[..., Algorithm],
        padding_value: PaddingValue = 0,
        output_size: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self._finish(resolve(algorithm), padding_value, output_size)

    @classmethod
    def from_float(
        cls,
        module: nn.modules.conv._ConvNd,
        algorithm: Algorithm,
        *,
        padding_value: PaddingValue = 0,
        output_size: tuple[int, ...] | None = None,
    ) -> _BinaryConv:
        """A binarized layer that shares the parameters of a full-precision one."""
        layer: _BinaryConv = _shell(cls, module)
        layer._finish(algorithm, padding_value, output_size)
        layer.train(module.training)
        return layer

    def _finish(self, algorithm: Algorithm, padding_value: int, output_size: tuple[int, ...] | None) -> None:
        conv: Any = self
        if padding_value not in (-1, 0, 1):
            raise ValueError(f"padding_value={padding_value!r}: expected -1, 0 or 1")
        self.padding_value = padding_value
        spec = LayerSpec(
            dims=self._dims,
            in_features=conv.in_channels,
            out_features=conv.out_channels,
            weight_shape=tuple(conv.weight.shape),
            groups=conv.groups,
            stride=conv.stride,
            dilation=conv.dilation,
            pads=tuple(conv._reversed_padding_repeated_twice),
            padding_mode=conv.padding_mode,
            padding_value=padding_value,
            output_size=output_size,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        self._attach(algorithm, spec)
        low, high = self.activation_rule.values
        self._pad_with = {-1: low, 0: 0, 1: high}[padding_value]
        # torch's own zero padding is free; every other kind is applied to the binarized operand first.
        self._pads_first = conv.padding_mode != "zeros" or self._pad_with != 0

    def _product(self, activation: Tensor, weight: Tensor) -> Tensor:
        conv: Any = self
        padding = conv.padding
        if self._pads_first:
            activation = self.spec.pad(activation, self._pad_with)
            padding = 0
        function = type(self)._function
        return function(activation, weight, None, conv.stride, padding, conv.dilation, conv.groups)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", padding_value={self.padding_value}" if self.padding_value else "")


def _shell(cls: type[Any], module: nn.Module) -> Any:
    """A layer of class ``cls`` with the settings and the very parameters of ``module``; nothing is allocated."""
    layer: Any = object.__new__(cls)
    nn.Module.__init__(layer)
    settings = {name: value for name, value in vars(module).items() if name not in vars(layer)}
    vars(layer).update(settings)
    layer.weight = module.weight
    layer.register_parameter("bias", module.bias)
    return layer


class BinaryConv1d(_BinaryConv, nn.Conv1d):
    """A binarized ``torch.nn.Conv1d``; input (N, C, L) or (C, L).

    Args:
        algorithm: name, `Algorithm`, or function that returns one.
        padding_value: what the binarized operand is padded with in mode ``"zeros"``: 0 (PyTorch's), +1 (Larq Compute
            Engine's) or -1 (daBNN's); for operands in {0, 1}, -1 means their lower value, 0.
        output_size: spatial size of the largest output, for algorithms that learn a scale per position.

    >>> layer = BinaryConv1d(3, 8, 5, padding=2, algorithm="dorefa")
    >>> layer(torch.randn(2, 3, 16)).shape
    torch.Size([2, 8, 16])
    """

    _dims = 1
    _function = staticmethod(F.conv1d)


class BinaryConv2d(_BinaryConv, nn.Conv2d):
    """A binarized ``torch.nn.Conv2d``; input (N, C, H, W) or (C, H, W). Arguments as `BinaryConv1d`.

    >>> layer = BinaryConv2d(16, 32, 3, padding=1, algorithm="xnorpp", output_size=(8, 8))
    >>> layer(torch.randn(2, 16, 8, 8)).shape
    torch.Size([2, 32, 8, 8])
    """

    _dims = 2
    _function = staticmethod(F.conv2d)


class BinaryConv3d(_BinaryConv, nn.Conv3d):
    """A binarized ``torch.nn.Conv3d``; input (N, C, D, H, W) or (C, D, H, W). Arguments as `BinaryConv1d`.

    >>> layer = BinaryConv3d(2, 4, 3, algorithm="bnn")
    >>> layer(torch.randn(1, 2, 5, 5, 5)).shape
    torch.Size([1, 4, 3, 3, 3])
    """

    _dims = 3
    _function = staticmethod(F.conv3d)


class BinaryLinear(BinaryLayer, nn.Linear):
    """A binarized ``torch.nn.Linear``; input (..., in_features).

    Args:
        algorithm: name, `Algorithm`, or function that returns one.

    >>> BinaryLinear(16, 4, algorithm="reactnet")(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 4])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        algorithm: str | Algorithm | Callable[..., Algorithm],
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self._finish(resolve(algorithm))

    @classmethod
    def from_float(cls, module: nn.Linear, algorithm: Algorithm) -> BinaryLinear:
        """A binarized layer that shares the parameters of a full-precision one."""
        layer: BinaryLinear = _shell(cls, module)
        layer._finish(algorithm)
        layer.train(module.training)
        return layer

    def _finish(self, algorithm: Algorithm) -> None:
        spec = LayerSpec(
            dims=0,
            in_features=self.in_features,
            out_features=self.out_features,
            weight_shape=tuple(self.weight.shape),
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        self._attach(algorithm, spec)

    def _product(self, activation: Tensor, weight: Tensor) -> Tensor:
        return F.linear(activation, weight)


class BinaryMatmul(nn.Module):
    """The product of two binarized activations, as in attention: ``y = A(a) · A(b)``, no scale.

    Both operands go through the algorithm's activation rule, with their own parameters over their last dimension.

    Args:
        left_features, right_features: size of the last dimension of ``a`` and of ``b``.
        transpose_right: compute ``A(a) · A(b)ᵀ``, as for the scores of queries and keys.
        algorithm: name, `Algorithm`, or function that returns one.

    >>> scores = BinaryMatmul(64, 64, transpose_right=True, algorithm="bireal")
    >>> scores(torch.randn(2, 4, 10, 64), torch.randn(2, 4, 12, 64)).shape
    torch.Size([2, 4, 10, 12])
    """

    def __init__(
        self,
        left_features: int,
        right_features: int,
        *,
        transpose_right: bool = False,
        algorithm: str | Algorithm | Callable[..., Algorithm],
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        resolved = resolve(algorithm)
        self.algorithm = resolved.name
        self.transpose_right = transpose_right
        self.left_rule, self.right_rule = (
            resolved.activation(LayerSpec(dims=0, in_features=n, out_features=n, device=device, dtype=dtype))
            for n in (left_features, right_features)
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        right = self.right_rule(b)
        product = torch.matmul(self.left_rule(a), right.transpose(-1, -2) if self.transpose_right else right)
        for rule in (self.left_rule, self.right_rule):
            amplitude = rule.amplitude()
            if amplitude is not None:
                product = product * amplitude.to(product.dtype)
        return product

    def extra_repr(self) -> str:
        return f"transpose_right={self.transpose_right}, algorithm={self.algorithm}"
