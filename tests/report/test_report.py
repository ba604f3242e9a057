"""The terminal's tables and the HTML page: what they say, and that nothing in them is taken for markup."""

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bibench.recipes import SGD, Recipe
from bibench.records import Absence, Environment, Figure, Record, Results, RunConfig
from bibench.report import Meta, html, print_tables, write_report
from bibench.report.plots import accuracy_plot, learning_curves
from bibench.report.summary import missing, task_tables
from bibench.report.words import duration
from bibench.tracks import score
from bibench.tracks.comparisons import comparisons
from bibench.tracks.learning_task import learning_task
from bibench.tracks.neural_architecture import neural_architecture

TRACKS = [learning_task, neural_architecture]
ENVIRONMENT = Environment(
    bibench="0.1.0", commit="c0ffee0000000000", python="3.12", torch="2.9", platform="Linux", processor="Some CPU",
    accelerator=None, threads=2,
)  # fmt: skip
RIGHT = {"fp32": 0.95, "bnn": 0.6, "recu": 0.9, "fda": 0.9}
SAMPLES = 200


def made(
    seeds: Sequence[int] = (0, 1),
    architectures: Sequence[str] = ("resnet20",),
    rename: Mapping[str, str] | None = None,
    failed: str | None = None,
    lacking: str | None = None,
    notes: tuple[str, ...] = (),
    reason: str = "loss is NaN in epoch 2",
    task: str = "cifar10",
    level: tuple[Figure, ...] = (),
) -> Results:
    """Runs of four algorithms; ``recu`` and ``fda`` cannot be told apart, ``bnn`` is far behind."""
    plan, records, predictions = [], [], {}
    for architecture in architectures:
        for algorithm, rate in RIGHT.items():
            for seed in seeds:
                run = RunConfig(
                    task=task, architecture=architecture, algorithm=(rename or {}).get(algorithm, algorithm),
                    method="fine_tune", seed=seed, recipe=Recipe(optimizer=SGD(lr=0.1), epochs=3, batch_size=8),
                    family="cnns", metric="accuracy",
                )  # fmt: skip
                plan.append(run)
                if algorithm == lacking and seed == seeds[-1]:
                    continue
                hit = (np.random.default_rng([seed, len(algorithm)]).random(SAMPLES) < rate).astype(np.float32)
                predictions[run.id] = hit
                bad = algorithm == failed and seed == seeds[-1]
                figure = Figure(name="accuracy", value=100 * float(hit.mean()), unit="percent", samples=SAMPLES)
                records.append(
                    Record(
                        id=run.id,
                        run=run,
                        status="failed" if bad else "ok",
                        reason=reason if bad else None,
                        figures=() if bad else (figure, *level),
                        phases={"train": 60.0, "evaluate": 1.0},
                        notes=notes,
                        environment=ENVIRONMENT,
                        finished="2025-01-01T00:00:00Z",
                    )
                )
    return Results(plan=plan, records=records, predictions=predictions.get)


def epochs(run_id: str) -> list[dict[str, Any]]:
    return [{"epoch": at, "train_loss": 1 / at, "accuracy": 50 + 10 * at, "loss": 1.0} for at in (1, 2, 3)]


def no_epochs(run_id: str) -> list[dict[str, Any]]:
    return []


