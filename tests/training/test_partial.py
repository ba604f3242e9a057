"""Partial pre-training: two trainings and what the second takes over from the first, also after an interruption."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bibench.bench import worker
from bibench.bench.plan import make_plan
from bibench.bench.store import Store
from bibench.bench.suite import parse_suite
from bibench.bench.worker import Settings, execute
from bibench.nn import summary
from bibench.recipes import SGD, Recipe
from bibench.records import RunConfig
from bibench.training import CheckpointError, loop, save_weights
from bibench.training.checkpoint import load_optimizer, save_optimizer
from bibench.training.loop import make_optimizer
from small_runs import ADAM_RECIPE, ALGORITHMS, SGD_RECIPE, config, content, model_of, trained

OPTIMIZERS = {"sgd": "{name: sgd, lr: 0.05, momentum: 0.9}", "adam": "{name: adam, lr: 0.001}"}
PLAIN = Recipe(optimizer=SGD(lr=0.1, momentum=0.0), steps=3, batch_size=256)
STEPS = 26
"""13 in each part: two epochs of 5, and 3 steps of the third."""


def runs(algorithm: str = "bnn", state: str = "reset", optimizer: str = "sgd", share: float = 0.5) -> list[RunConfig]:
    """The runs of a partial pre-training on the digits: in full precision, then binarized."""
    recipe = f"{{optimizer: {OPTIMIZERS[optimizer]}, steps: {STEPS}, batch_size: 256}}"
    suite = parse_suite(
        f"name: x\ntasks: [{{task: digits, full_precision: {recipe}, binarized: {recipe}}}]\n"
        f"algorithms: [{algorithm}]\nmethod: partial_pretraining\nshare: {share}\noptimizer_state: {state}\n",
        "test",
    )
    return make_plan(suite)[1:]  # without the full-precision run that it is compared with


def stop_at(step: int, total: int = STEPS // 2) -> Any:
    def on_progress(share: float) -> None:
        if round(share * total) == step:
            raise KeyboardInterrupt

    return on_progress


def interrupted(run: RunConfig, settings: Settings, step: int) -> None:
    torch.manual_seed(step)  # a new process has another generator state
    with pytest.raises(KeyboardInterrupt):
        execute(run, settings, stop_at(step))


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A store with the full-precision part of every optimizer and of both ways to treat its state."""
    settings = Settings(out=tmp_path_factory.mktemp("parents"))
    for optimizer in OPTIMIZERS:
        for state in ("reset", "keep"):
            parent, _ = runs(state=state, optimizer=optimizer)
            assert execute(parent, settings).status == "ok"
    return settings


