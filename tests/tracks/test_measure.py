"""What tracks measure on a finished run on the digits; and that they leave the run as it was."""

import copy
import dataclasses
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bibench.deploy.packed import PackedModule, load_packed
from bibench.models.image import digits_cnn
from bibench.native import instruction_sets
from bibench.records import Absence, Figure
from bibench.tasks.classification import ImagesInMemory
from bibench.tasks.corruptions import CORRUPTIONS
from bibench.tasks.digits import digits
from bibench.tracks.base import FinishedRun, Measuring, Track
from bibench.tracks.corruption_robustness import corruption_robustness
from bibench.tracks.hardware_inference import export_run, hardware_inference
from bibench.tracks.learning_task import learning_task
from bibench.tracks.neural_architecture import neural_architecture
from bibench.tracks.theoretical_complexity import theoretical_complexity
from bibench.tracks.training_consumption import training_consumption
from bibench.training.machine import processor
from small_runs import DATA, config, trained

MEASURING = (corruption_robustness, training_consumption, theoretical_complexity, hardware_inference)
LITTLE = Measuring(corruptions=("fog", "gaussian_noise"), severities=(2, 5), step_repeats=2)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Corrupted images are kept for these tests only."""
    monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


Finished = Callable[..., FinishedRun]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run by its algorithm, trained once."""
    runs: dict[str, FinishedRun] = {}

    def run_of(algorithm: str, **changes: Any) -> FinishedRun:
        if algorithm not in runs:
            run = config(algorithm)
            model = trained(run, tmp_path_factory.mktemp(algorithm)).model
            runs[algorithm] = FinishedRun(
                config=run, model=model, architecture=digits_cnn, task=digits, data=DATA, measuring=LITTLE
            )
        return dataclasses.replace(runs[algorithm], **changes)

    return run_of


def measure(track: Track, run: FinishedRun) -> list[Figure]:
    assert track.measure is not None
    found = track.measure(run)
    assert not any(isinstance(item, Absence) for item in found)
    return [item for item in found if isinstance(item, Figure)]


