"""The training-speed track's tables and plots, in the terminal and on the page, whatever of its runs is there."""

import html as html_module
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bibench.recipes import SGD, Recipe
from bibench.records import Environment, Figure, Record, Results, RunConfig
from bibench.report import Meta, print_tables, write_report
from bibench.report.summary import scorecards
from bibench.report.training import SpeedCell, Training, drawn, speed_table, trainings
from bibench.report.training_plots import curves_plot, splits_plot
from bibench.tracks import score
from bibench.tracks.training_speed import training_speed

ENVIRONMENT = Environment(
    bibench="0.1.0", commit=None, python="3.12", torch="2.9", platform="Linux", processor="Some CPU", accelerator=None,
    threads=1,
)  # fmt: skip
METHODS = ("full_precision", "from_scratch", "partial_pretraining", "fine_tune")
# The even splits of 2,000 and 4,000 score 60 as from scratch with 4,000 does, so with the grid both curves end there.
GRID = {(1000, 1000): 60.0, (1000, 3000): 66.0, (2000, 2000): 60.0, (2000, 3000): 70.0, (3000, 1000): 58.0}


class Made:
    """Runs of one network whose scores and times follow simple rules, so that speedups are known.

    Full precision takes 1 ms an iteration, binarized iterations 2 ms. From scratch a budget of ``b`` scores
    ``20 + b / 100``, with partial pre-training as much as from scratch with ``2 b``; a seed adds ``seed - 1``.
    """

    def __init__(
        self, network: tuple[str, str] = ("cifar10", "resnet20e"), metric: str = "accuracy", unit: str = "percent"
    ) -> None:
        self.network, self.metric, self.unit = network, metric, unit
        self.runs: dict[str, RunConfig] = {}
        self.records: dict[str, Record] = {}

    def add(
        self,
        algorithm: str,
        method: str,
        steps: int,
        value: float,
        seed: int,
        parent: RunConfig | None = None,
        figures: Sequence[Figure] = (),
        status: str | None = "ok",
        point: bool = True,
        **more: Any,
    ) -> RunConfig:
        """A run, and its record unless the status is None."""
        binarized = algorithm != "fp32"
        budgets = "+".join(str(own.known_recipe.budget) for own in (parent,) if own) + f"+{steps}"
        run = RunConfig(
            **{
                "task": self.network[0],
                "architecture": self.network[1],
                "algorithm": algorithm,
                "operator": "pact" if binarized else None,
                "method": method,
                "seed": seed,
                "recipe": Recipe(optimizer=SGD(lr=0.1), steps=steps, batch_size=8),
                "parent": None if parent is None else parent.id,
                "family": "cnns",
                "metric": self.metric,
                "main": False,
                "point": f"{method}-{budgets.strip('+')}" if point else None,
            }
            | more
        )
        before = self.runs.get(run.id)
        self.runs[run.id] = run if before is None or run.point else before
        if status is not None:
            whole = Figure(name=self.metric, value=value, unit=self.unit, higher_is_better=True)
            self.records[run.id] = Record(
                id=run.id,
                run=run,
                status=status,
                reason=None if status == "ok" else "loss is NaN in epoch 2",
                figures=(whole, *figures) if status == "ok" else (),
                measured=("training_speed",) if run.main and status == "ok" else (),
                phases={"train": steps * (0.002 if binarized else 0.001), "convert": 0.0, "evaluate": 9.0},
                environment=ENVIRONMENT,
                finished="2025-01-01T00:00:00Z",
            )
        return run

    def full(self, steps: int, seed: int, point: bool = True, **more: Any) -> RunConfig:
        return self.add("fp32", "full_precision", steps, 50 + steps / 200 + seed - 1, seed, point=point, **more)

    def partial(self, algorithm: str, first: int, second: int, value: float, seed: int, **more: Any) -> RunConfig:
        parent = self.full(first, seed, point=False)
        share = round(first / (first + second), 4)
        return self.add(algorithm, "partial_pretraining", second, value, seed, parent, share=share, **more)

    def results(self) -> Results:
        return Results(plan=list(self.runs.values()), records=list(self.records.values()))


