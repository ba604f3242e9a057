"""Distillation: its terms against an independent computation, who gets gradients, and that runs with it are runs."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch import Tensor, nn

from bibench import binarize
from bibench.models.bert import Bert, bert_tiny4
from bibench.models.image import digits_cnn
from bibench.nn.attention import BiAttention
from bibench.recipes import SGD, Adam, Distillation, Recipe
from bibench.tasks.base import Data
from bibench.tasks.digits import digits
from bibench.tasks.glue import glue_sst2, glue_stsb
from bibench.training import train
from bibench.training.distillation import (
    check_distillation,
    distilled_loss,
    hidden_loss,
    logits_loss,
    similarity_loss,
)
from bibench.training.seeds import derive_seed
from bibench.training.speed import iteration_times
from bibench.training.step_time import TrainingStep, compare_training
from small_runs import ADAM_RECIPE, DATA, SGD_RECIPE, config, model_of, trained

SIZES = {"width": 24, "layers": 2, "heads": 2, "inner": 48, "vocabulary": 100, "positions": 32}
ALL = Distillation(hidden=0.7, similarity=0.3)
LOGITS = Distillation()
CPU = torch.device("cpu")


def tokens_of(count: int, length: int = 9, seed: int = 0) -> Tensor:
    """Sentences of random lengths, padded."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, 100, (count, length), generator=generator)
    lengths = torch.randint(3, length + 1, (count, 1), generator=generator)
    present = (torch.arange(length) < lengths).long()
    return torch.stack((words * present, (torch.arange(length) >= 4) * present, present), dim=1)


def bert(outputs: int = 3, dropout: float = 0.0) -> Bert:
    """A network whose weights are far from those that it starts with, so that all of it matters."""
    torch.manual_seed(0)
    model = Bert(outputs, **SIZES, dropout=dropout)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def student_of(teacher: nn.Module, algorithm: str = "bireal") -> nn.Module:
    return binarize(teacher, algorithm, example=tokens_of(2))


def loss_of(student, teacher, batch, weights, task=glue_sst2, precision="32-true"):
    """The loss as a step computes it, with the student in training mode."""
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    network, _ = fabric.setup(student.train(), torch.optim.SGD(student.parameters(), lr=0.1))
    return distilled_loss(fabric, network, teacher, batch, task=task, weights=weights)


# The terms, in numpy and float64, sample by sample, without the padding


def softmax(x):
    shifted = np.exp(x - x.max(axis=0))
    return shifted / shifted.sum(axis=0)


def distance(a, b):
    return np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b))


def expected_hidden(student, teacher, present):
    rows = [distance(a[p], b[p]) for a, b, p in zip(student, teacher, present, strict=True)]
    return np.mean(rows)


def expected_similarity(student, teacher, present):
    rows = []
    for a, b, p in zip(student, teacher, present, strict=True):
        one, other = (np.stack([head[p] @ head[p].T for head in sample]) for sample in (a, b))
        rows.append(distance(one.ravel(), other.ravel()))
    return np.mean(rows)


SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))


@given(SHAPES)
def test_hidden_states_and_similarities_are_compared_sample_by_sample_without_padding(shape):
    batch, heads, length, features, seed = shape
    drawn = np.random.default_rng(seed)
    present = np.arange(length) < drawn.integers(1, length + 1, (batch, 1))
    pairs = drawn.normal(size=(2, batch, heads, length, features))
    queries, mask = torch.from_numpy(pairs).float(), torch.from_numpy(present)
    found = similarity_loss(queries[0], queries[1], mask)
    assert found.item() == pytest.approx(expected_similarity(*pairs, present), rel=1e-4, abs=1e-5)
    found = hidden_loss(queries[0, :, 0], queries[1, :, 0], mask)
    assert found.item() == pytest.approx(expected_hidden(*pairs[:, :, 0], present), rel=1e-4, abs=1e-5)


@given(st.lists(st.integers(2, 5), min_size=1, max_size=3), st.integers(1, 4), st.integers(0, 99))
def test_outputs_are_compared_by_the_teachers_probabilities(shape, batch, seed):
    student, teacher = np.random.default_rng(seed).normal(scale=3, size=(2, batch, *shape))
    rows = [-softmax(t) * np.log(softmax(s)) for s, t in zip(student, teacher, strict=True)]
    found = logits_loss(torch.from_numpy(student).float(), torch.from_numpy(teacher).float())
    assert found.item() == pytest.approx(np.mean([row.sum(axis=0) for row in rows]), rel=1e-4)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_outputs_that_are_numbers_are_compared_as_numbers(shape):
    student, teacher = torch.randn(2, *shape)
    expected = ((student.double() - teacher.double()) ** 2).mean()
    assert logits_loss(student, teacher).item() == pytest.approx(expected.item(), rel=1e-6)


