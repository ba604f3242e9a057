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
    assert "nothing here has a published counterpart" in text_of(lambda console: print_beside([], [], console))
