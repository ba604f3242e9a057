import pytest
import torch
from torch import nn

from bibench.algorithms import Rule
from bibench.nn import (
    BinaryConv2d,
    BinaryLinear,
    BinaryMatmul,
    clip_latent_,
    parameter_groups,
    partial_pretraining,
    penalty,
    set_progress,
    summary,
)


class Attention(nn.Module):
    """A net with every kind of part: full precision, binarized layers, a product of activations."""

    def __init__(self, algorithm: str) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.value = BinaryLinear(6, 6, algorithm=algorithm)
        self.scores = BinaryMatmul(6, 6, transpose_right=True, algorithm=algorithm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.embed(x))
        return self.scores(x, x) @ self.value(x)


@pytest.mark.parametrize(("epoch", "total"), [(-1, 10), (10, 10), (0, 0), (5, 3)])
def test_progress_outside_the_training(epoch, total):
    with pytest.raises(ValueError, match="expected 0 <= epoch < total"):
        set_progress(BinaryLinear(4, 4, algorithm="recu"), epoch, total)


def test_progress_reaches_every_rule():
    seen = []

    class Listening(Rule):
        def set_progress(self, epoch: int, total: int) -> None:
            seen.append((self, epoch, total))

    model = Attention("bnn")
    rules = [Listening() for _ in range(4)]
    model.value.weight_rule, model.value.activation_rule, model.scores.left_rule, model.scores.right_rule = rules
    set_progress(model, 2, 5)
    assert len(seen) == 4
    assert {rule for rule, *_ in seen} == set(rules)
    assert {(epoch, total) for _, epoch, total in seen} == {(2, 5)}


def test_progress_of_models_without_schedule():
    for model in (nn.Linear(2, 2), Attention("bnn")):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        set_progress(model, 0, 1)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_penalty():
    assert penalty(nn.Linear(2, 2)) is None
    assert penalty(Attention("recu")) is None
    model = Attention("pact")
    loss = penalty(model)
    assert loss.item() == pytest.approx(3 * 2e-4 * 9)
    loss.backward()
    amplitudes = [model.value.activation_rule.A, model.scores.left_rule.A, model.scores.right_rule.A]
    assert [p.grad.item() for p in amplitudes] == pytest.approx([2e-4 * 2 * 3] * 3)
    assert model.value.weight.grad is None


EXEMPT = {
    "bnn": set(),
    "pact": {"value.activation_rule.A", "scores.left_rule.A", "scores.right_rule.A"},
    "reactnet": {"value.activation_rule.threshold", "scores.left_rule.threshold", "scores.right_rule.threshold"},
    "recu": {"value.scale.alpha"},
    "xnorpp": {"value.scale.alpha"},
    "fda": set(),
}


@pytest.mark.parametrize("algorithm", EXEMPT)
def test_groups(algorithm):
    """Batch norm and biases keep the weight decay that they have in full precision."""
    model = Attention(algorithm)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, 0.1)
    placed = [(names[id(p)], group["weight_decay"]) for group in groups for p in group["params"]]
    assert len(placed) == len(names)
    assert {name for name, decay in placed if decay == 0} == EXEMPT[algorithm]
    assert {decay for _, decay in placed} == ({0.1, 0.0} if EXEMPT[algorithm] else {0.1})
    (only,) = parameter_groups(model, 0.1, decay_scales=True)
    assert len(only["params"]) == len(names)
    assert only["weight_decay"] == 0.1


def test_groups_leave_out_frozen_parameters():
    model = Attention("reactnet")
    model.embed.requires_grad_(False)
    model.value.activation_rule.threshold.requires_grad_(False)
    chosen = {id(p) for group in parameter_groups(model, 0.1) for p in group["params"]}
    assert chosen == {id(p) for p in model.parameters() if p.requires_grad}


def test_groups_hold_shared_parameters_once():
    model = nn.Sequential(BinaryLinear(4, 4, algorithm="recu"), BinaryLinear(4, 4, algorithm="recu"))
    model[1].weight = model[0].weight
    groups = parameter_groups(model, 0.1)
    torch.optim.AdamW(groups)
    assert [len(group["params"]) for group in groups] == [3, 2]