def inside(model, tokens):
    """Hidden states and, of every layer, queries, keys and values, module by module."""
    mask = -10_000.0 * (1 - tokens[:, 2])[:, None, None, :]
    x = model.bert.embeddings(tokens[:, 0], tokens[:, 1])
    hidden, projections = [x], []
    for layer in model.bert.encoder["layer"]:
        own = layer.attention["self"]
        projections += [
            projection(x).unflatten(-1, (SIZES["heads"], -1)).transpose(1, 2)
            for projection in (own.query, own.key, own.value)
        ]
        x = layer(x, mask)
        hidden.append(x)
    return [[part.detach().double().numpy() for part in parts] for parts in (hidden, projections)]


@pytest.mark.parametrize("algorithm", ["bireal", "reactnet", "pact"])
def test_the_loss_is_the_weighted_sum_over_embeddings_layers_and_projections(algorithm):
    teacher = bert()
    student = student_of(teacher, algorithm)
    with torch.no_grad():
        for parameter in student.bert.embeddings.parameters():  # which are not binarized
            parameter.add_(0.1 * torch.randn_like(parameter))
    tokens, labels = tokens_of(5), torch.tensor([0, 2, 1, 1, 0])
    present = tokens[:, 2].bool().numpy()
    hidden, projections = zip(inside(student, tokens), inside(teacher, tokens), strict=True)
    outputs = [model(tokens).detach().double().numpy() for model in (student, teacher)]
    plain = np.mean([-np.log(softmax(row))[label] for row, label in zip(outputs[0], labels, strict=True)])
    soft = np.mean([-softmax(t) @ np.log(softmax(s)) for s, t in zip(*outputs, strict=True)])
    states = [expected_hidden(a, b, present) for a, b in zip(*hidden, strict=True)]
    similar = [expected_similarity(a, b, present) for a, b in zip(*projections, strict=True)]
    assert (len(states), len(similar)) == (3, 6)
    weights = Distillation(labels=0.5, logits=2.0, hidden=0.7, similarity=0.3)
    expected = 0.5 * plain + 2 * soft + 0.7 * sum(states) + 0.3 * sum(similar)
    assert loss_of(student, teacher, (tokens, labels), weights).item() == pytest.approx(expected, rel=1e-5)
    for name, value in {"labels": plain, "logits": soft, "hidden": sum(states), "similarity": sum(similar)}.items():
        more = replace(weights, **{name: getattr(weights, name) + 1})
        found = loss_of(student, teacher, (tokens, labels), more)
        assert found.item() == pytest.approx(expected + value, rel=1e-5), name


def test_more_padding_changes_nothing():
    teacher = bert()
    student = student_of(teacher)
    tokens, labels = tokens_of(4), torch.tensor([0, 2, 1, 1])
    longer = nn.functional.pad(tokens, (0, 7))
    found = [loss_of(student, teacher, (batch, labels), ALL).item() for batch in (tokens, longer)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_loss_is_the_mean_of_those_of_its_parts_which_devices_share():
    teacher = bert()
    student = student_of(teacher)
    tokens, labels = tokens_of(6), torch.tensor([0, 2, 1, 1, 0, 2])
    parts = [loss_of(student, teacher, (tokens[own::2], labels[own::2]), ALL).item() for own in range(2)]
    assert loss_of(student, teacher, (tokens, labels), ALL).item() == pytest.approx(sum(parts) / 2, rel=1e-5)


def test_a_number_is_learned_too():
    teacher = bert(outputs=1)
    student = student_of(teacher)
    tokens, numbers = tokens_of(4), torch.tensor([0.0, 5.0, 2.5, 1.0])
    outputs = [model(tokens).detach().double().squeeze(1) for model in (student, teacher)]
    expected = ((outputs[0] - numbers) ** 2).mean() + ((outputs[0] - outputs[1]) ** 2).mean()
    found = loss_of(student, teacher, (tokens, numbers), LOGITS, glue_stsb)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


# Gradients


def test_similarities_alone_reach_queries_keys_and_values_and_nothing_reaches_the_teacher():
    teacher = bert()
    student = student_of(teacher)
    assert any(isinstance(module, BiAttention) for module in student.modules())
    before = copy.deepcopy(teacher.state_dict())
    weights = Distillation(labels=0.0, logits=0.0, similarity=1.0)
    loss_of(student, teacher, (tokens_of(4), torch.tensor([0, 2, 1, 1])), weights).backward()
    for layer in student.bert.encoder["layer"]:
        own = layer.attention["self"]
        for projection in (own.query, own.key, own.value):
            assert projection.weight.grad.abs().sum() > 0
    assert not student.classifier.weight.grad.any()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    for model in (student, teacher):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_student_that_is_its_teacher_has_nothing_left_to_learn_and_no_infinite_gradient():
    teacher = bert()
    student = copy.deepcopy(teacher)
    weights = Distillation(labels=0.0, logits=0.0, hidden=1.0, similarity=1.0)
    loss = loss_of(student, teacher, (tokens_of(4), torch.tensor([0, 2, 1, 1])), weights)
    loss.backward()
    assert loss.item() == 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in student.parameters())


