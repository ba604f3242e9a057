"""The published results: they are what the paper's figures give, and they are records like ours."""

import csv
import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from bibench import registry
from bibench.records.published import printed_cells, published_results, published_training_speed
from bibench.records.record import parse_record

ALGORITHMS = ("fp32", "bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda")


def rows(shared: Path, name: str) -> list[dict[str, str]]:
    with (shared / "paper" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def figures(table: int):
    """The figures of a table, with their records."""
    source = f"BiBench, Table {table}"
    for record in published_results().records:
        for figure in record.figures:
            if figure.source is not None and (figure.source + " ").replace(",", " ").startswith(
                source.replace(",", " ") + " "
            ):
                yield record, figure


def test_every_record_is_one_of_a_published_run_and_reads_back() -> None:
    results = published_results()
    assert len({record.id for record in results.records}) == len(results.records) == 720
    for record in results.records:
        run = record.run
        assert (run.method, run.recipe, record.environment, record.status) == ("published", None, None, "ok")
        assert record.id == run.id
        assert run.algorithm in ALGORITHMS
        assert record.figures
        assert all(figure.source for figure in record.figures)
        assert parse_record(record.model_dump_json(), "again") == record


def test_a_run_that_is_published_is_not_trained() -> None:
    run = published_results().plan[0]
    with pytest.raises(ValueError, match="is a published run: its recipe isn't known"):
        _ = run.known_recipe


def test_accuracies_are_those_of_tables_7_to_9(shared: Path) -> None:
    expected = Counter()
    for row in rows(shared, "accuracy"):
        glue = row["dataset"] == "glue"
        task = f"glue_{row['subset']}" if glue else row["dataset"]
        subset = "" if glue or row["subset"] == "overall" else row["subset"]
        expected[task, row["arch"], row["algorithm"], subset, row["metric_name"], float(row["value"])] += 1
    found = Counter(
        (
            record.run.task,
            record.run.architecture,
            record.run.algorithm,
            figure.conditions.get("subset", ""),
            figure.name,
            figure.value,
        )
        for table in (7, 8, 9)
        for record, figure in figures(table)
    )
    assert found == expected
    assert sum(expected.values()) == 504


def test_corrupted_accuracies_are_those_of_tables_10_and_11(shared: Path) -> None:
    expected = {
        (row["algorithm"], row["corruption"], row["severity"]): float(row["accuracy"])
        for row in rows(shared, "corruption")
        if row["corruption"] != "origin"
    }
    found = {
        (record.run.algorithm, figure.conditions["corruption"], figure.conditions["severity"]): figure.value
        for table in (10, 11)
        for record, figure in figures(table)
    }
    assert found == expected
    assert len(found) == 9 * 95
    repaired = [figure for table in (10, 11) for _, figure in figures(table) if "printed as" in (figure.source or "")]
    assert [(figure.value, figure.source) for figure in repaired] == [
        (92.75, "BiBench, Table 10 (printed as 94.2, see README.md)")
    ]


def test_trials_are_those_of_tables_12_and_13(shared: Path) -> None:
    expected = Counter(
        (
            row["algorithm"],
            row["optimizer"],
            float(row["lr"]),
            row["scheduler"],
            int(row["trial"]),
            float(row["accuracy"]),
        )
        for row in rows(shared, "sensitivity")
    )
    found = Counter()
    for record in published_results().records:
        run = record.run
        if run.setting is not None:
            assert not run.main
            optimizer, rate, schedule = run.setting.split("-")
            base = {"sgd": 0.1, "adam": 1e-3}[optimizer]
            lr = round(base * float(rate.removesuffix("x")), 6)
            found[run.algorithm, optimizer, lr, schedule, run.seed, record.figure("accuracy").value] += 1
    assert found == expected
    assert sum(found.values()) == 360


def test_latencies_are_those_of_tables_14_to_17(shared: Path) -> None:
    printed = {
        (row["algorithm"], row["arch"], row["device"], row["threads"], row["library"]): float(row["latency_ms"])
        for row in rows(shared, "hardware")
    }
    found = {}
    for record in published_results().records:
        for (device, threads, library), figure in record.figures_under(
            "latency", "device", "threads", "library"
        ).items():
            place = (record.run.architecture, device, threads, library)
            full = record.figures_under("full_precision_latency", "device", "threads", "library")
            assert full[device, threads, library].value == printed[("fp32", *place)]
            found[(record.run.algorithm, *place)] = figure.value
            carried = record.run.algorithm in ("dorefa", "bireal", "recu", "fda")
            assert ("carries over" in figure.source) == carried
    for algorithm in ("bnn", "reactnet"):
        own = {
            place: value
            for place, value in printed.items()
            if place[0] == algorithm and ("fp32", *place[1:]) in printed
        }
        assert {place: value for place, value in found.items() if place[0] == algorithm} == own
    for algorithm in ("dorefa", "bireal", "recu", "fda"):
        assert {p[1:]: v for p, v in found.items() if p[0] == algorithm} == {
            p[1:]: v for p, v in found.items() if p[0] == "bnn"
        }
    absent = {r.run.algorithm: a.status for r in published_results().records for a in r.absences}
    assert absent == {"xnor": "not_deployable", "xnorpp": "not_deployable"}


def test_printed_cells_are_those_of_tables_2_and_3(shared: Path) -> None:
    expected = [
        (row["track"], row["metric"], row["unit"], row["algorithm"], float(row["value"]) if row["value"] else None)
        for row in rows(shared, "overall")
    ]
    assert [(c.track, c.metric, c.unit, c.algorithm, c.value) for c in printed_cells()] == expected
    assert len(expected) == 192


SPEED_NETWORKS = {
    ("cifar10", "resnet20"): ("cifar10", "resnet20e"),
    ("cifar10", "vgg16"): ("cifar10", "vgg16"),
    ("imagenet", "resnet34"): ("imagenet", "resnet34e"),
    ("movielens20m", "ncf"): ("movielens", "ncf"),
    ("all", "mean_of_4"): ("all", "all"),
}


def speed_figures(shared: Path, section: str):
    """The rows of a section of partial pre-training's figures, with the network's name here, its key and its value."""
    for row in rows(shared, "partial_pretraining"):
        if row["section"] == section:
            yield row, SPEED_NETWORKS[row["dataset"], row["network"]], row["key"], float(row["value"])


def test_final_scores_are_those_of_partial_pretraining(shared: Path) -> None:
    expected = [
        (network, {"fp32": "fp32", "binary": "pact"}[key], value, float(row["plus_minus"]))
        for row, network, key, value in speed_figures(shared, "final_accuracy")
    ]
    found = [figure for figure in published_training_speed() if figure.plus_minus is not None]
    assert [((f.task, f.architecture), f.algorithm, f.value, f.plus_minus) for f in found] == expected
    assert len(expected) == 8
    assert {(f.task, f.metric, f.unit) for f in found} == {
        ("cifar10", "accuracy", "percent"), ("imagenet", "accuracy", "percent"), ("movielens", "hr10", "ratio"),
    }  # fmt: skip
    assert {f.source for f in found} == {"Partial pre-training, Table 1"}


def test_speeds_and_speedups_are_those_of_partial_pretraining(shared: Path) -> None:
    names = {
        "low_precision": "iteration_speed",
        "full_precision": "full_precision_iteration_speed",
        "low_precision_slowdown": "slowdown",
    }
    expected = {
        (network, names.get(key, key)): value
        for section in ("training_speed", "speedup")
        for _, network, key, value in speed_figures(shared, section)
    }
    found = [figure for figure in published_training_speed() if figure.plus_minus is None]
    assert {((f.task, f.architecture), f.metric): f.value for f in found} == expected
    assert len(found) == len(expected) == 17
    assert {f.algorithm for f in found} == {"pact"}
    assert expected[("all", "all"), "iteration_speedup"] == 1.30
    assert {(f.metric, f.unit, f.source.removeprefix("Partial pre-training, ")) for f in found} == {
        ("iteration_speed", "1/s", "Table 2"), ("full_precision_iteration_speed", "1/s", "Table 2"),
        ("slowdown", "ratio", "Table 2"), ("wall_clock_speedup", "ratio", "section 5.2"),
        ("iteration_speedup", "ratio", "section 5.1"),
    }  # fmt: skip


def test_the_networks_of_partial_pretraining_are_ones_of_this_package() -> None:
    places = {(f.task, f.architecture) for f in published_training_speed()} - {("all", "all")}
    assert {task for task, _ in places} <= set(registry.names("tasks"))
    assert {architecture for _, architecture in places} <= set(registry.names("architectures"))


def the_tool():
    path = Path(__file__).parents[2] / "tools" / "published.py"
    spec = importlib.util.spec_from_file_location("published_tool", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_the_file_of_partial_pretraining_is_what_the_tool_makes(shared: Path) -> None:
    tool = the_tool()
    made = tool.lines(tool.training_speed(shared / "paper")).encode()
    assert made == (tool.OUT / "partial_pretraining.json").read_bytes()


@pytest.mark.slow
def test_the_files_are_what_the_tool_makes(shared: Path, tmp_path: Path) -> None:
    """Also that the counted complexities are what this version counts."""
    tool = the_tool()
    tool.main(shared / "paper", tmp_path)
    for name in ("raw.jsonl", "printed.json", "partial_pretraining.json"):
        assert (tmp_path / name).read_bytes() == (tool.OUT / name).read_bytes(), f"run tools/published.py for {name}"