def printed(results: Results, width: int | None = None) -> str:
    """What the tables print: in a terminal of that width, or without one."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=width is not None, color_system=None, highlight=False)
    print_tables(results, score(results, TRACKS), comparisons(results, resamples=300), console)
    return out.getvalue()


def page(path: Path, results: Results, **changes: Any) -> str:
    meta = Meta(**({"suite": "quick", "tracks": TRACKS} | changes))
    found = comparisons(results, resamples=300)
    write_report(path / "report.html", results, score(results, TRACKS), found, epochs, meta)
    return (path / "report.html").read_text(encoding="utf-8")


def test_tables_show_scores_ties_and_intervals() -> None:
    text = printed(made(), width=100)
    rows = {line.split()[0]: line for line in text.split("learning_task")[0].splitlines() if line.strip()}
    assert list(rows)[3:7] == list(RIGHT)  # after title, heading and rule; full precision first
    assert "~" in rows["recu"]
    assert "~" in rows["fda"]
    assert "~" not in rows["bnn"]
    assert "~" not in rows["fp32"]
    assert "±" in rows["bnn"]
    assert "mean ± std over 2 seeds" in text
    assert "paired bootstrap" in text
    assert re.search(r"bnn +\d+\.\d\d \[\d+\.\d\d, \d+\.\d\d\]", text)
    assert "no transformers in this suite  (transformers, om_arch of all algorithms)" in text


def test_scores_at_the_level_of_a_trivial_answer_are_marked(tmp_path: Path) -> None:
    def at(value: float) -> Results:
        mode = "one answer for all test samples ('<b>')"
        margin = Figure(name="trivial_accuracy_margin", value=3.4567, unit="percent")
        return made(level=(Figure(name="trivial_accuracy", value=value, unit="percent", mode=mode), margin))

    table = printed(at(60.0)).split("learning_task")[0]
    rows = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    assert [name for name in RIGHT if "*" in rows[name]] == ["bnn"]
    told = "not better by more than 3.46 than one answer for all test samples ('<b>'), which would score 60.00 percent"
    assert f"* {told}" in printed(at(60.0))
    text = page(tmp_path, at(60.0))
    assert f"* {told}.".replace("'<b>'", "&#39;&lt;b&gt;&#39;") in text
    assert re.findall(r"<td class=\"\">\d\d\.\d\d ± \d\.\d\d \*</td>", text) != []
    assert "one answer for all test samples ('<b>') would score 10.00 percent" in printed(at(10.0))
    assert "One answer for all test samples (&#39;&lt;b&gt;&#39;) would score 10.00 percent." in page(
        tmp_path, at(10.0)
    )
    assert "*" not in printed(at(10.0))


@pytest.mark.parametrize("width", [60, 80, 100])
def test_tables_fit_the_terminal_and_are_never_cut(width: int) -> None:
    results = made(architectures=["resnet20", "resnet18", "resnet34", "vgg_small", "mobilenet_v2"], failed="bnn")
    text = printed(results, width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for architecture in ("resnet20", "resnet34", "mobilenet_v2"):
        assert architecture in text


def test_without_a_terminal_each_table_is_one_block_of_plain_text() -> None:
    results = made(architectures=["resnet20", "resnet18", "resnet34", "vgg_small", "mobilenet_v2"])
    text = printed(results)
    assert "\x1b" not in text
    assert "─" not in text
    head = next(line for line in text.splitlines() if "resnet20" in line)
    assert head.split() == ["resnet20", "resnet18", "resnet34", "vgg_small", "mobilenet_v2"]


def test_one_seed_is_called_an_example(tmp_path: Path) -> None:
    text = printed(made(seeds=[0]), width=100)
    assert "one seed: an example" in text
    assert "±" not in text
    assert "one seed, so no interval" in text
    assert "A figure from one seed is an example" in page(tmp_path, made(seeds=[0]))
    assert "A figure from one seed is an example" not in page(tmp_path, made())


def test_failures_and_gaps_are_in_words(tmp_path: Path) -> None:
    results = made(failed="bnn", lacking="recu")
    text = printed(results, width=120)
    assert "(1 of 2, failed)" in text
    assert "(1 of 2)" in text
    assert "loss is NaN in epoch 2" in text
    html = page(tmp_path, results)
    assert "7 of 8 finished, 1 of them failed" in html
    assert html.count("loss is NaN in epoch 2") == 2  # in the runs that failed, and in what scores wait for
    first, second, *_ = missing(score(results, TRACKS), results)
    assert (first.failed, first.algorithms) == (True, ("bnn",))
    assert not second.failed


def test_what_cannot_be_deployed_is_told_with_its_reason(tmp_path: Path) -> None:
    results = made()
    absence = Absence(name="latency", status="not_deployable", reason="a <layer> that nothing runs")
    records = [
        record.model_copy(update={"absences": (absence,)}) if record.run.algorithm in ("bnn", "recu") else record
        for record in results.records
    ]
    text = page(tmp_path, Results(plan=results.plan, records=records, predictions=results.predictions))
    end = text[text.index("what can't be deployed") :]
    assert end.count("<tr><td>resnet20 on cifar10</td>") == 1
    assert "bnn, recu</td>" in end
    assert "a &lt;layer&gt; that nothing runs" in end
    assert "what can't be deployed" not in page(tmp_path, results)


def test_an_empty_store_is_told_as_such(tmp_path: Path) -> None:
    results = Results(plan=made().plan, records=[])
    assert "incomplete" in printed(results, width=100)
    html = page(tmp_path, results)
    assert "0 of 8 finished" in html
    assert "<svg" in html  # curves of the epochs that are there
    assert accuracy_plot(task_tables(results, [])[0], "resnet20") is None


def test_nothing_at_all_is_still_a_page(tmp_path: Path) -> None:
    assert "0 of 0 finished" in page(tmp_path, Results(plan=[], records=[]))


class _Tags(HTMLParser):
    """Which elements are open where, which sources are named, which ids there are."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("href", "src", "xlink:href")]
        self.ids += [value or "" for key, value in attrs if key == "id"]


def parsed(html: str) -> _Tags:
    tags = _Tags()
    tags.feed(html)
    return tags


