"""Where a run's weights come from."""

import numpy as np
import pytest
import torch

from bibench.nn import summary
from bibench.tasks.digits import digits
from bibench.training import CheckpointError, save_weights
from bibench.training.loop import evaluate
from bibench.training.seeds import derive_seed
from small_runs import ALGORITHMS, DATA, config, model_of, trained


def assert_holds(model, expected):
    """Every tensor of the full-precision network is in the binarized one, unchanged."""
    found = model.state_dict()
    assert expected
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_fine_tuning_starts_from_the_parents_weights(tmp_path, algorithm):
    parent = model_of(config("fp32"))
    with torch.no_grad():
        for parameter in parent.parameters():
            parameter.add_(torch.randn_like(parameter))
    save_weights(tmp_path / "model.safetensors", parent)
    run = config(algorithm, method="fine_tune", parent="parent")
    model = model_of(run, tmp_path / "model.safetensors")
    assert summary(model).binarized
    assert_holds(model, parent.state_dict())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_from_scratch_starts_from_the_full_precision_initialisation(algorithm):
    parent = model_of(config("fp32", seed=3)).state_dict()
    torch.randn(5)
    assert_holds(model_of(config(algorithm, seed=3)), parent)
    other = model_of(config(algorithm, seed=4)).state_dict()
    assert not torch.equal(next(iter(other.values())), next(iter(parent.values())))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_rules_own_initialisation_depends_on_the_seed_alone(algorithm):
    first = model_of(config(algorithm)).state_dict()
    torch.randn(5)
    second = model_of(config(algorithm)).state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_users_checkpoint_is_evaluated_and_not_trained(tmp_path):
    parent = trained(config("fp32"), tmp_path / "parent")
    save_weights(tmp_path / "model.safetensors", parent.model)
    run = config("fp32", method="checkpoint", checkpoint="0" * 64)
    result = trained(run, tmp_path / "run", model=model_of(run, tmp_path / "model.safetensors"))
    assert_holds(result.model, parent.model.state_dict())
    assert np.array_equal(result.evaluation.per_sample, parent.evaluation.per_sample)
    assert result.state.history == []
    direct = evaluate(parent.model, digits, DATA, batch_size=256, device=torch.device("cpu"))
    assert result.evaluation.figures == direct.figures


def test_weights_of_another_network_are_refused(tmp_path):
    save_weights(tmp_path / "model.safetensors", torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="doesn't fit the model"):
        model_of(config("bnn", method="fine_tune"), tmp_path / "model.safetensors")


def test_options_padding_and_shortcuts_reach_the_layers():
    model = model_of(config("recu", options={"quantile": "empirical"}, padding_value=1))
    layer = dict(model.named_modules())[summary(model).binarized[0]]
    assert layer.weight_rule.quantile == "empirical"
    assert layer.padding_value == 1


def test_derived_seeds_differ_by_purpose_and_are_fixed():
    seeds = [
        derive_seed(0, "data", 0),
        derive_seed(0, "data", 1),
        derive_seed(0, "epoch", 0),
        derive_seed(1, "data", 0),
    ]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    # The first 8 bytes of the SHA-256 of "(0, 'data', 0)", halved: with another rule every stored result would change.
    assert seeds[0] == 2445669500761118931
