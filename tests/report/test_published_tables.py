"""The published tables in a terminal."""

import io

from rich.console import Console

from bibench.report.published import print_beside, print_recomputed
from bibench.tracks.published import Beside, BesideRaw, recompute


def text_of(show) -> str:
    out = io.StringIO()
    show(Console(file=out, highlight=False))
    return out.getvalue()


def test_every_cell_has_a_line_with_what_is_printed_what_comes_out_and_the_difference() -> None:
    cells = recompute("paper")
    text = text_of(lambda console: print_recomputed(cells, "paper", console))
    lines = [line.split() for line in text.splitlines()]
    for cell in cells:
        printed = "-" if cell.printed is None else f"{cell.printed:.2f}"
        assert any(line[:3] == [cell.metric, cell.algorithm, printed] for line in lines), cell
    assert "speedup      bnn           5.45        5.59      +0.139  not reproducible" in text
    assert "192 cells of the paper's Tables 2 and 3, in the reading 'paper':" in text
    assert sum(int(line[0]) for line in lines if line and line[0].isdigit() and line[0] != "192") == 192


def test_own_results_beside_the_papers() -> None:
    cell = Beside(
        track="learning_task",
        metric="om_task",
        algorithm="recu",
        own=None,
        status="incomplete",
        printed=77.96,
        difference=None,
    )
    row = BesideRaw(
        task="cifar10",
        architecture="resnet20",
        algorithm="bnn",
        metric="accuracy",
        own=81.0,
        std=1.0,
        seeds=2,
        published=85.31,
        source="BiBench, Table 7",
        difference=-4.31,
    )
    text = text_of(lambda console: print_beside([cell], [row], console))
    assert "om_task  recu       incomplete      77.96           -" in text
    assert "-4.310  BiBench, Table 7" in text
    assert "corrupted" not in text.split("own results are on")[0]
    assert "nothing here has a published counterpart" in text_of(lambda console: print_beside([], [], console))


def test_the_note_of_a_row_is_printed_once_with_whose_it_is() -> None:
    notes = [("om_task", "bnn", "own over digits"), ("om_task", "recu", "own over digits"), ("digits", "bnn", "")]
    cells = [
        Beside(
            track="learning_task",
            metric=metric,
            algorithm=algorithm,
            own=80.0,
            status="ok",
            printed=70.0,
            difference=10.0,
            note=note,
        )
        for metric, algorithm, note in notes
    ]
    text = text_of(lambda console: print_beside(cells, [], console))
    assert text.count("own over digits") == 1
    assert "om_task of bnn, recu: own over digits\n" in text


def raw(algorithm: str, own: float, published: float, **more: object) -> BesideRaw:
    fields = {
        "task": "cifar10",
        "architecture": "resnet18",
        "algorithm": algorithm,
        "metric": "accuracy",
        "own": own,
        "std": None,
        "seeds": 1,
        "published": published,
        "source": "BiBench, Table 10",
        "difference": own - published,
    }
    return BesideRaw(**(fields | more))


def test_corrupted_images_and_trials_have_tables_of_their_own() -> None:
    cell = {"corruption": "fog", "origin": "generated"}
    rows = [
        raw("bnn", 90.0, 89.0),
        raw("bnn", 60.0, 70.0, severity=1, **cell),
        raw("bnn", 50.0, 48.0, severity=3, **cell),
        raw("bnn", 30.0, 20.0, severity=1, corruption="snow", origin="generated"),
        raw("recu", 83.0, 85.0, setting="sgd-1x-step", std=1.5, seeds=3, source="BiBench, Table 13"),
    ]
    lines = [line.split() for line in text_of(lambda console: print_beside([], rows, console)).splitlines()]
    assert ["bnn", "fog", "55.00", "59.00", "-4.000", "-10.00", "+2.00"] in lines
    assert ["bnn", "snow", "30.00", "20.00", "+10.000", "+10.00", "-"] in lines
    assert ["recu", "sgd-1x-step", "83.00", "1.50", "3", "85.00", "-2.000", "BiBench,", "Table", "13"] in lines
    text = " ".join(" ".join(line) for line in lines)
    assert "cifar10 resnet18 on corrupted images, mean over severities (own images: generated)" in text
    assert "algorithm corruption own published difference difference at severity 1 3" in text
    assert "cifar10 resnet18, sensitivity grid: mean over the trials of each setting" in text
    assert "(Tables 10 to 13) are of ResNet-18 on CIFAR-10 alone" in text
    clean = ["cifar10", "resnet18", "bnn", "90.00", "-", "1", "89.00", "+1.000", "BiBench,", "Table", "10"]
    assert lines.count(clean) == 1


def test_in_a_narrow_terminal_nothing_is_cut() -> None:
    rows = [
        raw("bnn", 90.0, 89.0, task="speech_commands"),
        *(raw("bnn", 60.0, 70.0, corruption="elastic_transform", origin="generated", severity=i) for i in range(1, 6)),
    ]
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None, highlight=False)
    print_beside([], rows, console)
    text = out.getvalue()
    for part in ("speech_commands", "elastic_transform", "BiBench, Table 10", " ".join(["-10.00"] * 5)):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80