def state_of(run: FinishedRun) -> dict[str, Any]:
    """Everything that measuring could have changed: weights, buffers, gradients, modes, random numbers."""
    model = run.model
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "buffers": {name: value.clone() for name, value in model.named_buffers()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "gradients": {name: (value.requires_grad, value.grad) for name, value in model.named_parameters()},
        "hooks": {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()},
        "random": torch.get_rng_state(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["fp32", "bnn", "recu", "fda"])
@pytest.mark.parametrize("track", MEASURING, ids=lambda track: track.name)
def test_measuring_leaves_the_run_as_it_was(finished: Finished, track: Track, algorithm: str) -> None:
    run = finished(algorithm)
    assert not run.model.training
    torch.manual_seed(7)
    before = state_of(run)
    outputs = run.model(digits.example())
    measure(track, run)
    after = state_of(run)
    for part in ("state", "buffers"):
        assert before[part].keys() == after[part].keys()
        assert all(torch.equal(value, after[part][name]) for name, value in before[part].items())
    assert torch.equal(before["random"], after["random"])
    assert {key: before[key] for key in ("modes", "hooks", "threads", "grad")} == {
        key: after[key] for key in ("modes", "hooks", "threads", "grad")
    }
    assert before["gradients"].keys() == after["gradients"].keys()
    assert all(
        flag == after["gradients"][name][0] and gradient is after["gradients"][name][1]
        for name, (flag, gradient) in before["gradients"].items()
    )
    assert torch.equal(run.model(digits.example()), outputs)


def test_tracks_without_measurements() -> None:
    assert learning_task.measure is None
    assert neural_architecture.measure is None


def test_what_training_consumption_measures(finished: Finished) -> None:
    found = {one.name: one for one in measure(training_consumption, finished("bnn"))}
    assert {name: (one.unit, one.higher_is_better) for name, one in found.items()} == {
        "time_cost": ("percent", True),
        "time_cost_lowest": ("percent", None),
        "time_cost_highest": ("percent", None),
        "step_time": ("s", False),
        "full_precision_step_time": ("s", None),
        "step_peak_memory": ("bytes", False),
        "full_precision_step_peak_memory": ("bytes", None),
    }
    assert all(one.conditions == {} and one.value > 0 for one in found.values())
    assert {one.samples for one in found.values()} == {2}
    assert found["time_cost_lowest"].value <= found["time_cost"].value <= found["time_cost_highest"].value
    both = 100 * found["full_precision_step_time"].value / found["step_time"].value
    # each is a median over the repeats, so the quotient of medians lies among the quotients
    assert found["time_cost_lowest"].value * 0.5 <= both <= found["time_cost_highest"].value * 2
    parameters = sum(value.numel() for value in finished("fp32").model.parameters())
    assert found["full_precision_step_peak_memory"].value > 4 * 4 * parameters  # weights, gradients, both moments


def test_the_partner_is_timed_with_the_binarized_runs_recipe(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def compare(model: Any, partner: Any, **settings: Any) -> Any:
        seen.append({"model": model, "partner": partner, **settings})
        return SimpleNamespace(
            time_ratio=80.0, lowest=70.0, highest=90.0, seconds=0.5, partner_seconds=0.4, peak_memory=300,
            partner_peak_memory=200, repeats=2,
        )  # fmt: skip

    monkeypatch.setattr("bibench.tracks.training_consumption.compare_training", compare)
    run = finished("bnn")
    found = {one.name: one.value for one in measure(training_consumption, run)}
    assert found == {
        "time_cost": 80.0, "time_cost_lowest": 70.0, "time_cost_highest": 90.0, "step_time": 0.5,
        "full_precision_step_time": 0.4, "step_peak_memory": 300.0, "full_precision_step_peak_memory": 200.0,
    }  # fmt: skip
    (settings,) = seen
    assert settings["model"] is run.model
    assert settings["recipe"] == settings["partner_recipe"] == run.config.recipe
    assert settings["repeats"] == 2
    assert len(settings["batch"][0]) == run.config.known_recipe.batch_size
    shapes = {name: value.shape for name, value in finished("fp32").model.state_dict().items()}
    assert {name: value.shape for name, value in settings["partner"].state_dict().items()} == shapes


def test_what_theoretical_complexity_measures(finished: Finished) -> None:
    found = measure(theoretical_complexity, finished("xnor"))
    units = {
        "speedup": ("ratio", True),
        "compression": ("ratio", True),
        "parameters": ("count", None),
        "kept_parameters": ("count", False),
        "operations": ("count", None),
        "kept_operations": ("count", False),
        "bit_operations": ("count", False),
        "memory_traffic": ("bytes", False),
    }
    for conditions in ({}, {"counting": "paper"}):
        own = {one.name: one for one in found if one.conditions == conditions}
        assert {name: (one.unit, one.higher_is_better) for name, one in own.items()} == units
        value = {name: one.value for name, one in own.items()}
        # equation 7
        operations, kept = value["operations"], value["kept_operations"]
        assert value["speedup"] == pytest.approx(operations / ((operations - kept) / 64 + kept))
        parameters, kept = value["parameters"], value["kept_parameters"]
        assert value["compression"] == pytest.approx(parameters / ((parameters - kept) / 32 + kept))
        assert value["parameters"] == sum(one.numel() for one in finished("fp32").model.parameters())
        assert 1 < value["speedup"] < 64
        assert 1 < value["compression"] < 32
    assert len(found) == 2 * len(units)
    # the real-time factors of XNOR-Net's activations are operations of the network, and not counted in the paper
    kept = [one.value for one in found if one.name == "kept_operations"]
    assert kept[0] > kept[1]


def test_operations_are_those_of_one_sample(finished: Finished) -> None:
    counts: list[int] = []

    def count(layer: Any, _: Any, output: torch.Tensor) -> None:
        # multiply-accumulates: each output of a convolution or linear map takes one filter or one row
        counts.append(output[0].numel() * layer.weight[0].numel())

    model = copy.deepcopy(finished("fp32").model)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    model(digits.example())
    found = {one.name: one.value for one in measure(theoretical_complexity, finished("bnn")) if not one.conditions}
    assert found["operations"] == sum(counts)
    kept = counts[0] + counts[-1]  # first and last layer; BNN has no scale
    assert found["kept_operations"] == kept
    assert found["bit_operations"] == 32 * 32 * kept + (sum(counts) - kept)


def test_full_precision_has_no_complexity_no_time_cost_and_no_latency(finished: Finished) -> None:
    assert measure(theoretical_complexity, finished("fp32")) == []
    assert measure(training_consumption, finished("fp32")) == []
    assert measure(hardware_inference, finished("fp32")) == []


ENDS = ("_lowest", "_lower_quartile", "_upper_quartile")


def test_what_hardware_inference_measures(finished: Finished, tmp_path: Path) -> None:
    run = finished("bnn")
    found = {one.name: one for one in measure(hardware_inference, run)}
    others = {"pytorch_latency"} | ({"onnx_runtime_latency"} if find_spec("onnxruntime") else set())
    spread = {f"{name}{end}" for name in ("latency", "full_precision_latency") for end in ENDS}
    latencies = {"latency", "full_precision_latency", "fastest_full_precision_latency"} | others | spread
    sizes = {"storage_compression", "packed_bytes", "full_precision_bytes", "packed_memory"}
    assert set(found) == latencies | sizes | {"packed_accuracy", "cores"}
    place = {"device": processor(), "threads": "1", "library": f"bibench ({instruction_sets()[0]})"}
    for name in latencies:
        assert (found[name].unit, found[name].conditions) == ("ms", place)
        assert 0 < found[name].value < 100
    value = {name: one.value for name, one in found.items()}
    for name in ("latency", "full_precision_latency"):
        lowest, lower, upper = (value[f"{name}{end}"] for end in ENDS)
        assert lowest <= lower <= value[name] <= upper
    assert (found["cores"].value, found["cores"].conditions) == (os.cpu_count(), place)
    fastest = found["fastest_full_precision_latency"]
    assert fastest.value == min(value[name] for name in {"full_precision_latency"} | others)
    assert fastest.mode in (place["library"], "PyTorch", "ONNX Runtime")
    path = tmp_path / "model.bibpack"
    export_run(run.config, run.model, path, task=digits)
    assert value["packed_bytes"] == path.stat().st_size
    assert value["full_precision_bytes"] == 4 * sum(one.numel() for one in finished("fp32").model.parameters())
    assert value["storage_compression"] == value["full_precision_bytes"] / value["packed_bytes"]
    packed = load_packed(path)
    assert value["packed_memory"] == packed.memory
    right = digits.evaluate(PackedModule(packed), run.data.test.batches(32, device=torch.device("cpu")))
    assert found["packed_accuracy"] == Figure(
        name="packed_accuracy", value=right.figures["accuracy"], unit="percent", samples=360, higher_is_better=True
    )
    with torch.no_grad():
        trained = digits.evaluate(run.model, run.data.test.batches(360, device=torch.device("cpu")))
    assert value["packed_accuracy"] == pytest.approx(trained.figures["accuracy"], abs=0.6)


def test_latency_is_measured_on_each_number_of_threads(finished: Finished) -> None:
    found = measure(hardware_inference, finished("bnn", measuring=dataclasses.replace(LITTLE, threads=(1, 2))))
    timed = [one.name for one in found if one.unit == "ms" and one.conditions["threads"] == "1"]
    assert "latency" in timed
    assert [one.name for one in found if one.unit == "ms" and one.conditions["threads"] == "2"] == timed
    assert sum(one.name == "storage_compression" for one in found) == 1


def test_other_runtimes_are_left_out_where_there_are_more_threads_than_cores(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bibench.tracks.hardware_inference._CORES", 2)
    found = measure(hardware_inference, finished("bnn", measuring=dataclasses.replace(LITTLE, threads=(3,))))
    own = {one.name: one for one in found if one.unit == "ms"}
    assert own.keys().isdisjoint({"pytorch_latency", "onnx_runtime_latency"})
    assert own["fastest_full_precision_latency"].value == own["full_precision_latency"].value


def absences(run: FinishedRun) -> list[Absence]:
    assert hardware_inference.measure is not None
    found = hardware_inference.measure(run)
    assert [one.name for one in found] == ["latency", "storage_compression"]
    return [one for one in found if isinstance(one, Absence)]


class Unusual(torch.nn.Module):
    """A network with an operation that nothing ships."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(images.cumsum(dim=-1))
        return found


def test_a_network_that_cannot_be_packed_is_not_deployable(finished: Finished) -> None:
    for one in absences(finished("bnn", model=Unusual(finished("bnn").model))):
        assert one.status == "not_deployable"
        assert "cumsum" in one.reason


def test_where_nothing_can_be_deployed_it_is_not_measured(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in absences(finished("bnn", device="cuda")):
        assert one.status == "not_measured"
        assert one.reason.startswith("it ran on 'cuda'; the packed engine runs on CPUs")
    monkeypatch.setattr("bibench.tracks.hardware_inference.engine_lacks", lambda: "the packed engine is not built")
    for one in absences(finished("bnn")):
        assert (one.status, one.reason) == ("not_measured", "the packed engine is not built")


class Blank:
    """The test images replaced by a constant one, the same for every corruption and severity."""

    def __init__(self, count: int) -> None:
        self.asked: list[tuple[str, int]] = []
        self.count = count

    def __call__(self, corruption: str, severity: int) -> Any:
        self.asked.append((corruption, severity))
        test = DATA.test
        assert isinstance(test, ImagesInMemory)
        images = torch.zeros_like(test.images[: self.count])
        split = dataclasses.replace(test, images=images, labels=test.labels[: self.count])
        return SimpleNamespace(split=split, origin=f"origin of {corruption}")


def test_what_corruption_robustness_measures(finished: Finished) -> None:
    blank = Blank(300)
    run = finished("bnn", data=dataclasses.replace(DATA, corrupted=blank))
    found = measure(corruption_robustness, run)
    asked = [("fog", 2), ("fog", 5), ("gaussian_noise", 2), ("gaussian_noise", 5)]
    assert blank.asked == asked
    with torch.no_grad():
        said = run.model((torch.zeros(1, 1, 8, 8) - 4.9) / 6.0).argmax().item()
    right = 100 * (DATA.test.labels[:300] == said).double().mean().item()  # type: ignore[attr-defined]
    for one, (corruption, severity) in zip(found, asked, strict=True):
        assert one == Figure(
            name="accuracy",
            value=one.value,
            unit="percent",
            samples=300,
            higher_is_better=True,
            mode=f"origin of {corruption}",
            conditions={"corruption": corruption, "severity": str(severity)},
        )
        assert one.value == pytest.approx(right)


def test_all_corruptions_and_severities_by_default(finished: Finished) -> None:
    blank = Blank(10)
    run = finished("bnn", data=dataclasses.replace(DATA, corrupted=blank), measuring=Measuring())
    assert len(measure(corruption_robustness, run)) == 95
    assert blank.asked == [(corruption, severity) for corruption in CORRUPTIONS for severity in range(1, 6)]


def test_a_task_without_images_has_no_corrupted_scores(finished: Finished) -> None:
    assert measure(corruption_robustness, finished("bnn", data=dataclasses.replace(DATA, corrupted=None))) == []


def test_the_digits_are_corrupted_for_real(finished: Finished) -> None:
    for algorithm in ("bnn", "fp32"):
        found = measure(corruption_robustness, finished(algorithm))
        assert len(found) == 4
        assert {one.samples for one in found} == {len(DATA.test)}
        assert len({one.mode for one in found}) == 1
        assert all(0 <= one.value <= 100 for one in found)
    assert found == measure(corruption_robustness, finished("fp32"))  # the same every time
