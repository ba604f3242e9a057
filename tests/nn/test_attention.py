"""Bi-attention against a computation in float64, gradients included, for every algorithm's activation rule."""

import math

import numpy as np
import pytest
import torch

import bibench
from bibench.nn import resolve
from bibench.nn.attention import Attended, BiAttention

ALGORITHMS = ("bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda", "pact")
D = 6


def _operands(*, length=7, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, length, D, generator=generator).requires_grad_() for _ in range(3)]


def _mask(length=7):
    mask = torch.zeros(2, 1, 1, length)
    mask[1, ..., 4:] = -10_000.0
    return mask


def _window(x):
    return (np.abs(x) < 1).astype(np.float64)


def _reference(q, k, v, mask, upstream, *, ge=False):
    """The product of BNN's binarized operands and its gradients, element by element with plain loops over heads."""
    q, k, v, mask, upstream = (np.asarray(x, dtype=np.float64) for x in (q, k, v, mask, upstream))
    sign = lambda x: np.where(x >= 0, 1.0, -1.0)  # noqa: E731
    context, gradients = np.zeros_like(q), [np.zeros_like(x) for x in (q, k, v)]
    for b, h in np.ndindex(q.shape[:2]):
        qb, kb, vb = (sign(x[b, h]) for x in (q, k, v))
        scores = qb @ kb.T / math.sqrt(D) + mask[b, 0]
        attended = (scores >= 0 if ge else scores > 0).astype(np.float64)
        context[b, h] = attended @ vb
        gradients[2][b, h] = attended.T @ upstream[b, h] * _window(v[b, h])
        of_scores = upstream[b, h] @ vb.T * _window(scores) / math.sqrt(D)
        gradients[0][b, h] = of_scores @ kb * _window(q[b, h])
        gradients[1][b, h] = of_scores.T @ qb * _window(k[b, h])
    return context, gradients


@pytest.mark.parametrize("ge", [False, True])
def test_value_and_gradients_are_those_of_a_float64_computation(ge):
    q, k, v = _operands()
    upstream = torch.randn(q.shape)
    found = BiAttention(D, ge=ge, algorithm="bnn")(q, k, v, _mask())
    found.backward(upstream)
    context, gradients = _reference(*(x.detach() for x in (q, k, v)), _mask(), upstream, ge=ge)
    np.testing.assert_array_equal(found.detach().numpy(), context)  # whole numbers, exact in any order
    for operand, expected in zip((q, k, v), gradients, strict=True):
        np.testing.assert_allclose(operand.grad.numpy(), expected, rtol=1e-5, atol=1e-6)
        assert np.count_nonzero(expected) > 20


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("training", [True, False])
def test_every_algorithm_s_rule_is_used_and_gradients_reach_all_three(algorithm, training):
    attention = BiAttention(D, algorithm=algorithm).train(training)
    for name, parameter in attention.named_parameters():
        if name.endswith("threshold"):
            torch.nn.init.normal_(parameter, std=0.3)
    torch.manual_seed(3)
    q, k, v = _operands()
    found = attention(q, k, v, _mask())
    found.sum().backward()
    for operand in (q, k, v):
        assert operand.grad.abs().sum() > 0
    rules = [attention.scores.left_rule, attention.scores.right_rule, attention.context.right_rule]
    assert all(isinstance(rule, type(resolve(algorithm).activation(_spec()))) for rule in rules)
    if not training:
        a, b, c = (rule(x.detach()).double() for rule, x in zip(rules, (q, k, v), strict=True))
        factors = [1.0 if rule.amplitude() is None else rule.amplitude().item() for rule in rules]
        scores = a @ b.transpose(-1, -2) * factors[0] * factors[1] / math.sqrt(D) + _mask()
        torch.testing.assert_close(found.double(), (scores > 0).double() @ c * factors[2])


def _spec():
    from bibench.algorithms import LayerSpec

    return LayerSpec(dims=0, in_features=D, out_features=D)


def test_zero_scores_are_frequent_and_ge_decides_them():
    """At d = 64 a tenth of the scores is 0: C(64, 32) / 2^64."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 300, 64)
    scores = BiAttention(64, algorithm="bnn").scores(q, k)
    assert (scores == 0).float().mean().item() == pytest.approx(math.comb(64, 32) / 2**64, abs=0.01)
    ones = torch.ones(1, 1, 300, 64)
    with torch.no_grad():
        strict = BiAttention(64, algorithm="bnn")(q, k, ones)
        also = BiAttention(64, ge=True, algorithm="bnn")(q, k, ones)
    assert torch.equal(also - strict, (scores == 0).sum(-1, keepdim=True).expand_as(also).float())


def test_masked_keys_are_never_attended_to():
    q, k, v = (x.detach() for x in _operands())
    attention = BiAttention(D, algorithm="bnn")
    before = attention(q, k, v, _mask())
    k[1, :, 4:], v[1, :, 4:] = 5.0, -5.0
    assert torch.equal(attention(q, k, v, _mask()), before)
    torch.testing.assert_close(attention(q, k, v)[0], before[0])


def test_dropout_is_on_the_scores_in_training_alone():
    q, k, v = (x.detach() for x in _operands())
    attention = BiAttention(D, dropout=0.5, algorithm="bnn")
    without = BiAttention(D, algorithm="bnn").eval()
    assert torch.equal(attention.eval()(q, k, v), without(q, k, v))
    attention.train()
    torch.manual_seed(5)
    found = attention(q, k, v, _mask())
    torch.manual_seed(5)
    dropped = torch.nn.functional.dropout(without.scores(q, k) / math.sqrt(D) + _mask(), 0.5)
    assert torch.equal(found, (dropped > 0).float() @ without.context.right_rule(v))


def test_the_gradient_window_is_open():
    x = torch.tensor([-1.0, -0.99, 0.0, 0.99, 1.0], requires_grad=True)
    Attended()(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    assert "ge=True" in repr(BiAttention(D, ge=True, algorithm="bnn"))


def test_rules_of_both_products_change_with_progress():
    attention = BiAttention(D, algorithm="fda")
    bibench.set_progress(attention, 0, 2)
    rules = [attention.scores.left_rule, attention.scores.right_rule, attention.context.right_rule]
    early = [{name: value.clone() for name, value in rule.named_buffers()} for rule in rules]
    bibench.set_progress(attention, 1, 2)
    for rule, before in zip(rules, early, strict=True):
        assert any(not torch.equal(value, before[name]) for name, value in rule.named_buffers())