def speeds(slow: float = 1.5, seed: int = 0) -> list[Figure]:
    """What the track measures: the binarized network runs at 40 iterations a second."""
    return [
        Figure(name="iteration_speed", value=40.0, unit="1/s"),
        Figure(name="full_precision_iteration_speed", value=40 * slow, unit="1/s"),
        Figure(name="slowdown", value=slow, unit="ratio", higher_is_better=False),
        Figure(name="slowdown_lowest", value=slow - 0.1 * (seed + 1), unit="ratio"),
        Figure(name="slowdown_highest", value=slow + 0.1 * (seed + 1), unit="ratio"),
    ]


def made(
    algorithms: Sequence[str] = ("pact",),
    seeds: Sequence[int] = (0, 1, 2),
    budgets: Sequence[int] = (1000, 2000, 4000),
    methods: Sequence[str] = METHODS,
    splits: Mapping[tuple[int, int], float] = GRID,
    states: Mapping[tuple[str, int], str | None] | None = None,
    scale: float = 1.0,
    **changes: Any,
) -> Results:
    """Curves by the rules of `Made`, and splits; ``states`` by method and budget are those of the last seed's runs."""
    house = Made(**changes)
    for algorithm in algorithms:
        for seed in seeds:
            house.full(4000, seed, point=False, main=True)
            house.add(
                algorithm, "from_scratch", 7, 50.0, seed, figures=speeds(seed=seed), main=True, point=False
            )  # the run that stands for its place, which the slowdown was measured on
            for budget in budgets:
                last = seed == seeds[-1]
                state = {m: (states or {}).get((m, budget), "ok") if last else "ok" for m in METHODS}
                value = {
                    "from_scratch": 20 + budget / 100 + seed - 1,
                    "partial_pretraining": 20 + budget / 50 + seed - 1,
                    "fine_tune": 70 + budget / 1000 + seed - 1,
                }
                value = {method: own * scale for method, own in value.items()}
                if "full_precision" in methods:
                    house.full(budget, seed, status=state["full_precision"])
                if "from_scratch" in methods:
                    own = value["from_scratch"]
                    house.add(algorithm, "from_scratch", budget, own, seed, status=state["from_scratch"])
                if "partial_pretraining" in methods:
                    half, own = budget // 2, value["partial_pretraining"]
                    house.partial(algorithm, half, half, own, seed, status=state["partial_pretraining"])
                if "fine_tune" in methods:
                    parent = house.full(4000, seed, point=False)
                    own = value["fine_tune"]
                    house.add(algorithm, "fine_tune", budget, own, seed, parent, status=state["fine_tune"])
            for (first, second), own in splits.items():
                if (first, second) != (1000, 1000):
                    house.partial(algorithm, first, second, (own + 0.5 * seed * (first == 1000)) * scale, seed)
    return house.results()


def only(results: Results) -> Training:
    (found,) = trainings(results)
    return found


def cells(results: Results) -> tuple[SpeedCell, ...]:
    table = speed_table(results)
    assert table is not None
    return table.rows[0].cells


def printed(results: Results, width: int | None = None) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=width is not None, color_system=None, highlight=False)
    print_tables(results, score(results, [training_speed]), [], console)
    return out.getvalue()


def page(path: Path, results: Results) -> str:
    """The section of the page."""
    meta = Meta(suite="speed", tracks=[training_speed])
    write_report(path / "report.html", results, score(results, [training_speed]), [], lambda _: [], meta)
    text = (path / "report.html").read_text(encoding="utf-8")
    return text.split('<section id="track-training_speed">')[1].split("</section>")[0]


def words(html: str) -> str:
    return " ".join(html_module.unescape(re.sub(r"<[^>]+>", " ", html)).split())


# Speedups and slowdowns


