"""Every algorithm's forward and gradients once more: float64 NumPy, the chain rule by hand, nothing of the package.

A layer is ``y = product(A(a), W(w)) · scale + bias``. Here ``A``, ``W`` and the scale are written out per algorithm,
each as a value together with a function that takes the gradient back. A linear layer is a convolution without space.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Gradients = dict[str, Array]
Back = Callable[[Array], Gradients]
"""From the gradient of a value to the gradients of what it was computed from, by name."""


@dataclass(frozen=True)
class Case:
    """A small layer: a convolution, or a linear map where ``kernel`` is empty."""

    name: str
    channels: tuple[int, int]
    kernel: tuple[int, ...] = ()
    space: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    batch: int = 3

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.channels[1], self.channels[0] // self.groups, *self.kernel)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels[0], *self.space)

    @property
    def output_size(self) -> tuple[int, ...]:
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(self.space, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )


CASES = [
    Case("linear", (7, 4), batch=6),
    Case("conv1d", (4, 6), (3,), (9,), (2,), (2,), (2,), groups=2),
    Case("conv2d", (3, 4), (3, 2), (5, 4), (2, 1), (1, 1), (1, 1)),
    Case("depthwise", (4, 8), (3, 3), (4, 5), (1, 1), (1, 1), (1, 1), groups=4, batch=2),
    Case("conv3d", (2, 3), (2, 2, 2), (3, 2, 3), (1, 1, 2), (1, 0, 1), (1, 1, 1), batch=2),
]


# The product of the operands


def pad(x: Array, case: Case, value: float = 0.0) -> Array:
    return np.pad(x, [(0, 0), (0, 0), *((p, p) for p in case.padding)], constant_values=value)


def _windows(case: Case) -> list[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """For every position in the kernel, the part of the padded input that meets it."""
    windows = []
    for k in itertools.product(*map(range, case.kernel)):
        part = tuple(
            slice(i * d, i * d + (n - 1) * s + 1, s)
            for i, d, n, s in zip(k, case.dilation, case.output_size, case.stride, strict=True)
        )
        windows.append((k, part))
    return windows


def convolve(x: Array, w: Array, case: Case) -> Array:
    """The convolution of a padded input, position by position and group by group."""
    outputs, inputs = w.shape[0] // case.groups, w.shape[1]
    y = np.zeros((x.shape[0], w.shape[0], *case.output_size))
    for k, part in _windows(case):
        for group in range(case.groups):
            o, c = slice(group * outputs, (group + 1) * outputs), slice(group * inputs, (group + 1) * inputs)
            y[:, o] += np.einsum("nc...,oc->no...", x[(slice(None), c, *part)], w[(o, slice(None), *k)])
    return y


def convolve_back(g: Array, x: Array, w: Array, case: Case) -> tuple[Array, Array]:
    """Gradients of the padded input and of the weight."""
    outputs, inputs = w.shape[0] // case.groups, w.shape[1]
    gx, gw = np.zeros_like(x), np.zeros_like(w)
    for k, part in _windows(case):
        for group in range(case.groups):
            o, c = slice(group * outputs, (group + 1) * outputs), slice(group * inputs, (group + 1) * inputs)
            gx[(slice(None), c, *part)] += np.einsum("no...,oc->nc...", g[:, o], w[(o, slice(None), *k)])
            flat_g = g[:, o].reshape(len(g), outputs, -1)
            flat_x = x[(slice(None), c, *part)].reshape(len(g), inputs, -1)
            gw[(o, slice(None), *k)] += np.einsum("nop,ncp->oc", flat_g, flat_x)
    return gx, gw


def product(
    a: Array, w: Array, case: Case, pad_value: float = 0.0
) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    padded = pad(a, case, pad_value)
    inside = (slice(None), slice(None), *(slice(p, p + n) for p, n in zip(case.padding, case.space, strict=True)))

    def back(g: Array) -> tuple[Array, Array]:
        gx, gw = convolve_back(g, padded, w, case)
        return gx[inside], gw

    return convolve(padded, w, case), back


# What the operands are made of


def sgn(x: Array) -> Array:
    return np.where(x >= 0, 1.0, -1.0)


def hard(x: Array) -> Array:
    return ((x > -1) & (x < 1)).astype(float)


def closed_hard(x: Array) -> Array:
    return ((x >= -1) & (x <= 1)).astype(float)


def approx(x: Array) -> Array:
    rising, falling = (x >= -1) & (x < 0), (x >= 0) & (x < 1)
    return np.where(rising, 2 + 2 * x, 0) + np.where(falling, 2 - 2 * x, 0)


def sign(slope: Callable[[Array], Array], name: str) -> Callable[[Array], tuple[Array, Back]]:
    """sgn(x) with a gradient rule."""
    return lambda x: (sgn(x), lambda g: {name: g * slope(x)})


def column(v: Array, dims: int) -> Array:
    return v.reshape(-1, *(1,) * dims)


def mean_magnitude(w: Array) -> Array:
    return np.array([np.abs(filter_).mean() for filter_ in w])


@dataclass
class Parts:
    """The parts of one algorithm, with which `layer` computes."""

    activation: Callable[[Array], tuple[Array, Back]]
    weight: Callable[[Array], tuple[Array, Back]]
    scale: Callable[[Array, Array, Array], tuple[Array, Back]] | None = None
    """From product, input and latent weight to the scaled product; ``back`` names the product's gradient "product"."""
    weight_gradient: Callable[[Array, Array], Array] = lambda g, w: g
    """What becomes of the gradient of the binarized weight."""


