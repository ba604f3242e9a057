"""Several processes that share each batch compute what one process computes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._pytree import tree_map

import small_runs
from bibench import registry
from bibench.nn import set_progress
from bibench.recipes import SGD, Recipe
from bibench.records import RunConfig
from bibench.tasks.digits import digits
from bibench.training import Diverged, train
from bibench.training.checkpoint import save_optimizer
from bibench.training.loop import make_optimizer, steps_an_epoch, whole_batch_statistics
from bibench.training.seeds import derive_seed


def config(devices: int, *, lr: float = 0.1, batch_size: int = 128) -> RunConfig:
    recipe = Recipe(optimizer=SGD(lr=lr), steps=16, batch_size=batch_size)  # the second epoch has 5 of its 11 steps
    return RunConfig(
        task="digits",
        architecture="none",
        algorithm="fp32",
        method="full_precision",
        seed=0,
        recipe=recipe,
        devices=devices,
        family="mlps",
        metric="accuracy",
    )


def trained(folder: Path, run: RunConfig, **settings):
    """Train a network without batch statistics, which each process takes on its own part."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    task = registry.get("tasks", "digits")
    return train(run, model, task=task, data=task.load(None, False), folder=folder, **settings)


@pytest.mark.slow
def test_two_processes_end_with_the_weights_and_figures_of_one(tmp_path):
    before = trained(tmp_path / "before", config(1))
    path = tmp_path / "optimizer.safetensors"  # whose momenta a partial pre-training may keep
    save_optimizer(path, before.model, before.optimizer)
    one = trained(tmp_path / "one", config(1), optimizer_start=path)
    two = trained(tmp_path / "two", config(2), optimizer_start=path)
    save_optimizer(tmp_path / "one.safetensors", one.model, one.optimizer)
    save_optimizer(tmp_path / "two.safetensors", two.model, two.optimizer)
    momenta = load_file(tmp_path / "two.safetensors")
    for name, tensor in load_file(tmp_path / "one.safetensors").items():
        torch.testing.assert_close(momenta[name], tensor, rtol=1e-3, atol=1e-5)
    assert one.state.history[0]["train_loss"] != before.state.history[0]["train_loss"]
    for name, tensor in one.model.state_dict().items():
        # Half batches are averaged, so sums are in another order: float32 rounding over 16 steps.
        torch.testing.assert_close(two.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert two.evaluation.figures["accuracy"] == pytest.approx(one.evaluation.figures["accuracy"], abs=0.6)
    assert [row["train_loss"] for row in two.state.history] == pytest.approx(
        [row["train_loss"] for row in one.state.history], rel=1e-4
    )


class AsTwo:
    """One process that trains on the parts of each batch in turn, and on the mean of their gradients."""

    def __init__(self, run, model, task, data):
        self.run, self.model, self.task, self.data = run, model, task, data

    def train(self):
        recipe = self.run.known_recipe
        optimizer = make_optimizer(self.model, recipe)
        steps, total = steps_an_epoch(self.data, recipe), recipe.total_steps(steps_an_epoch(self.data, recipe))
        for epoch in range(recipe.total_epochs(steps)):
            torch.manual_seed(derive_seed(self.run.seed, "epoch", epoch))
            set_progress(self.model, epoch, recipe.total_epochs(steps))
            self.model.train()
            seed = derive_seed(self.run.seed, "data", epoch)
            batches = self.data.train.batches(recipe.batch_size, device=torch.device("cpu"), seed=seed)
            for step, batch in enumerate(batches):
                done = epoch * steps + step
                if done == total or step == steps:
                    break
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate(done / total)
                self._step(batch, optimizer)
        return self.model.eval()

    def _step(self, batch, optimizer):
        optimizer.zero_grad()
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        kept = {}
        for part in range(2):
            own = tree_map(lambda leaf, part=part: leaf[part::2], batch)
            (self.task.loss(self.model, own) / 2).backward()
            if part == 0:  # the running statistics are those of the first process
                kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
                self._set(before)
        self._set(kept)
        optimizer.step()

    def _set(self, buffers):
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                buffer.copy_(buffers[name])


@pytest.mark.slow
def test_two_processes_are_one_that_accumulates_their_parts(tmp_path):
    recipe = Recipe(optimizer=SGD(lr=0.05, momentum=0.9), steps=16, batch_size=128)
    run = small_runs.config("bnn", recipe, devices=2)
    two = small_runs.trained(run, tmp_path / "two")
    one = AsTwo(run, small_runs.model_of(run), digits, small_runs.DATA).train()
    whole = small_runs.trained(small_runs.config("bnn", recipe), tmp_path / "whole").model.state_dict()
    trained = two.model.state_dict()
    apart = 0.0
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-4, atol=1e-4)
        if tensor.is_floating_point():
            apart = max(apart, float((whole[name] - tensor).abs().max()))
    assert apart > 1e-3  # one process that takes each batch as a whole has other batch statistics


def test_batch_norm_over_all_processes_keeps_parameters_and_names():
    model = small_runs.model_of(small_runs.config("bnn"))
    before = dict(model.named_parameters()) | dict(model.named_buffers())
    kinds = [type(module) for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    converted = whole_batch_statistics(model)
    after = dict(converted.named_parameters()) | dict(converted.named_buffers())
    assert kinds
    assert [type(module) for module in converted.modules()].count(nn.SyncBatchNorm) == len(kinds)
    assert before.keys() == after.keys()
    assert all(after[name] is value for name, value in before.items())


@pytest.mark.slow
def test_two_processes_that_diverge_say_so(tmp_path):
    with pytest.raises(Diverged, match="epoch 1 is"):
        trained(tmp_path, config(2, lr=1e20))


def test_a_batch_that_the_devices_cannot_share_evenly_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch of 127 samples can't be shared evenly by 2 devices"):
        trained(tmp_path, config(2, batch_size=127))


def test_the_number_of_devices_is_part_of_the_identity_only_where_there_are_several():
    assert config(1).id != config(2).id
    assert config(1).id == RunConfig.model_validate(config(1).model_dump(exclude={"devices"})).id
