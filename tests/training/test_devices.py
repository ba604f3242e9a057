"""Several processes that share each batch compute what one process computes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bibench import registry
from bibench.recipes import SGD, Recipe
from bibench.records import RunConfig
from bibench.training import Diverged, train
from bibench.training.checkpoint import save_optimizer


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