def layer(
    parts: Parts, a: Array, w: Array, bias: Array, g: Array, case: Case, pad_value: float = 0.0
) -> tuple[Array, Gradients]:
    """Output and gradients of one layer for an output gradient ``g``."""
    operand, a_back = parts.activation(a)
    binary, w_back = parts.weight(w)
    y, product_back = product(operand, binary, case, pad_value)
    gradients: Gradients = {"bias": g.sum(axis=(0, *range(2, g.ndim)))}
    if parts.scale is not None:
        y, scale_back = parts.scale(y, a, w)
        gradients.update(scale_back(g))
        g = gradients.pop("product")
    ga, gw = product_back(g)
    gradients.update(a_back(ga))
    gradients.update(w_back(parts.weight_gradient(gw, w)))
    return y + column(bias, len(case.kernel)), gradients


def constant_scale(factor: Callable[[Array, Array], Array]) -> Callable[[Array, Array, Array], tuple[Array, Back]]:
    """A scale without gradient: ``factor(a, w)`` broadcasts over the product."""

    def scale(y: Array, a: Array, w: Array) -> tuple[Array, Back]:
        s = factor(a, w)
        return y * s, lambda g: {"product": g * s}

    return scale


def filter_scale(case: Case) -> Callable[[Array, Array, Array], tuple[Array, Back]]:
    return constant_scale(lambda a, w: column(mean_magnitude(w), len(case.kernel)))


def per_filter(v: Array, w: Array) -> Array:
    return v.reshape(-1, *(1,) * (w.ndim - 1))


def without_scale(g: Array, w: Array) -> Array:
    """The gradient as though the product were not multiplied by the filter's mean magnitude."""
    return g / per_filter(mean_magnitude(w), w)


# The algorithms


def bnn() -> Parts:
    return Parts(sign(hard, "input"), sign(hard, "weight"))


def dorefa(case: Case, *, granularity: str = "channel", scale_in_gradient: bool = True) -> Parts:
    if granularity == "channel":
        return Parts(
            sign(hard, "input"),
            sign(hard, "weight"),
            filter_scale(case),
            (lambda g, w: g) if scale_in_gradient else without_scale,
        )
    return Parts(
        sign(hard, "input"),
        sign(hard, "weight"),
        constant_scale(lambda a, w: np.abs(w).mean()),
        (lambda g, w: g) if scale_in_gradient else (lambda g, w: g / np.abs(w).mean()),
    )


def bireal(case: Case, *, scale_in_gradient: bool = True) -> Parts:
    return Parts(
        sign(approx, "input"),
        sign(hard, "weight"),
        filter_scale(case),
        (lambda g, w: g) if scale_in_gradient else without_scale,
    )


