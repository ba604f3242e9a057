"""The loop: what a recipe asks for happens, a run is a pure function of its configuration, divergence is a result."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from bibench.nn import BinaryLayer, set_progress, summary
from bibench.recipes import SGD, Cosine
from bibench.tasks.digits import digits
from bibench.training import CheckpointError, Diverged, loop, train
from bibench.training.checkpoint import load_state
from bibench.training.loop import evaluate
from small_runs import ADAM_RECIPE, CONSTANT, DATA, SGD_RECIPE, config, model_of, trained

STEPS = 1437 // 256


class Stop(Exception):
    pass


def stop_at(step, total):
    """Progress that raises after this many steps, as a signal would."""

    def on_progress(share):
        if round(share * total) == step:
            raise Stop

    return on_progress


def assert_same(one, other):
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name
    assert one.state.history == other.state.history
    assert one.state.layers == other.state.layers
    assert one.evaluation.figures == other.evaluation.figures
    assert np.array_equal(one.evaluation.per_sample, other.evaluation.per_sample)


STATEFUL = ("fp32", "reactnet", "recu", "fda", "pact")  # parameters of their own, schedules, noise, penalties
PARTLY = replace(SGD_RECIPE, epochs=None, steps=2 * STEPS + 3)  # the third epoch has 3 of its 5 steps
RESUMED = [
    *((name, SGD_RECIPE) for name in ("fp32", "recu")),
    *((name, ADAM_RECIPE) for name in STATEFUL),
    *((name, PARTLY) for name in ("fp32", "recu", "pact")),
]


@pytest.mark.parametrize(
    ("algorithm", "recipe"), RESUMED, ids=[f"{a}-{r.optimizer.name}-{r.budget}-{r.unit}" for a, r in RESUMED]
)
def test_interrupted_and_continued_it_ends_bit_for_bit_the_same(tmp_path, algorithm, recipe):
    run = config(algorithm, recipe)
    undisturbed = trained(run, tmp_path / "undisturbed", layers=True)
    total = recipe.total_steps(STEPS)

    folder = tmp_path / "interrupted"
    for step, epoch in ((STEPS + 2, 1), (2 * STEPS + 2, 2)):  # in the middle of the second and of the third epoch
        torch.manual_seed(step)  # a new process has another generator state
        with pytest.raises(Stop):
            trained(run, folder, layers=True, checkpoint_seconds=0, on_progress=stop_at(step, total))
        assert f'"epoch": {epoch},\n' in (folder / "checkpoint.json").read_text()
    shares = []
    continued = trained(run, folder, layers=True, checkpoint_seconds=0, on_progress=shares.append)
    assert [round(share * total) for share in shares] == list(range(2 * STEPS, total + 1))  # the last epoch alone
    assert_same(continued, undisturbed)

    def never(share):
        raise AssertionError("a finished training was continued")

    assert_same(trained(run, folder, on_progress=never), undisturbed)  # stopped after training, before its record


def test_the_same_run_twice_whatever_was_before(tmp_path):
    run = config("fda")  # with noise in training
    first = trained(run, tmp_path / "1")
    torch.randn(7)
    np.random.rand(3)  # noqa: NPY002
    assert_same(trained(run, tmp_path / "2"), first)
    other = trained(config("fda", seed=1), tmp_path / "3")
    assert other.state.history != first.state.history


def test_checkpoints_are_written_when_they_are_old_enough_and_at_the_end(tmp_path):
    with pytest.raises(Stop):
        trained(config(), tmp_path / "a", checkpoint_seconds=3600, on_progress=stop_at(2 * STEPS + 1, 3 * STEPS))
    assert not list((tmp_path / "a").iterdir())
    trained(config(), tmp_path / "b", checkpoint_seconds=3600)
    model = model_of(config())
    assert load_state(tmp_path / "b", config().id, model, torch.optim.Adam(model.parameters())).epoch == 3


def test_told_to_stop_it_ends_with_its_epoch_saves_it_and_goes_on_later(tmp_path):
    run, asked = config("bnn", SGD_RECIPE), []

    def stop():
        asked.append(None)
        return len(asked) == 2

    with pytest.raises(KeyboardInterrupt):
        trained(run, tmp_path / "stopped", checkpoint_seconds=1000, stop=stop)
    assert json.loads((tmp_path / "stopped" / "checkpoint.json").read_text())["epoch"] == 2
    assert_same(trained(run, tmp_path / "stopped"), trained(run, tmp_path / "alone"))


def test_history_has_the_recipes_learning_rates(tmp_path):
    recipe = replace(SGD_RECIPE, schedule=Cosine(), warmup=0.5, epochs=4)
    state = trained(config("fp32", recipe), tmp_path).state
    # The last step of each epoch is at progress (5, 10, 15, 20 - 1) / 20: two warm, two on the cosine.
    warm = [0.1 * step / 20 / 0.5 for step in (4, 9)]
    cosine = [0.1 * (1 + np.cos(np.pi * (step / 20 - 0.5) / 0.5)) / 2 for step in (14, 19)]
    assert [row["lr"] for row in state.history] == pytest.approx([*warm, *cosine], rel=1e-12)
    assert [row["epoch"] for row in state.history] == [1, 2, 3, 4]


def watched(monkeypatch):
    """The learning rate and loss of every step from here on."""
    steps: list[tuple[float, float]] = []

    def optimize(fabric, network, optimizer, batch, **settings):
        loss = original(fabric, network, optimizer, batch, **settings)
        steps.append((optimizer.param_groups[0]["lr"], float(loss)))
        return loss

    original = loop.optimize
    monkeypatch.setattr(loop, "optimize", optimize)
    return steps


def test_a_budget_in_steps_has_just_these(tmp_path, monkeypatch):
    steps = watched(monkeypatch)
    shares: list[float] = []
    recipe = replace(PARTLY, schedule=Cosine(), warmup=0.25)
    result = trained(config("recu", recipe), tmp_path, on_progress=shares.append)
    assert [rate for rate, _ in steps] == [recipe.learning_rate(step / 13) for step in range(13)]
    assert shares == [step / 13 for step in range(14)]
    history = result.state.history
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert [row["lr"] for row in history] == [steps[step][0] for step in (4, 9, 12)]
    losses = [loss for _, loss in steps]
    means = [np.mean(part) for part in (losses[:5], losses[5:10], losses[10:])]
    assert [row["train_loss"] for row in history] == pytest.approx(means, rel=1e-6)
    expected = model_of(config("recu", recipe))
    set_progress(expected, 2, 3)
    assert tau(result.model) == tau(expected)


@pytest.mark.parametrize("steps", [1, STEPS - 1, STEPS])
def test_less_than_an_epoch_is_one_row(tmp_path, monkeypatch, steps):
    seen = watched(monkeypatch)
    result = trained(config("fp32", replace(PARTLY, steps=steps)), tmp_path)
    assert len(seen) == steps
    assert [row["epoch"] for row in result.state.history] == [1]


def test_the_steps_of_whole_epochs_are_these_epochs(tmp_path):
    epochs = trained(config("recu", SGD_RECIPE), tmp_path / "epochs")
    steps = trained(config("recu", replace(SGD_RECIPE, epochs=None, steps=3 * STEPS)), tmp_path / "steps")
    assert_same(steps, epochs)


@dataclass
class Open:
    """A split that knows how many of its iterators are open, as worker processes would be."""

    split: Any
    open: int = 0
    most: int = field(default=0)

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, batch_size: int, **settings: Any) -> Iterator[Any]:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            yield from self.split.batches(batch_size, **settings)
        finally:
            self.open -= 1


def test_batches_are_read_no_longer_than_they_are_trained_on(tmp_path):
    split = Open(DATA.train)

    def evaluate(model, batches):
        assert split.open == 0
        return digits.evaluate(model, batches)

    run = config("fp32", PARTLY)
    task, data = replace(digits, evaluate=evaluate), replace(DATA, train=split)
    train(run, model_of(run), task=task, data=data, folder=tmp_path)
    assert (split.open, split.most) == (0, 1)


def test_the_first_step_of_a_warmup_changes_no_parameter(tmp_path):
    recipe = replace(SGD_RECIPE, warmup=0.5, epochs=1, batch_size=1437, optimizer=SGD(lr=0.1, momentum=0.0))
    before = dict(model_of(config("fp32", recipe)).named_parameters())
    after = trained(config("fp32", recipe), tmp_path).model
    assert all(torch.equal(parameter, before[name]) for name, parameter in after.named_parameters())


def test_progress_ends_at_one_and_only_grows(tmp_path):
    shares = []
    trained(config(), tmp_path, on_progress=shares.append)
    assert shares == [step / (3 * STEPS) for step in range(3 * STEPS + 1)]


def test_the_final_figures_are_the_models(tmp_path):
    result = trained(config("bireal"), tmp_path)
    assert not result.model.training
    again = evaluate(result.model, digits, DATA, batch_size=100, device=torch.device("cpu"))
    assert np.array_equal(again.per_sample, result.evaluation.per_sample)
    assert result.state.history[-1]["accuracy"] == 100 * result.evaluation.per_sample.mean()
    assert result.state.history[-1]["accuracy"] > 60  # it learns


def test_a_huge_learning_rate_ends_as_diverged(tmp_path):
    recipe = replace(SGD_RECIPE, optimizer=SGD(lr=1e9), epochs=5)
    with pytest.raises(Diverged, match=r"the mean training loss of epoch \d is") as caught:
        trained(config("fp32", recipe), tmp_path)
    assert len(caught.value.state.history) == caught.value.state.epoch < 5


def at_the_end_of_the_first_epoch(action):
    def on_progress(share):
        if round(share * 3 * STEPS) == STEPS:
            with torch.no_grad():
                action()

    return on_progress


def test_a_weight_that_is_not_a_number_is_found_behind_its_sign(tmp_path):
    run = config("bnn")
    model = model_of(run)
    name = summary(model).binarized[0]
    weight = dict(model.named_modules())[name].weight
    poison = at_the_end_of_the_first_epoch(lambda: weight.view(-1)[3].fill_(float("nan")))
    with pytest.raises(Diverged, match=rf"after epoch 1 the parameter '{name}\.weight' is not finite") as caught:
        trained(run, tmp_path, model=model, on_progress=poison)
    assert caught.value.state.history == []


def test_finite_weights_with_outputs_that_are_not_end_as_diverged(tmp_path):
    run = config("fp32")
    model = model_of(run)
    last = list(model.parameters())[-2]
    poison = at_the_end_of_the_first_epoch(lambda: last.fill_(3e38))
    with pytest.raises(Diverged, match="on the test split, after epoch 1, 'loss' is nan"):
        trained(run, tmp_path, model=model, on_progress=poison)


def latent(model):
    return torch.cat([m.weight.detach().flatten() for m in model.modules() if isinstance(m, BinaryLayer)]).abs().max()


def test_latent_clip_bounds_the_latent_weights_alone(tmp_path):
    free = trained(config("bnn"), tmp_path / "free").model
    recipe = replace(ADAM_RECIPE, latent_clip=0.05)
    clipped = trained(config("bnn", recipe), tmp_path / "clipped").model
    assert latent(free) > 0.05
    assert latent(clipped) == pytest.approx(0.05)
    names = {f"{name}.weight" for name in summary(clipped).binarized}
    assert any(p.abs().max() > 0.05 for name, p in clipped.named_parameters() if name not in names)


def test_gradient_clip_bounds_the_step(tmp_path):
    def step(bound):
        recipe = replace(
            SGD_RECIPE,
            optimizer=SGD(lr=1.0, momentum=0.0),
            schedule=CONSTANT,
            epochs=1,
            batch_size=1437,
            gradient_clip=bound,
        )
        run = config("fp32", recipe)
        before = dict(model_of(run).named_parameters())
        after = dict(trained(run, tmp_path / str(bound)).model.named_parameters())
        return float(sum((after[name] - before[name]).detach().double().square().sum() for name in before).sqrt())

    assert step(None) > 0.1
    assert step(0.01) == pytest.approx(0.01, rel=1e-3)


def test_bfloat16_autocast(tmp_path):
    exact = trained(config("reactnet"), tmp_path / "32")
    mixed = trained(config("reactnet", replace(ADAM_RECIPE, precision="bf16-mixed")), tmp_path / "16")
    assert {parameter.dtype for parameter in mixed.model.parameters()} == {torch.float32}
    losses = [[row["train_loss"] for row in result.state.history] for result in (exact, mixed)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_statistics_of_every_layer_and_epoch(tmp_path):
    result = trained(config("recu"), tmp_path, layers=True)
    layers = summary(result.model).binarized
    assert [(row["epoch"], row["layer"]) for row in result.state.layers] == [
        (epoch, layer) for epoch in (1, 2, 3) for layer in layers
    ]
    for row in result.state.layers:
        assert 0 < row["flip_rate"] < 0.5
        assert 0 < row["positive"] < 1
        assert 0 <= row["dead"] <= 1
    assert trained(config("recu"), tmp_path / "without").state.layers == []


def test_every_phase_is_timed(tmp_path):
    phases = trained(config(), tmp_path, checkpoint_seconds=0).state.phases
    assert set(phases) == {"train", "evaluate", "checkpoint"}
    assert min(phases.values()) > 0


def tau(model):
    return {float(layer.weight_rule.tau) for layer in model.modules() if isinstance(layer, BinaryLayer)}


def test_the_rules_know_the_epoch_also_after_an_interruption(tmp_path):
    run = config("recu")
    expected = model_of(run)
    set_progress(expected, 2, 3)
    assert tau(expected) != tau(model_of(run))
    assert tau(trained(run, tmp_path).model) == tau(expected)
    assert tau(trained(run, tmp_path).model) == tau(expected)  # all was done before


def test_noise_in_training_is_the_epochs_own(tmp_path):
    run = config("fp32")

    def noisy():
        return torch.nn.Sequential(model_of(run), torch.nn.Dropout(0.2))

    undisturbed = trained(run, tmp_path / "1", model=noisy())
    torch.randn(7)
    assert_same(trained(run, tmp_path / "2", model=noisy()), undisturbed)
    torch.randn(7)
    with pytest.raises(Stop):
        trained(run, tmp_path / "3", model=noisy(), checkpoint_seconds=0, on_progress=stop_at(STEPS + 2, 3 * STEPS))
    assert_same(trained(run, tmp_path / "3", model=noisy()), undisturbed)


def test_a_checkpoint_beyond_the_last_epoch_is_refused(tmp_path):
    run = config()
    trained(run, tmp_path)
    path = tmp_path / "checkpoint.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"epoch": 4, "history": [*content["history"], content["history"][-1]]}))
    with pytest.raises(CheckpointError, match=rf"is of epoch 4, and the run has 3; delete {tmp_path} and run the same"):
        trained(run, tmp_path)


def test_a_figure_too_large_for_a_record_ends_as_diverged(tmp_path):
    def evaluate_as_huge(model, batches):
        found = digits.evaluate(model, batches)
        return replace(found, figures=dict(found.figures) | {"loss": 1e100})

    run = config(recipe=replace(ADAM_RECIPE, epochs=1))
    task = replace(digits, evaluate=evaluate_as_huge)
    with pytest.raises(Diverged, match=r"'loss' is 1e\+100"):
        train(run, model_of(run), task=task, data=DATA, folder=tmp_path)