# Runs


@dataclass
class Sentences:
    """A split of made-up sentences; which of the words 1 to 50 and 51 to 99 there are more of is their label."""

    tokens: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def batches(self, batch_size: int, *, device: torch.device, seed: int | None = None) -> Iterator[Any]:
        order = torch.arange(len(self))
        if seed is not None:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        for part in order.split(batch_size):
            words, present = self.tokens[part, 0], self.tokens[part, 2]
            yield self.tokens[part].to(device), (2 * (words > 50).sum(1) > present.sum(1)).long().to(device)


TEXT = Data(train=Sentences(tokens_of(64)), test=Sentences(tokens_of(32, seed=1)), outputs=2, fingerprint="made up")
RECIPE = Recipe(optimizer=Adam(lr=1e-3), epochs=3, batch_size=16, distillation=ALL)


def text_run(recipe=RECIPE, **content):
    return config("reactnet", recipe, architecture="bert", method="fine_tune", parent="full precision", **content)


def trained_on_text(folder, run, teacher, **settings):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(3)
    student = student_of(teacher, "reactnet").train()
    return train(run, student, task=glue_sst2, data=TEXT, folder=folder, teacher=copy.deepcopy(teacher), **settings)


class Stop(Exception):
    pass


def stop_at(step, total):
    def on_progress(share):
        if round(share * total) == step:
            raise Stop

    return on_progress


def assert_same(one, other):
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name
    assert one.state.history == other.state.history


def test_interrupted_and_continued_it_ends_bit_for_bit_the_same(tmp_path):
    teacher = bert(outputs=2, dropout=0.1)
    undisturbed = trained_on_text(tmp_path / "undisturbed", text_run(), teacher)
    for step in (6, 9):
        torch.manual_seed(step)
        with pytest.raises(Stop):
            trained_on_text(
                tmp_path / "again", text_run(), teacher, checkpoint_seconds=0, on_progress=stop_at(step, 12)
            )
    assert_same(trained_on_text(tmp_path / "again", text_run(), teacher), undisturbed)
    without = trained_on_text(tmp_path / "without", text_run(replace(RECIPE, distillation=None)), teacher)
    assert without.state.history[0]["train_loss"] < undisturbed.state.history[0]["train_loss"]  # fewer terms