def test_the_page_has_every_section_and_needs_nothing_else(tmp_path: Path) -> None:
    results = made(architectures=["resnet20", "resnet18"], notes=("4,000 of 50,000 training images",))
    html = page(tmp_path, results, description="A suite.", command="bibench run quick")
    tags = parsed(html)
    assert tags.tags.count("svg") == 4  # scores and curves for each architecture
    assert all(link.startswith("#") for link in tags.links)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", html)
    assert {"script", "link", "img", "iframe"}.isdisjoint(tags.tags)
    assert len(tags.ids) == len(set(tags.ids))
    for text in (
        "4,000 of 50,000 training images", "A suite.", "bibench run quick", "Some CPU", "c0ffee000000", "PyTorch 2.9",
        "2025-01-01T00:00:00Z", "2 (0, 1)", "16 min 16 s", learning_task.description, "95 % t interval",
        "mean over 2 seeds", "cannot be told apart from",
    ):  # fmt: skip
        assert text in html


def test_nothing_from_outside_is_taken_for_markup(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    results = made(
        task=f"t{evil}", architectures=[f"a{evil}"], rename={"bnn": evil, "recu": r"$\frac{1}{0}$"}, failed="fda",
        reason=f"bad {evil}", notes=(evil,),
    )  # fmt: skip
    html = page(tmp_path, results, suite=evil, description=evil, command=evil)
    assert "script" not in parsed(html).tags
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert evil in printed(results, width=200)
    svg = accuracy_plot(task_tables(results, [])[0], results.plan[0].architecture)
    assert svg is not None
    assert r"$\frac{1}{0}$" in ElementTree.fromstring(svg).itertext()  # a label is text, not a formula
    assert "[red]" in printed(made(rename={"bnn": "[red]"}), width=100)


def test_the_report_is_replaced_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page(tmp_path, made())
    before = (tmp_path / "report.html").read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        page(tmp_path, made(seeds=[0]))
    assert (tmp_path / "report.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_same_results_make_the_same_page(tmp_path: Path) -> None:
    assert page(tmp_path, made()) == page(tmp_path, made())


def test_plots_are_well_formed_and_take_the_colours_of_the_page() -> None:
    results = made()
    table = task_tables(results, [])[0]
    for svg in (accuracy_plot(table, "resnet20"), learning_curves(results, table, "resnet20", epochs)):
        assert svg is not None
        ElementTree.fromstring(svg)
        assert "currentColor" in svg
        assert "var(--plot" in svg
        assert "bnn" in svg
    assert learning_curves(results, table, "resnet20", no_epochs) is None


def test_epochs_may_be_text_or_empty_as_a_csv_has_them() -> None:
    results = made()
    table = task_tables(results, [])[0]
    svg = learning_curves(
        results, table, "resnet20", lambda _: [{"epoch": "1", "accuracy": "50.5"}, {"epoch": "2", "accuracy": ""}]
    )
    assert svg is not None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (7325, "2 h 02 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def svgs(text: str) -> list[str]:
    return re.findall(r"<title>(.*?)</title>", text)[1:]  # the first is the page's


def test_a_big_grid_is_drawn_in_part_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = made(architectures=("resnet20", "resnet18", "vgg_small"))
    whole = page(tmp_path, results)
    assert "Not drawn here" not in whole
    assert len(svgs(whole)) == 6
    monkeypatch.setattr(html, "_ALL_PICTURED", 8)  # of 3 networks times 3 algorithms
    monkeypatch.setattr(html, "_FEW_ALGORITHMS", 2)
    part = page(tmp_path, results)
    assert "plots and pictures are of 2 of 3 networks, of the first 2 of 3 algorithms" in part
    assert svgs(part) == [title for title in svgs(whole) if "vgg_small" not in title]
    rows = re.findall(r"<td[^>]*>[0-9.]+ ± [0-9.]+", part)
    assert rows == re.findall(r"<td[^>]*>[0-9.]+ ± [0-9.]+", whole)  # every number is there
    start = part.index("<title>accuracy by epoch on cifar10, resnet20")
    panels = part[start : part.index("</svg>", start)]
    assert [name for name in ("bnn", "recu", "fda") if f">{name}</text>" in panels] == ["bnn", "recu"]


def test_long_lists_end_with_how_many_more_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = ("resnet20", "resnet18", "vgg_small")
    failed, tied = made(architectures=networks, failed="bnn"), made(architectures=networks)
    for results in (failed, tied):
        assert not re.search(r"and \d+ more\.", page(tmp_path, results))
    monkeypatch.setattr(html, "_LISTED", 1)
    gaps = page(tmp_path, failed)
    gaps = gaps[gaps.index('id="missing"') :]
    assert gaps.count("<td><code>cifar10-") == 1
    assert "and 2 more." in gaps
    pairs = page(tmp_path, tied)
    pairs = pairs[pairs.index("All pairs that cannot") : pairs.index('id="missing"')]
    assert pairs.count("<tr><td>") == 1
    assert "and 2 more." in pairs


def test_a_page_says_when_not_all_pairs_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "only the pairs with its best" not in page(tmp_path, made())
    monkeypatch.setattr(html, "ALL_PAIRS", 2)
    text = page(tmp_path, made())
    assert "Where more than 2 algorithms ran on a network, only the pairs with its best are compared." in text
