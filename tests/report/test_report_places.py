"""Latencies by device, in the terminal and on the page, and the plot of speedup against computing power."""

import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bibench.recipes import SGD, Recipe
from bibench.records import Figure, Record, Results, RunConfig
from bibench.report import Meta, device_plots, print_tables, write_report
from bibench.report.device_plots import computing_power_plot
from bibench.report.figure_tables import deployment_tables
from bibench.report.places import place_tables
from bibench.report.plots import BLUE, INK
from bibench.tracks import score
from bibench.tracks.hardware_inference import hardware_inference
from bibench.tracks.places import Place, places, published_places

HERE = {"device": "EPYC", "threads": "1", "library": "bibench (avx2)"}
PI = {"device": "pi4 (Cortex-A72)", "threads": "4", "library": "bibench (neon)"}


def record(algorithm: str, seed: int, *figures: Figure) -> Record:
    run = RunConfig(
        task="cifar10", architecture="resnet18", algorithm=algorithm, method="fine_tune", seed=seed, family="cnns",
        metric="accuracy", recipe=Recipe(optimizer=SGD(lr=0.1), epochs=1, batch_size=8),
    )  # fmt: skip
    clean = Figure(name="accuracy", value=80.0, unit="percent")
    return Record(
        id=run.id, run=run, status="ok", figures=(clean, *figures), environment=None, finished="2026-01-01T00:00:00Z"
    )


def pair(place: dict[str, str], own: float, full: float, cores: int = 2) -> list[Figure]:
    return [
        Figure(name="cores", value=cores, unit="count", conditions=place),
        Figure(name="latency", value=own, unit="ms", conditions=place),
        Figure(name="full_precision_latency", value=full, unit="ms", conditions=place),
    ]


def made(*records: Record) -> Results:
    return Results(plan=[one.run for one in records], records=records)


OPERATIONS = Figure(name="operations", value=5.0e8, unit="count")
FASTEST = Figure(name="fastest_full_precision_latency", value=5.0, unit="ms", mode="PyTorch", conditions=HERE)
RESULTS = made(
    record("bnn", 0, OPERATIONS, *pair(HERE, 1.0, 10.0), FASTEST, *pair(PI, 20.0, 100.0)),
    record("bnn", 1, OPERATIONS, *pair(HERE, 1.0, 10.0), FASTEST, *pair(PI, 20.0, 140.0)),
    record("recu", 0, OPERATIONS, *pair(HERE, 2.0, 10.0), FASTEST),
)


def test_a_line_for_each_place() -> None:
    (table,) = place_tables(RESULTS, places(RESULTS))
    assert table.title == "resnet18 on cifar10, mean over 1 to 2 seeds"
    assert table.columns == ("full precision", "bnn", "recu")
    assert table.rows == {
        "EPYC, threads: 1, bibench (avx2)": ("10.0 ms", "1.00 ms, 10.00x", "2.00 ms, 5.00x"),
        "pi4 (Cortex-A72), threads: 4 on 2 cores, bibench (neon)": ("120 ms", "20.0 ms, 6.00x", "not measured"),
    }
    out = io.StringIO()
    print_tables(RESULTS, score(RESULTS, [hardware_inference]), [], Console(file=out, color_system=None))
    lines = out.getvalue().splitlines()
    start = lines.index("hardware_inference by device: resnet18 on cifar10, mean over 1 to 2 seeds")
    assert re.split(r"  +", lines[start + 3]) == ["pi4 (Cortex-A72), threads: 4 on 2 cores, bibench (neon)", "120 ms",
                                                 "20.0 ms, 6.00x", "not measured"]  # fmt: skip


def test_one_place_needs_no_table_of_places() -> None:
    results = made(record("bnn", 0, *pair(HERE, 1.0, 10.0)))
    assert place_tables(results, places(results)) == []


def test_ratios_are_taken_within_a_place() -> None:
    """Also over the fastest runtime, which was timed at one of the places only."""
    (table,) = deployment_tables(RESULTS)
    cells = dict(zip(table.columns, table.rows["bnn"], strict=True))
    assert cells["speedup"] == "8.00x"  # 10, 5, 10, 7
    assert cells["over the fastest"] == "5.50x"  # 5, 5, 5, 7
    assert dict(zip(table.columns, table.rows["recu"], strict=True))["over the fastest"] == "2.50x"


def test_the_page(tmp_path: Path) -> None:
    scores = score(RESULTS, [hardware_inference])
    write_report(tmp_path / "r.html", RESULTS, scores, [], lambda _: [], Meta(suite="s", tracks=[hardware_inference]))
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<h3>By device</h3>" in page
    assert "<span hidden>place</span>" in page
    assert "more threads than cores: 4 on pi4 (Cortex-A72) with 2" in page
    assert "<title>Speedup against computing power</title>" in page
    without = made(*(one.model_copy(update={"figures": one.figures[:1]}) for one in RESULTS.records))
    write_report(tmp_path / "r.html", without, [], [], lambda _: [], Meta(suite="s", tracks=[hardware_inference]))
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "By device" not in page
    assert "Speedup against" not in page


def drawn(monkeypatch: pytest.MonkeyPatch, *arguments: list[Place]) -> dict[str, list[tuple[float, float]]]:
    """What is drawn, by colour and size: the dots."""
    seen: dict[str, list[tuple[float, float]]] = {}

    def keep(canvas: object, title: str) -> str:
        for line in canvas.axes[0].get_lines():  # type: ignore[attr-defined]
            key = f"{line.get_color()} {line.get_markersize():g}"
            seen[key] = [(float(x), float(y)) for x, y in line.get_xydata()]
        return title

    monkeypatch.setattr(device_plots, "page_svg", keep)
    assert computing_power_plot(*arguments) == "Speedup against computing power"
    return seen


def test_what_the_plot_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    published = published_places()
    found = drawn(monkeypatch, places(RESULTS), published)
    # 5e8 operations: in 10 ms, and in the mean of 100 and 140 ms; speedups of bnn and recu 10 and 5, of bnn 6
    assert np.array(found[f"{BLUE} 3.5"]) == pytest.approx(np.array([(50.0, 7.5), (5e8 / 0.12 / 1e9, 6.0)]))
    assert np.array(found[f"{BLUE} 8"]) == pytest.approx(np.array(found[f"{BLUE} 3.5"]))  # a dot a device
    assert len(found[f"{INK} 8"]) == 14
    rows = {(one.device, one.threads, one.library, one.architecture) for one in published}
    assert len(found[f"{INK} 3.5"]) == len(rows)
    two = [places(RESULTS)[0], places(RESULTS)[0]]
    twice = drawn(
        monkeypatch, [two[0], Place(**(vars(two[1]) | {"threads": "2", "rate": 2e11, "speedup": 2.0}))], published
    )
    assert np.array(twice[f"{BLUE} 8"]) == pytest.approx(
        np.array([(100.0, 6.0)])
    )  # sqrt(50 · 200), and the mean of 10 and 2


def test_the_plot_is_one_picture_with_the_devices_names() -> None:
    svg = computing_power_plot(places(RESULTS), published_places())
    assert svg is not None
    texts = [text for node in ElementTree.fromstring(svg).iter() if (text := (node.text or "").strip())]
    assert {"EPYC", "pi4 (Cortex-A72)", "BiBench, Tables 14 to 17", "measured here"} <= {*texts}


def test_no_plot_without_operations() -> None:
    for operations in ((), (Figure(name="operations", value=0.0, unit="count"),)):
        results = made(record("bnn", 0, *operations, *pair(HERE, 1.0, 10.0)))
        assert computing_power_plot(places(results), published_places()) is None