def xnor(case: Case, *, activation_scale: str = "map", scale_in_gradient: bool = True, border: float = 0.0) -> Parts:
    dims = len(case.kernel)

    def factor(a: Array, w: Array) -> Array:
        m = column(mean_magnitude(w), dims)
        if activation_scale == "sample":
            return m * np.array([np.abs(sample).mean() for sample in a]).reshape(-1, *(1,) * (dims + 1))
        if dims == 0:
            return m[None] * np.abs(a).mean(axis=1, keepdims=True)
        size = case.channels[0] // case.groups
        magnitude = np.stack([np.abs(a[:, i * size : (i + 1) * size]).mean(axis=1) for i in range(case.groups)], axis=1)
        box = np.full((case.groups, 1, *case.kernel), 1 / math.prod(case.kernel))
        k = convolve(pad(magnitude, case, border), box, case)
        return m * np.repeat(k, case.channels[1] // case.groups, axis=1)

    return Parts(
        sign(hard, "input"),
        sign(hard, "weight"),
        constant_scale(factor),
        (lambda g, w: g) if scale_in_gradient else without_scale,
    )


def xnorpp(case: Case, alpha: Array, positions: list[Array]) -> Parts:
    """``positions`` may be longer than the output; their beginnings count."""
    names = "opqr"[: 1 + len(case.kernel)]  # output channel, then the spatial dimensions

    def scale(y: Array, a: Array, w: Array) -> tuple[Array, Back]:
        vectors = [alpha, *(v[:n] for v, n in zip(positions, case.output_size, strict=True))]
        gamma = np.einsum(f"{','.join(names)}->{names}", *vectors)

        def back(g: Array) -> Gradients:
            gradients = {"product": g * gamma}
            for i, vector in enumerate((alpha, *positions)):
                others = [v for j, v in enumerate(vectors) if j != i]
                letters = [letter for j, letter in enumerate(names) if j != i]
                inputs = ",".join([f"n{names}", f"n{names}", *letters])
                found = np.einsum(f"{inputs}->{names[i]}", g, y, *others)
                whole = np.zeros_like(vector)
                whole[: len(found)] = found
                gradients["scale.alpha" if i == 0 else f"scale.positions.{i - 1}"] = whole
            return gradients

        return y * gamma, back

    return Parts(sign(hard, "input"), sign(hard, "weight"), scale)


def reactnet(case: Case, threshold: Array, *, scale_in_gradient: bool = True) -> Parts:
    def activation(a: Array) -> tuple[Array, Back]:
        shifted = a - column(threshold, len(case.kernel))

        def back(g: Array) -> Gradients:
            ga = g * approx(shifted)
            return {"input": ga, "activation_rule.threshold": -ga.sum(axis=(0, *range(2, ga.ndim)))}

        return sgn(shifted), back

    return Parts(
        activation,
        sign(hard, "weight"),
        filter_scale(case),
        (lambda g, w: g) if scale_in_gradient else without_scale,
    )


def recu_tau(epoch: int, total: int) -> float:
    a = 0.14 / (math.exp(1) - 1)
    return a * math.exp(epoch / total) + 0.85 - a


def linear_quantile(values: Array, q: float) -> float:
    return float(np.quantile(values, q))


def recu(
    case: Case,
    alpha: Array | None,
    *,
    tau: float,
    quantile: str = "laplace",
    training: bool = True,
) -> Parts:
    """``alpha`` None: the filters' mean magnitudes."""

    def weight(w: Array) -> tuple[Array, Back]:
        count = w[0].size
        centred = np.stack([filter_ - filter_.mean() for filter_ in w])
        s = per_filter(np.array([math.sqrt(f.var(ddof=1) + 1e-5) for f in centred]), w)
        standard = 2 * math.sqrt(2) * centred / s
        if quantile == "laplace":
            high = -np.abs(standard).mean() * math.log(2 - 2 * tau)
            low = -high
        else:
            low, high = linear_quantile(standard, 1 - tau), linear_quantile(standard, tau)
        clamped = np.clip(standard, low, high)

        def back(g: Array) -> Gradients:
            g = g * ((standard >= low) & (standard <= high))
            along = per_filter((g * centred).reshape(len(w), -1).sum(axis=1), w)
            g_centred = 2 * math.sqrt(2) * (g / s - along * centred / ((count - 1) * s**3))
            return {"weight": g_centred - per_filter(g_centred.reshape(len(w), -1).mean(axis=1), w)}

        return sgn(clamped), back

    def activation(a: Array) -> tuple[Array, Back]:
        if not training:
            return sgn(a), lambda g: {"input": g * approx(a)}

        def back(g: Array) -> Gradients:
            ga = np.zeros_like(a)
            for i, sample in enumerate(a):
                s = math.sqrt(sample.var(ddof=1) + 1e-5)
                h = g[i] * approx(sample / s)
                ga[i] = h / s - (h * sample).sum() * (sample - sample.mean()) / ((sample.size - 1) * s**3)
            return {"input": ga}

        return sgn(a), back

    if alpha is None:
        return Parts(activation, weight, filter_scale(case))

    def scale(y: Array, a: Array, w: Array) -> tuple[Array, Back]:
        factor = column(alpha, len(case.kernel))

        def back(g: Array) -> Gradients:
            return {"product": g * factor, "scale.alpha": (g * y).sum(axis=(0, *range(2, g.ndim)))}

        return y * factor, back

    return Parts(activation, weight, scale)


def fda_terms(epoch: int, total: int) -> int:
    return 9 + min(8, math.floor(9 * (epoch / total)))


def fda_noise(epoch: int, total: int) -> float:
    return 0.05 * (1 + math.cos(math.pi * (epoch + 1) / total))


def fourier(x: Array, n: int, clip: bool) -> Array:
    """The series as printed: a sum of cosines."""
    omega = 0.1
    total = sum(np.cos((2 * i + 1) * omega * x) for i in range(n + 1))
    return 4 * omega / math.pi * total * ((np.abs(x) <= 1) if clip else 1.0)


def _adapted(
    vectors: Array, n: int, clip: bool, alpha: float, w1: Array | None, w2: Array | None, prefix: str
) -> tuple[Array, Callable[[Array], tuple[Array, Gradients]]]:
    """The adapted sign of rows; ``back`` gives the rows' gradient and those of the small network."""
    if w1 is None or w2 is None:
        return sgn(vectors), lambda g: (g * fourier(vectors, n, clip), {})
    before = vectors @ w1.T
    hidden = np.maximum(before, 0)
    noise = hidden @ w2.T + 0.1 * np.sin(vectors)

    def back(g: Array) -> tuple[Array, Gradients]:
        g_before = alpha * (g @ w2) * (before > 0)
        gx = g * fourier(vectors, n, clip) + g_before @ w1 + alpha * 0.1 * np.cos(vectors) * g
        return gx, {f"{prefix}.down.weight": g_before.T @ vectors, f"{prefix}.up.weight": alpha * g.T @ hidden}

    return sgn(vectors) + alpha * noise, back


def fda(
    case: Case,
    networks: dict[str, Array],
    *,
    n: int,
    alpha: float,
    clip: bool = True,
    scale_in_gradient: bool = True,
) -> Parts:
    """``networks``: the small networks' weights by name; empty: no noise (also as at evaluation)."""
    weight_rule = "weight_rule" if scale_in_gradient else "weight_rule.rule"

    def of(prefix: str) -> tuple[Array | None, Array | None]:
        return networks.get(f"{prefix}.down.weight"), networks.get(f"{prefix}.up.weight")

    def weight(w: Array) -> tuple[Array, Back]:
        rows, rows_back = _adapted(w.reshape(len(w), -1), n, clip, alpha, *of(weight_rule), weight_rule)

        def back(g: Array) -> Gradients:
            gx, others = rows_back(g.reshape(len(w), -1))
            return {"weight": gx.reshape(w.shape), **others}

        return rows.reshape(w.shape), back

    def activation(a: Array) -> tuple[Array, Back]:
        last = np.moveaxis(a, 1, -1)
        rows = last.reshape(-1, last.shape[-1])
        y, rows_back = _adapted(rows, n, clip, alpha, *of("activation_rule"), "activation_rule")

        def back(g: Array) -> Gradients:
            gx, others = rows_back(np.moveaxis(g, 1, -1).reshape(rows.shape))
            return {"input": np.moveaxis(gx.reshape(last.shape), -1, 1), **others}

        return np.moveaxis(y.reshape(last.shape), -1, 1), back

    return Parts(
        activation,
        weight,
        filter_scale(case),
        (lambda g, w: g) if scale_in_gradient else without_scale,
    )


def pact(case: Case, amplitude: float, *, scale: str = "none") -> Parts:
    def activation(a: Array) -> tuple[Array, Back]:
        def back(g: Array) -> Gradients:
            return {
                "input": g * ((a >= 0) & (a <= amplitude)),
                "activation_rule.A": np.asarray((g * (a >= amplitude)).sum()),
            }

        return np.where(a > amplitude / 2, amplitude, 0.0), back

    return Parts(activation, sign(closed_hard, "weight"), filter_scale(case) if scale == "mean" else None)