def first_step(run: RunConfig, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    """The network before a run's first step, and its optimizer's state by parameter."""
    found: list[Any] = []

    def optimize(fabric: Any, network: Any, optimizer: Any, batch: Any, **rest: Any) -> None:
        names = {id(parameter): name for name, parameter in network.module.named_parameters()}
        found.append(network.module)
        found.append({names[id(parameter)]: dict(own) for parameter, own in optimizer.optimizer.state.items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "optimize", optimize)
    with pytest.raises(KeyboardInterrupt):
        execute(run, settings)
    return found[0], found[1]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_binarized_network_starts_from_exactly_the_full_precision_weights(parents, monkeypatch, algorithm):
    parent, child = runs(algorithm)
    assert (child.parent, child.recipe.steps, parent.recipe.steps) == (parent.id, 13, 13)
    model, state = first_step(child, parents, monkeypatch)
    assert summary(model).binarized
    assert state == {}
    weights = load_file(Store(parents.out).weights(parent.id))
    found = model.state_dict()
    assert weights
    for name, tensor in weights.items():
        assert torch.equal(found[name], tensor), name
    start = model_of(config("fp32")).state_dict()
    assert not any(torch.equal(weights[name], start[name]) for name in weights if name.endswith(".weight"))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("algorithm", ["bnn", "pact", "reactnet", "recu"])
def test_kept_state_is_the_parents_for_the_parameters_that_it_had(parents, monkeypatch, algorithm, optimizer):
    parent, child = runs(algorithm, "keep", optimizer)
    model, state = first_step(child, parents, monkeypatch)
    kept = load_file(Store(parents.out).optimizer(parent.id))
    slots = {"sgd": {"momentum_buffer"}, "adam": {"step", "exp_avg", "exp_avg_sq"}}[optimizer]
    shared = {name for name, _ in model_of(config("fp32")).named_parameters()}
    assert set(kept) == {f"{name}/{slot}" for name in shared for slot in slots}
    new = {name for name, _ in model.named_parameters()} - shared
    assert bool(new) == (algorithm != "bnn")  # amplitudes, thresholds, scales
    assert set(state) == shared
    for name, own in state.items():
        assert set(own) == slots
        for slot, value in own.items():
            assert torch.equal(value, kept[f"{name}/{slot}"])
    if optimizer == "adam":
        assert {float(own["step"]) for own in state.values()} == {13.0}


def test_the_state_is_kept_where_it_is_needed_alone(parents):
    store = Store(parents.out)
    for optimizer in OPTIMIZERS:
        (reset, _), (keep, _) = runs(optimizer=optimizer), runs(state="keep", optimizer=optimizer)
        assert reset.id != keep.id
        assert store.weights(reset.id).read_bytes() == store.weights(keep.id).read_bytes()
        assert not store.optimizer(reset.id).exists()
        assert store.record(reset.id).optimizer is None
        assert store.record(keep.id).optimizer == worker.file_sha256(store.optimizer(keep.id))


def test_a_share_of_0_is_training_from_scratch():
    def scratch(method: str, share: float = 0.5) -> list[RunConfig]:
        text = f"name: x\ntasks: [{{task: digits}}]\nalgorithms: [bnn, pact]\nmethod: {method}\nshare: {share}\n"
        return make_plan(parse_suite(text, "test"))

    assert scratch("partial_pretraining", 0) == scratch("from_scratch")
    assert {run.method for run in scratch("partial_pretraining")} == {"full_precision", "partial_pretraining"}


PLACES = {
    "first": [("parent", 7)],
    "switch": [("child", 0)],
    "second": [("child", 8)],
    "last-epoch": [("parent", 12), ("child", 12)],
    "everywhere": [("parent", 3), ("parent", 6), ("child", 0), ("child", 1), ("child", 11)],
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = {}
    for state in ("reset", "keep"):
        settings = Settings(out=tmp_path_factory.mktemp(state))
        for run in runs("pact", state):
            assert execute(run, settings).status == "ok"
        found[state] = content(settings.out)
    return found


@pytest.mark.parametrize("state", ["reset", "keep"])
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_interrupted_anywhere_it_ends_bit_for_bit_the_same(tmp_path, undisturbed, places, state):
    settings = Settings(out=tmp_path / "store", checkpoint_seconds=0)
    for name, run in zip(("parent", "child"), runs("pact", state), strict=True):
        for step in (step for part, step in places if part == name):
            interrupted(run, settings, step)
        assert execute(run, settings).status == "ok"
    found = content(settings.out)
    assert found == undisturbed[state]
    assert any(name.endswith("optimizer.safetensors") for name in found) == (state == "keep")


def test_stopped_after_its_last_step_and_before_its_record(tmp_path, undisturbed, monkeypatch):
    def stop(store: Store, record: Any, claim: Any) -> None:
        raise KeyboardInterrupt

    settings = Settings(out=tmp_path / "store")
    parent, child = runs("pact", "keep")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            execute(parent, settings)
    Store(settings.out).optimizer(parent.id).unlink()
    for run in (parent, child):
        assert execute(run, settings).status == "ok"
    assert content(settings.out) == undisturbed["keep"]


def test_the_state_that_is_kept_matters(undisturbed):
    weights = {
        state: [value for name, value in own.items() if "-pact-" in name and name.endswith("model.safetensors")]
        for state, own in undisturbed.items()
    }
    assert len(weights["keep"]) == len(weights["reset"]) == 1
    assert weights["keep"] != weights["reset"]


def alter(path):
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: path.unlink(), "is missing"),
        (alter, "has another SHA-256 than its run's record says: truncated or altered"),
    ],
    ids=["missing", "altered"],
)
def test_a_damaged_state_is_refused_with_a_way_out(tmp_path, damage, what):
    settings = Settings(out=tmp_path / "store")
    parent, child = runs(state="keep")
    assert execute(parent, settings).status == "ok"
    store = Store(settings.out)
    damage(store.optimizer(parent.id))
    outcome = execute(child, settings)
    assert (outcome.status, outcome.fatal) == ("error", False)
    assert outcome.message == (
        f"{store.optimizer(parent.id)} {what}; delete the folder {store.folder(parent.id)} and run the same command "
        "again: it is trained anew"
    )


def test_states_that_do_not_fit(tmp_path):
    path = tmp_path / "optimizer.safetensors"
    linear = torch.nn.Linear(3, 2)
    made = make_optimizer(linear, SGD_RECIPE)
    linear(torch.ones(1, 3)).sum().backward()
    made.step()
    save_optimizer(path, linear, made)
    other = torch.nn.Linear(4, 2)
    with pytest.raises(CheckpointError, match=r"'weight/momentum_buffer' is \(2, 3\), expected \(2, 4\) as the par"):
        load_optimizer(path, other, make_optimizer(other, SGD_RECIPE))
    with pytest.raises(CheckpointError, match=r"'\w+/momentum_buffer' is not of the state of Adam"):
        load_optimizer(path, linear, make_optimizer(linear, ADAM_RECIPE))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
        load_optimizer(path, linear, make_optimizer(linear, SGD_RECIPE))


def test_an_optimizer_without_momentum_has_nothing_to_keep(tmp_path):
    parent, child = (run.model_copy(update={"recipe": PLAIN}) for run in runs(state="keep"))
    result = trained(parent, tmp_path / "parent")
    save_optimizer(tmp_path / "optimizer.safetensors", result.model, result.optimizer)
    assert load_file(tmp_path / "optimizer.safetensors") == {}
    save_weights(tmp_path / "model.safetensors", result.model)
    model = model_of(child, tmp_path / "model.safetensors")
    trained(child, tmp_path / "child", model=model, optimizer_start=tmp_path / "optimizer.safetensors")


def test_loading_and_converting_are_phases_of_their_own(tmp_path, monkeypatch):
    """Seconds pass only where this says so."""
    now = [100.0]

    def slowly(function: Any, seconds: float) -> Any:
        def call(*arguments: Any, **settings: Any) -> Any:
            now[0] += seconds
            return function(*arguments, **settings)

        return call

    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    for name, seconds in (("load_data", 1), ("full_precision_model", 2), ("convert", 4), ("train", 8)):
        monkeypatch.setattr(worker, name, slowly(getattr(worker, name), seconds))
    settings = Settings(out=tmp_path / "store")
    parent, child = runs()
    for run in (parent, child):
        assert execute(run, settings).status == "ok"
    phases = [Store(settings.out).record(run.id).phases for run in (parent, child)]
    assert "convert" not in phases[0]
    assert [own["load"] for own in phases] == [3, 3]
    assert phases[1]["convert"] == 4