def test_clipping_of_latent_weights():
    model = nn.Sequential(nn.Linear(2, 2), BinaryConv2d(1, 1, 2, algorithm="bnn"), BinaryLinear(2, 1, algorithm="bnn"))
    for module in model:
        module.weight.data.fill_(3.0)
        module.bias.data.fill_(-3.0)
    model[2].weight.data.copy_(torch.tensor([[-7.0, 0.5]]))
    weight = model[1].weight
    clip_latent_(model, 1.0)
    assert model[0].weight.eq(3).all()
    assert model[1].weight is weight
    assert weight.eq(1).all()
    assert model[2].weight.tolist() == [[-1.0, 0.5]]
    assert all(module.bias.eq(-3).all() for module in model)
    clip_latent_(model, 0.25)
    assert model[2].weight.tolist() == [[-0.25, 0.25]]
    assert weight.requires_grad


@pytest.mark.parametrize("algorithm", EXEMPT)
def test_a_few_steps_lower_the_loss(algorithm):
    """Every parameter that can learn moves, and a regression on fixed data improves."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(8, 32),
        nn.BatchNorm1d(32),
        BinaryLinear(32, 32, algorithm=algorithm),
        nn.BatchNorm1d(32),
        nn.Linear(32, 1),
    )
    if algorithm == "pact":
        model[2].activation_rule.A.data.fill_(1.0)
    x = torch.randn(64, 8)
    y = x[:, :1] * x[:, 1:2]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam(parameter_groups(model, 0.0), lr=1e-2)
    losses = []
    for epoch in range(30):
        set_progress(model, epoch, 30)
        loss = (model(x) - y).square().mean()
        extra = penalty(model)
        optimizer.zero_grad()
        (loss if extra is None else loss + extra).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert not any(torch.equal(before[name], p) for name, p in model.named_parameters())


def small_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("budget", "share", "parts"),
    [(7, 0.5, [(0, 3), (1, 4)]), (10, 0.25, [(0, 2), (1, 8)]), (5, 0.0, [(1, 5)]), (5, 1.0, [(0, 5)])],
)
def test_partial_pretraining_trains_twice_and_binarizes_between(budget, share, parts):
    model = small_model()
    calls = []

    def fit(part: nn.Module, length: int) -> None:
        binarized = len(summary(part).binarized)
        assert (part is model) == (binarized == 0)
        if binarized:  # what the first part has left
            assert torch.equal(part.state_dict()["0.weight"], model.state_dict()["0.weight"])
            assert torch.equal(part.state_dict()["2.weight"], model.state_dict()["2.weight"])
        with torch.no_grad():
            for parameter in part.parameters():
                parameter += 1
        calls.append((binarized, length))

    before = model.state_dict()["2.weight"].clone()
    binary = partial_pretraining(model, "bnn", fit, budget=budget, share=share)
    assert calls == parts
    assert summary(binary).binarized == ("2",)
    assert torch.allclose(binary.state_dict()["2.weight"], before + len(parts))


def test_partial_pretraining_takes_what_binarize_takes():
    model = small_model()
    everything = {"filter": lambda name, module: isinstance(module, nn.Linear), "inplace": True}
    binary = partial_pretraining(model, "recu", lambda part, length: None, budget=2, **everything)
    assert binary is model
    assert summary(binary).binarized == ("0", "2", "4")


@pytest.mark.parametrize(("budget", "share"), [(1, 0.5), (10, 1.5), (10, -0.1), (10, float("nan"))])
def test_partial_pretraining_refuses_a_bad_budget_before_it_trains(budget, share):
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def fit(part: nn.Module, length: int) -> None:
        raise AssertionError("it was trained")

    with pytest.raises(ValueError, match="share of"):
        partial_pretraining(model, "bnn", fit, budget=budget, share=share)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