def test_speedups_of_known_curves() -> None:
    by_iterations, by_time, slowdown = cells(made(splits={}))
    # Scores 50 to 60, half of the highest to the highest from scratch: twice the iterations, of 2 ms and not of 1.5.
    assert (by_iterations.text, by_iterations.span) == ("2.00x", "2.00 to 2.00")
    assert (by_time.text, by_time.span) == ("2.67x", "2.67 to 2.67")
    assert by_iterations.detail == by_time.detail == "all 100, not converged"
    assert (slowdown.text, slowdown.span) == ("1.50x", "1.20 to 1.80")
    assert slowdown.detail == "40.00 against 60.00"
    assert {cell.state for cell in (by_iterations, by_time, slowdown)} == {""}


def test_scores_that_are_left_out_and_ends_that_meet_are_said() -> None:
    house = Made()
    for seed in (0, 1):
        for budget, slow, fast in ((1000, 40, 60), (2000, 60 + seed, 60.5 + seed)):
            house.add("pact", "from_scratch", budget, slow, seed)
            house.partial("pact", budget // 2, budget // 2, fast, seed)
    cell = cells(house.results())[0]
    assert cell.detail == "2 of 100, converged"


def test_published_figures_stand_beside_those_of_the_same_network_and_algorithm() -> None:
    results = made(algorithms=["pact", "bnn"], splits={})
    table = speed_table(results)
    assert table is not None
    assert [row.algorithm for row in table.rows] == ["pact", "bnn"]
    assert [cell.published for cell in table.rows[0].cells] == ["", "1.28x", "1.25x, 64.04 against 79.86"]
    assert [cell.published for cell in table.rows[1].cells] == ["", "", ""]
    assert table.published == "by iterations 1.30x is published, the mean over four networks"
    assert trainings(results)[0].published == "full precision 90.75 ± 0.26, pact 83.30 ± 0.25"
    assert trainings(results)[1].published == ""
    other = made(network=("digits", "digits_cnn"))
    assert speed_table(other).published == only(other).published == ""


def test_published_scores_are_not_put_beside_another_unit() -> None:
    network = ("movielens", "ncf")
    assert only(made(network=network, metric="hr10", unit="ratio", scale=0.01)).published == (
        "full precision 0.593 ± 0.002, pact 0.534 ± 0.003"
    )
    assert only(made(network=network, metric="hr10", unit="percent")).published == ""
    assert only(made(network=network)).published == ""


def test_without_curves_there_is_the_slowdown() -> None:
    results = made(methods=(), splits={})
    assert trainings(results) == []
    by_iterations, by_time, slowdown = cells(results)
    assert (by_iterations.text, by_time.state, slowdown.text) == ("no curves", "wait", "1.50x")


def test_what_is_missing_is_in_a_word() -> None:
    waiting = cells(made(states={("from_scratch", 2000): None}))
    assert [(cell.text, cell.state) for cell in waiting[:2]] == [("incomplete", "wait")] * 2
    bad = cells(made(states={("from_scratch", 2000): "failed"}))
    assert [(cell.text, cell.state) for cell in bad[:2]] == [("failed", "failed")] * 2
    assert waiting[2].text == bad[2].text == "1.50x"


def test_a_slowdown_that_is_not_there() -> None:
    results = made(splits={})
    bare = [record.model_copy(update={"figures": record.figures[:1]}) for record in results.records]
    assert cells(Results(plan=results.plan, records=bare))[2].text == "not measured"
    assert cells(Results(plan=results.plan, records=[]))[2].text == "no result"
    assert speed_table(Results(plan=[], records=[])) is None


# Scores at equal cost


def test_scores_at_equal_cost_count_the_full_precision_part() -> None:
    assert "fine-tuning" not in only(made(splits={})).equal_cost.columns  # it has 5,000, 6,000 and 8,000
    table = only(made(budgets=[1000, 2000, 4000, 8000], splits={})).equal_cost
    assert table.columns == ("full precision", "from scratch", "partial pre-training", "fine-tuning")
    assert list(table.rows) == [1000, 2000, 4000, 8000]  # fine-tuning alone has 5,000, 6,000 and 12,000
    assert table.rows[1000] == ("55.00 (54.00 to 56.00)", "30.00 (29.00 to 31.00)", "40.00 (39.00 to 41.00)", "")
    assert table.rows[8000][3] == "74.00 (73.00 to 75.00)"  # 4,000 in full precision and 4,000 binarized


def test_fewer_seeds_than_elsewhere_are_counted() -> None:
    results = made(states={("from_scratch", 2000): "failed", ("from_scratch", 4000): None}, splits={})
    table = only(results).equal_cost
    assert table is not None
    assert table.rows[2000][1] == "39.50 (39.00 to 40.00; 2 seeds)"
    assert only(results).lacking == "2 runs that these curves need have no result"
    assert only(made()).lacking == ""
    one = only(made(seeds=[1]))
    assert one.equal_cost is not None
    assert (one.seeds, one.equal_cost.rows[1000][0]) == (1, "55.00")


def test_ratios_have_three_decimals() -> None:
    table = only(made(metric="hr10", unit="ratio", scale=0.01)).equal_cost
    assert table is not None
    assert table.rows[1000][1] == "0.300 (0.290 to 0.310)"


def test_the_even_split_is_drawn_or_else_the_share_with_most_budgets() -> None:
    curves = drawn(only(made()).network)
    assert [(curve.method, curve.share) for curve in curves] == list(zip(METHODS, (None, None, 0.5, None), strict=True))
    house = Made()
    for first, second in ((1000, 3000), (2000, 6000), (1000, 1000), (3000, 1000)):
        house.partial("pact", first, second, 50.0, seed=0)
    assert [curve.share for curve in drawn(only(house.results()).network)] == [0.5]
    del house.runs[next(run.id for run in house.runs.values() if run.share == 0.5)]
    assert [curve.share for curve in drawn(only(house.results()).network)] == [0.25]


# Splits


def test_splits_have_their_grid_their_lines_and_their_gains() -> None:
    splits = only(made()).splits
    assert splits is not None
    # The curve's own points at 500 + 500 share no row or column with another; 2,000 + 2,000 of the grid is one too.
    assert (splits.first, splits.second) == ((1000, 2000, 3000), (3000, 2000, 1000))
    assert splits.medians == {**GRID, (1000, 3000): 66.5, (2000, 2000): 60.0}
    assert splits.depth(2000, 3000) == 100
    assert splits.depth(3000, 1000) == 0
    # 1,000 + 1,000 and 2,000 + 3,000 are the only splits of their totals, so no lines.
    assert {total: list(line) for total, line in splits.lines.items()} == {4000: [0.0, 0.25, 0.5, 0.75]}
    assert splits.lines[4000][0.0] == (59.0, 60.0, 61.0)  # from scratch
    assert splits.lines[4000][0.25] == (66.0, 66.5, 67.0)
    assert splits.best == {4000: 0.25}
    (row,) = splits.gains
    assert (row.budget, row.share, row.gain, row.seeds) == (4000, "0.25", "+6.50", 3)
    assert row.interval == "[5.26, 7.74]"


def test_an_even_split_that_is_best_gains_nothing() -> None:
    splits = only(made(splits=GRID | {(2000, 2000): 90.0})).splits
    assert splits is not None
    assert [(row.share, row.gain, row.interval) for row in splits.gains] == [("0.5", "+0.00", "")]


def test_a_gain_of_one_seed_has_no_interval() -> None:
    splits = only(made(seeds=[0])).splits
    assert splits is not None
    assert [(row.gain, row.interval, row.seeds) for row in splits.gains] == [("+6.00", "", 1)]


def test_splits_without_an_even_one_have_no_gain() -> None:
    splits = only(made(methods=["from_scratch"], splits={(1000, 3000): 66.0, (3000, 1000): 58.0})).splits
    assert splits is not None
    assert (list(splits.lines), splits.best, splits.gains) == ([4000], {}, ())


def test_of_many_budgets_those_split_in_most_ways_are_drawn() -> None:
    pairs = [(first, second) for first in range(1, 11) for second in range(1, 11)]
    splits = only(made(seeds=[0], methods=["from_scratch"], splits=dict.fromkeys(pairs, 50.0))).splits
    assert splits is not None
    assert list(splits.lines) == [8, 9, 10, 11, 12, 13, 14, 15]  # of 7 to 12 splits, from scratch not counted
    assert splits.omitted == "9 other budgets"
    assert len(splits.medians) == 100
    assert only(made()).splits.omitted == ""


def test_without_several_splits_there_are_none() -> None:
    assert only(made(splits={})).splits is None
    assert splits_plot(only(made(splits={}))) is None


# Plots


def texts(svg: str) -> list[str]:
    """The texts of a plot, after checking that it is well formed."""
    return [
        "".join(part.itertext()) for part in ElementTree.fromstring(svg).iter() if part.tag.rsplit("}")[-1] == "text"
    ]


def test_the_curves_are_drawn_by_iterations_and_by_time() -> None:
    svg = curves_plot(only(made()).network)
    assert svg is not None
    found = texts(svg)
    for text in ("full precision", "from scratch", "partial pre-training", "fine-tuning"):
        assert found.count(text) == 1
    assert {"iterations", "seconds of training", "accuracy (percent)"} <= set(found)
    for colour in ("currentColor", "var(--plot", "var(--full", "var(--other"):
        assert colour in svg
    assert "#009e73" not in svg.replace("var(--other, #009e73)", "")
    assert svg.count("FillBetweenPolyCollection") == 8  # a band a method and panel


def test_the_axis_is_logarithmic_where_budgets_span_more_than_a_factor_of_4() -> None:
    methods = ["from_scratch", "partial_pretraining"]

    def ticks(*budgets: int) -> list[int]:
        found = texts(curves_plot(only(made(methods=methods, budgets=budgets, splits={})).network) or "")
        return [int(text.replace(",", "")) for text in found if re.fullmatch(r"\d,\d{3}", text)]

    linear = ticks(1000, 2000, 4000)
    assert len(linear) > 3
    assert len({after - before for before, after in pairwise(linear)}) == 1
    assert ticks(1000, 2000, 4002) == [1000, 2000]
    assert ticks(1000, 2000, 8000) == [1000, 2000, 5000]


def test_long_budgets_and_times_are_in_larger_units() -> None:
    long = texts(curves_plot(only(made(budgets=[400_000, 2_000_000], splits={})).network) or "")
    assert {"thousand iterations", "minutes of training"} <= set(long)
    longer = texts(curves_plot(only(made(budgets=[4_000_000, 20_000_000], splits={})).network) or "")
    assert "hours of training" in longer


def test_epochs_are_called_epochs() -> None:
    house = Made()
    recipes = [Recipe(optimizer=SGD(lr=0.1), epochs=epochs, batch_size=8) for epochs in (1, 2)]
    for recipe in recipes:
        house.add("pact", "from_scratch", 1, 50.0, 0, recipe=recipe)
    training = only(house.results())
    assert training.budget_words == "epochs"
    assert "epochs" in texts(curves_plot(training.network) or "")


def test_one_seed_has_no_band() -> None:
    training = only(made(seeds=[0]))
    for svg in (curves_plot(training.network), splits_plot(training)):
        assert svg is not None
        texts(svg)
        assert "PolyCollection" not in svg
        assert "LineCollection" not in svg


def test_the_splits_are_drawn_a_line_a_budget() -> None:
    results = made(splits=GRID | {(1000, 2000): 64.0, (2000, 1000): 62.0})
    svg = splits_plot(only(results))
    assert svg is not None
    found = texts(svg)
    assert {"3,000", "4,000", "iterations", "share of full precision in the budget"} <= set(found)
    assert found.index("4,000") < found.index("3,000")  # the higher line first
    assert svg.count("LineCollection") == 2


def test_a_single_point_is_no_curve() -> None:
    assert curves_plot(only(made(budgets=[1000], splits={}, methods=["from_scratch"])).network) is None


# Page and terminal


def test_the_page_has_tables_and_plots(tmp_path: Path) -> None:
    html = page(tmp_path, made())
    text = words(html)
    assert html.count("<svg") == 2
    assert "resnet20e on cifar10 pact 2.00x (2.00 to 2.00) 67 of 100, converged" in text
    assert "published 1.28x" in text
    assert "by iterations 1.30x is published, the mean over four networks" in text
    assert "2,000 60.00 (59.00 to 61.00) 40.00 (39.00 to 41.00) 60.00 (59.00 to 61.00)" in text
    assert "Published, after the paper's whole budget: full precision 90.75 ± 0.26, pact 83.30 ± 0.25." in text
    assert "1,000 2,000 3,000 3,000 66.50 70.00 –" in text  # headings, then the row of the most binarized iterations
    assert "4,000 0.25 +6.50 [5.26, 7.74] 3" in text
    assert "chosen and measured on the same runs" in text
    assert "no result" not in text
    assert "Lower is better: slowdown" in text
    assert len(set(re.findall(r'\bid="([^"]+)"', html))) == len(re.findall(r'\bid="([^"]+)"', html))


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [0]},
        {"states": {("from_scratch", 2000): None, ("partial_pretraining", 4000): None}},
        {"states": {("full_precision", 2000): "failed"}},
        {"methods": [], "splits": {}},
        {"methods": ["full_precision", "from_scratch"], "splits": {}},
        {"methods": ["partial_pretraining"]},
        {"budgets": [1000], "splits": {}},
        {"algorithms": ["<i>pact</i> $x_1$", "bnn"]},
    ],
)
def test_whatever_is_there_makes_a_page_and_a_table(tmp_path: Path, changes: dict[str, Any]) -> None:
    results = made(**changes)
    html = page(tmp_path, results)
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ElementTree.fromstring(svg)
    assert "None" not in words(html)
    assert "<i>" not in html
    for text in (printed(results), printed(results, width=80)):
        assert "training_speed by network" in text
        assert "None" not in text


