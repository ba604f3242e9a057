"""Checkpoints come back bit for bit, and one that is not whole is refused by name."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bibench.models.bert import Bert
from bibench.recipes import SGD, Adam
from bibench.training import CheckpointError, load_weights, save_weights
from bibench.training.checkpoint import State, holds_pretrained, load_state, save_state
from bibench.training.loop import make_optimizer
from small_runs import ADAM_RECIPE, config, model_of


def stepped(optimizer, steps=3):
    """A model and its optimizer after some steps of made-up gradients."""
    model = model_of(config("reactnet"))
    made = make_optimizer(model, replace(ADAM_RECIPE, optimizer=optimizer))
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        made.step()
    return model, made


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


STATE = State(
    run="a-run",
    epoch=2,
    history=[{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 0.1}],
    phases={"train": 1.5},
    layers=[{"layer": "a"}],
)

OPTIMIZERS = [
    pytest.param(SGD(lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True), id="sgd"),
    pytest.param(SGD(lr=0.1, momentum=0.0), id="sgd-without-momentum"),
    pytest.param(Adam(lr=1e-3), id="adam"),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_state_comes_back_bit_for_bit_and_training_goes_on_the_same(tmp_path, optimizer):
    model, made = stepped(optimizer)
    save_state(tmp_path, STATE, model, made)
    other, fresh = stepped(optimizer, steps=0)

    assert load_state(tmp_path, "a-run", other, fresh) == STATE
    assert same(dict(other.state_dict()), dict(model.state_dict()))
    assert same(fresh.state_dict(), made.state_dict())

    gradients = [torch.randn_like(parameter) for parameter in model.parameters()]
    for network, updates in ((model, made), (other, fresh)):
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        updates.step()
    assert same(dict(other.state_dict()), dict(model.state_dict()))


def test_adam_keeps_its_step_count(tmp_path):
    model, made = stepped(Adam(lr=1e-3), steps=3)
    save_state(tmp_path, STATE, model, made)
    other, fresh = stepped(Adam(lr=1e-3), steps=0)
    load_state(tmp_path, "a-run", other, fresh)
    assert {float(values["step"]) for values in fresh.state_dict()["state"].values()} == {3.0}


def test_only_the_last_checkpoint_is_left(tmp_path):
    model, made = stepped(Adam(lr=1e-3), steps=1)
    for epoch in (1, 2, 3):
        save_state(tmp_path, replace(STATE, epoch=epoch), model, made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00003.safetensors", "checkpoint.json"]


def test_a_tensor_file_without_its_description_is_no_checkpoint(tmp_path):
    model, made = stepped(Adam(lr=1e-3), steps=1)
    save_state(tmp_path, STATE, model, made)
    (tmp_path / "checkpoint.json").unlink()
    assert load_state(tmp_path, "a-run", model, made) is None


def test_killed_between_the_two_files_the_checkpoint_before_is_used(tmp_path):
    model, made = stepped(Adam(lr=1e-3), steps=1)
    save_state(tmp_path, STATE, model, made)
    before = copy.deepcopy(model.state_dict())
    (tmp_path / "checkpoint-00003.safetensors").write_bytes(b"half of the next one")
    other, fresh = stepped(Adam(lr=1e-3), steps=0)
    assert load_state(tmp_path, "a-run", other, fresh) == STATE
    assert same(dict(other.state_dict()), dict(before))


def truncate(folder):
    path = folder / "checkpoint-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return path


def alter(folder):
    path = folder / "checkpoint-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(content)
    return path


def remove(folder):
    path = folder / "checkpoint-00002.safetensors"
    path.unlink()
    return path


def truncate_description(folder):
    path = folder / "checkpoint.json"
    path.write_text(path.read_text()[:100])
    return path


def drop_a_key(folder):
    path = folder / "checkpoint.json"
    content = json.loads(path.read_text())
    del content["epoch"], content["run"]
    path.write_text(json.dumps(content))
    return path


def not_even_an_object(folder):
    path = folder / "checkpoint.json"
    path.write_text('"text"')
    return path


def too_deep(folder):
    path = folder / "checkpoint.json"
    path.write_text("[" * 100_000)
    return path


def change(**content):
    def damage(folder):
        path = folder / "checkpoint.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | content))
        return path

    return damage


CHANGES = [
    {"epoch": 3},
    {"epoch": -1, "history": []},
    {"epoch": "2"},
    {"epoch": True, "history": [{"epoch": 1}]},
    {"history": None},
    {"history": [{"epoch": 1}, {"epoch": "two"}]},
    {"history": [{"epoch": 1}, {"loss": 1.0}]},
    {"history": [{"epoch": 1}, {"epoch": float("nan")}]},
    {"phases": {"train": "long"}},
    {"phases": {"train": float("inf")}},
    {"layers": [1]},
    {"run": 1},
    {"optimizer": []},
    {"optimizer": {"x.step": 1}},
    {"tensors": ""},
]
DAMAGES = [truncate, alter, remove, truncate_description, drop_a_key, not_even_an_object, too_deep]


@pytest.mark.parametrize("damage", [*DAMAGES, *(pytest.param(change(**each), id=str(each)) for each in CHANGES)])
def test_damage_is_refused_with_file_and_advice(tmp_path, damage):
    model, made = stepped(Adam(lr=1e-3), steps=1)
    save_state(tmp_path, STATE, model, made)
    path = damage(tmp_path)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError) as caught:
        load_state(tmp_path, "a-run", model, made)
    assert str(path) in str(caught.value) or path.name == "checkpoint.json"
    assert f"delete {tmp_path}" in str(caught.value)
    assert same(dict(model.state_dict()), dict(before))


def test_another_runs_checkpoint_is_refused(tmp_path):
    model, made = stepped(Adam(lr=1e-3), steps=1)
    save_state(tmp_path, STATE, model, made)
    with pytest.raises(CheckpointError, match="belongs to run a-run, not other-run"):
        load_state(tmp_path, "other-run", model, made)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    model, made = stepped(Adam(lr=1e-3), steps=1)
    save_state(tmp_path, STATE, model, made)
    other = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="doesn't fit the model"):
        load_state(tmp_path, "a-run", other, make_optimizer(other, ADAM_RECIPE))


def test_weights_come_back_bit_for_bit(tmp_path):
    model, _ = stepped(Adam(lr=1e-3))
    save_weights(tmp_path / "model.safetensors", model)
    other = model_of(config("reactnet", seed=1))
    assert not same(dict(other.state_dict()), dict(model.state_dict()))
    load_weights(tmp_path / "model.safetensors", other)
    assert same(dict(other.state_dict()), dict(model.state_dict()))


def _older(tensors):
    """A classifier's tensors as older versions of transformers wrote them."""
    names = {name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta") for name in tensors}
    renamed = {names[name]: value.clone() for name, value in tensors.items()}
    return renamed | {"bert.embeddings.position_ids": torch.arange(512)[None]}


def test_a_classifier_in_older_spelling_is_a_trained_network(tmp_path):
    path, sizes = tmp_path / "model.safetensors", {"width": 24, "layers": 2, "heads": 2, "inner": 48}
    theirs, ours = Bert(3, **sizes, vocabulary=100), Bert(3, **sizes, vocabulary=100)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    tensors = _older(theirs.state_dict())
    assert len(tensors.keys() - theirs.state_dict().keys()) == 2 * 5 + 1
    save_file(tensors, path)
    assert not holds_pretrained(path, ours)
    load_weights(path, ours)
    assert same(dict(ours.state_dict()), dict(theirs.state_dict()))
    save_file({name: value for name, value in tensors.items() if not name.startswith("classifier.")}, path)
    assert holds_pretrained(path, ours)
    with pytest.raises(
        CheckpointError, match=r"doesn't fit the model \(missing: classifier\.weight, classifier\.bias\)"
    ):
        load_weights(path, ours)


def test_a_classifier_of_another_vocabulary_is_refused_with_the_reason(tmp_path):
    path, sizes = tmp_path / "model.safetensors", {"width": 24, "layers": 2, "heads": 2, "inner": 48}
    save_weights(path, Bert(3, **sizes, vocabulary=90))
    for use in (load_weights, holds_pretrained):
        with pytest.raises(
            CheckpointError, match=r"model\.safetensors: it has a vocabulary of 90 word pieces, the tok"
        ):
            use(path, Bert(3, **sizes, vocabulary=100))


def test_weights_that_share_memory_can_be_saved(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_weights(tmp_path / "model.safetensors", model)
    load_weights(tmp_path / "model.safetensors", model)


def test_pickled_weights_are_refused_without_being_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "model.pt"
    torch.save({"weight": Trap()}, path)
    with pytest.raises(CheckpointError, match=r"model\.pt is not a complete safetensors file.*Pickled weights"):
        load_weights(path, nn.Linear(2, 2))
    assert not (tmp_path / "ran").exists()


def test_missing_and_truncated_weights(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        load_weights(path, nn.Linear(2, 2))
    save_weights(path, nn.Linear(2, 2))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a complete safetensors file"):
        load_weights(path, nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 3), r"weight is \(2, 2\), expected \(3, 2\)"),
        (nn.Linear(2, 2, bias=False), "not in the model: bias"),
        (nn.Sequential(nn.Linear(2, 2)), r"missing: 0\.weight, 0\.bias; not in the model: weight, bias|missing"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, model, message):
    path = tmp_path / "model.safetensors"
    save_weights(path, nn.Linear(2, 2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(path, model)
    assert str(path) in str(caught.value)
    assert same(dict(model.state_dict()), dict(before))