def test_the_teacher_stays_as_it_is_but_for_its_mode(tmp_path):
    teacher = model_of(config("fp32")).train()  # with batch statistics
    before = copy.deepcopy(teacher.state_dict())
    run = config("bireal", replace(ADAM_RECIPE, epochs=1, distillation=LOGITS))
    trained(run, tmp_path, teacher=teacher)
    assert not any(module.training for module in teacher.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_network_learns_from_its_teacher_where_the_labels_teach_nothing(tmp_path):
    parent = trained(config("fp32", SGD_RECIPE), tmp_path / "parent")
    data = replace(DATA, train=replace(DATA.train, labels=torch.zeros_like(DATA.train.labels)))
    recipe = replace(ADAM_RECIPE, batch_size=64, distillation=replace(LOGITS, labels=0.0))
    run = config("bireal", recipe)
    result = train(run, model_of(run), task=digits, data=data, folder=tmp_path, teacher=parent.model)
    assert parent.evaluation.figures["accuracy"] > 85
    assert result.evaluation.figures["accuracy"] > 80


def test_bfloat16_autocast_holds_for_both():
    teacher = bert()
    student = student_of(teacher)
    batch = tokens_of(5), torch.tensor([0, 2, 1, 1, 0])
    exact = loss_of(student, teacher, batch, ALL).item()
    mixed = loss_of(student, teacher, batch, ALL, precision="bf16-mixed")
    assert mixed.dtype == torch.float32
    assert mixed.item() != exact
    assert mixed.item() == pytest.approx(exact, rel=0.2)
    dense = []
    layer = teacher.bert.encoder["layer"][0].output.dense
    layer.register_forward_hook(lambda module, inputs, output: dense.append(output.dtype))
    loss_of(student, teacher, batch, ALL, precision="bf16-mixed")
    assert dense == [torch.bfloat16]


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(tmp_path):
    teacher = bert(outputs=2)
    recipe = replace(RECIPE, optimizer=SGD(lr=0.05), epochs=1)
    one, two = (trained_on_text(tmp_path / str(n), text_run(recipe, devices=n), teacher) for n in (1, 2))
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    rows = [result.state.history[0]["train_loss"] for result in (one, two)]
    assert rows[1] == pytest.approx(rows[0], rel=1e-3)


# Times of steps


def counted(teacher):
    """The teacher, and a list that grows with every call, of its copies too."""
    calls = []
    teacher.register_forward_hook(lambda module, inputs, output: calls.append(module.training))
    return teacher, calls


def test_a_timed_step_is_the_loops_with_the_teachers_part(tmp_path):
    whole = replace(ADAM_RECIPE, epochs=1, batch_size=1437, distillation=LOGITS)
    run = config("reactnet", whole)
    batch = next(DATA.train.batches(1437, device=CPU, seed=derive_seed(0, "data", 0)))
    teacher, calls = counted(model_of(config("fp32", seed=1)))
    step = TrainingStep(model_of(run), task=digits, batch=batch, recipe=whole, teacher=teacher)
    plain = TrainingStep(model_of(run), task=digits, batch=batch, recipe=replace(whole, distillation=None))
    parameters = sum(tensor.numel() * tensor.element_size() for tensor in teacher.state_dict().values())
    assert step.held_bytes() - plain.held_bytes() == parameters
    step()
    assert calls == [False]
    expected = trained(run, tmp_path, teacher=teacher).model.state_dict()
    for name, tensor in expected.items():
        assert torch.equal(step.model.state_dict()[name], tensor), name


def test_a_comparison_has_the_teachers_part_in_the_binarized_step_alone():
    batch = next(DATA.train.batches(32, device=CPU, seed=0))
    partner, calls = counted(model_of(config("fp32")))
    arguments = {"model": model_of(config("bireal")), "partner": partner, "task": digits, "batch": batch, "repeats": 1}
    plain = compare_training(recipe=ADAM_RECIPE, **arguments)
    assert set(calls) == {True}
    calls.clear()
    found = compare_training(recipe=replace(ADAM_RECIPE, distillation=LOGITS), **arguments)
    assert set(calls) == {True, False}
    assert found.peak_memory > plain.peak_memory
    assert found.partner_peak_memory == plain.partner_peak_memory


def test_timed_iterations_have_the_teachers_part():
    teacher, calls = counted(model_of(config("fp32")))
    recipe = replace(ADAM_RECIPE, distillation=LOGITS)
    times = iteration_times(
        {"bireal": model_of(config("bireal"))},
        task=digits,
        data=DATA,
        recipes={"bireal": recipe},
        teachers={"bireal": teacher},
        epochs=2,
        skip=1,
    )
    assert times["bireal"].steps == 4
    assert calls == [False] * 2 * 5


# What is refused


def test_what_a_network_does_not_show_is_refused_before_anything_is_trained():
    check_distillation(LOGITS, digits, digits_cnn)
    check_distillation(ALL, glue_sst2, bert_tiny4)
    with pytest.raises(ValueError, match="architecture 'digits_cnn': Sequential shows no hidden states"):
        check_distillation(ALL, digits, digits_cnn)
    with pytest.raises(ValueError, match="the loss of task 'digits' is of more than the network's output"):
        check_distillation(LOGITS, replace(digits, make_batch=lambda count: None), digits_cnn)


def test_outputs_that_are_no_tensor_are_refused():
    class Boxes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def forward(self, images):
            return {"boxes": self.layer(images)}

    task = replace(digits, loss=lambda model, images: model(images)["boxes"].sum())
    with pytest.raises(ValueError, match="outputs that are one tensor, and this network returns dict"):
        loss_of(Boxes(), Boxes(), torch.ones(3, 8), LOGITS, task)


def test_a_step_that_lacks_what_it_needs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="so a step needs a teacher: give the full-precision network"):
        trained(config("bireal", replace(ADAM_RECIPE, distillation=LOGITS)), tmp_path / "1")
    run = config("bireal", replace(ADAM_RECIPE, distillation=ALL))
    with pytest.raises(ValueError, match="shows no hidden states and no attention to distil"):
        trained(run, tmp_path / "2", teacher=model_of(config("fp32")))


def test_weights_that_teach_nothing_are_refused():
    with pytest.raises(ValueError, match="logits, hidden and similarity are all 0"):
        Distillation(logits=0.0)