def test_nothing_but_a_plan_makes_a_page(tmp_path: Path) -> None:
    results = Results(plan=made().plan, records=[])
    assert "have no result" in words(page(tmp_path, results))
    assert "incomplete" in printed(results)
    assert "<svg" not in page(tmp_path, results)


def test_missing_runs_are_counted_beside_the_curves(tmp_path: Path) -> None:
    text = words(page(tmp_path, made(states={("from_scratch", 2000): None})))
    assert "1 run that these curves need has no result, so there is no speedup." in text


def test_the_terminal_has_a_row_a_network_and_algorithm() -> None:
    text = printed(made(algorithms=["pact", "bnn"]))
    table = text.split("training_speed by network")[1].splitlines()
    pact, bnn = (next(line for line in table if f"cifar10 resnet20e {name}" in line) for name in ("pact", "bnn"))
    assert re.split(r" {2,}", pact) == [
        "cifar10 resnet20e pact", "2.00x (2.00 to 2.00)", "67 of 100, converged", "2.67x (2.67 to 2.67)",
        "67 of 100, converged", "1.28x", "1.50x (1.20 to 1.80)", "40.00 against 60.00",
        "1.25x, 64.04 against 79.86",
    ]  # fmt: skip
    assert re.split(r" {2,}", bnn)[5:6] == ["-"]
    assert "by iterations 1.30x is published" in text
    assert text.index("training_speed: value") < text.index("training_speed by network")
    assert "published" not in printed(made(network=("digits", "digits_cnn")))


def test_of_the_slowdown_less_is_better() -> None:
    results = made()
    (card,) = scorecards(score(results, [training_speed]))
    assert card.lower_is_better == ("slowdown",)
    assert "lower is better: slowdown; for the others higher is" in printed(results)
