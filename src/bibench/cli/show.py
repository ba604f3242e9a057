"""Commands that look at something: what there is, suites, results, the published figures, a model."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, cast, get_args

import torch
import typer
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from bibench import registry
from bibench.algorithms import composition
from bibench.bench.benchmark import score_store
from bibench.bench.estimate import estimate
from bibench.bench.plan import PlanError, make_plan
from bibench.bench.store import Store
from bibench.bench.suite import Suite, load_suite, shipped_suites
from bibench.cli.app import (
    SOME_FAILED,
    JsonOption,
    StoreArgument,
    address,
    app,
    clear_errors,
    collected_before,
    err,
    out,
    say,
    write_page,
)
from bibench.models.base import Architecture
from bibench.nn import binarize, complexity, resolve
from bibench.records import RunConfig
from bibench.report import print_plainly, print_tables
from bibench.report.published import print_beside, print_rankings, print_recomputed
from bibench.report.words import counted, duration
from bibench.tasks.base import Task
from bibench.tracks import Mode
from bibench.tracks.comparisons import comparisons, published_rankings, rankings
from bibench.tracks.published import beside, beside_raw, recompute
from bibench.tracks.training_consumption import settings_in

__all__ = ["compare", "complexity_", "list_", "report", "score", "validate"]


@app.command(name="list")
def list_(
    kind: Annotated[str, typer.Argument(help="algorithms, architectures, tasks, tracks or suites.")],
    as_json: JsonOption = False,
) -> None:
    """List what can be named in suites and on the command line."""
    with clear_errors():
        kinds = [*registry.KINDS, "suites"]
        if kind not in kinds:
            near = registry.did_you_mean(kind, kinds)
            raise PlanError(f"unknown kind '{kind}'{near} (known: {', '.join(kinds)})")
        rows = _listing(kind)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for key in rows[0]:
        table.add_column(key, overflow="fold")
    for row in rows:
        cells = (row.get(key, "") for key in rows[0])
        # As texts: a formula's brackets are no markup.
        table.add_row(*(Text(cell if isinstance(cell, str) else _joined(cell)) for cell in cells))
    print_plainly(out, lambda console: console.print(table))


def _joined(value: Any) -> str:
    return ", ".join(value) if isinstance(value, (list, tuple)) else str(value)


def _listing(kind: str) -> list[dict[str, Any]]:
    if kind == "suites":
        suites = [load_suite(name) for name in shipped_suites()]
        return [
            {"name": suite.name, "runs": len(make_plan(suite)), "description": suite.description} for suite in suites
        ]
    rows = [_row(kind, name) for name in registry.names(kind)]
    if kind == "algorithms":
        none = dict.fromkeys(rows[0], "") | {"name": "fp32", "title": "full precision", "from": "bibench"}
        return [none, *rows]
    return rows


_FIELDS = {
    "architectures": ("title", "family", "modality"),
    "tasks": ("title", "modality", "architectures"),
    "tracks": ("title", "description"),
}


def _row(kind: str, name: str) -> dict[str, Any]:
    """One row of a list; what another package provides may be broken, which its row says."""
    origin = {"from": registry.origin(kind, name)}
    try:
        if kind == "algorithms":
            algorithm = resolve(name)
            return {"name": name, "title": algorithm.title} | composition(algorithm)._asdict() | origin
        item = registry.get(kind, name)
        return {"name": name} | {field: getattr(item, field) for field in _FIELDS[kind]} | origin
    except Exception as error:
        if origin["from"] == "bibench":
            raise
        return {"name": name, "title": f"broken: {error}"} | origin


@app.command()
def validate(
    suite: Annotated[str, typer.Argument(help="Name of a shipped suite, or path of a YAML file.")],
    cost: Annotated[
        bool, typer.Option("--estimate/--no-estimate", help="Time training steps here and estimate what it all costs.")
    ] = True,
) -> None:
    """Check a suite without running it, and say what it would run and what that would cost."""
    with clear_errors():
        loaded = load_suite(suite)
        runs = make_plan(loaded)
        full = sum(run.algorithm == "fp32" for run in runs)
        budgets: dict[str, int] = {}
        for run in runs:
            recipe = run.known_recipe
            budgets[recipe.unit] = budgets.get(recipe.unit, 0) + recipe.budget
        together = " and ".join(f"{budget:,} {unit}" for unit, budget in budgets.items())
        networks = Counter(f"{run.task}/{run.architecture}" for run in runs)
        say(f"{loaded.name}: valid, {len(runs)} runs ({full} in full precision), {together} together")
        say(f"  networks:   {len(networks)}")
        for network, count in sorted(networks.items()):
            say(f"    {network}: {counted(count, 'run')}")
        say(f"  algorithms: {', '.join(algorithm.title for algorithm in loaded.algorithms)}")
        say(f"  seeds:      {', '.join(map(str, loaded.seeds))}")
        requested = [
            *(a.title for a in loaded.on_request),
            *(name for entry in loaded.tasks for name in entry.on_request),
            *(entry.task for entry in loaded.tasks if entry.optional),
        ]
        if requested:
            say(f"  on request: {', '.join(requested)}")
        for line in (*_grid_lines(loaded, runs), *_shared_lines(runs), *_awaited_lines(loaded)):
            say(line)
        if cost:
            _say_cost(runs)


def _grid_lines(suite: Suite, runs: Sequence[RunConfig]) -> Iterator[str]:
    grid = suite.sensitivity
    settings = settings_in(runs).get((grid.task, grid.architecture)) if grid is not None else None
    if grid is not None and settings is not None:
        seeds = len({run.seed for run in runs if run.setting is not None})
        yield (
            f"  sensitivity: {counted(len(settings), 'setting')} x {counted(seeds, 'seed')} on "
            f"{grid.task}/{grid.architecture}: {', '.join(settings)}"
        )


def _shared_lines(runs: Sequence[RunConfig]) -> Iterator[str]:
    """What is trained once and used several times."""
    parents = {run.parent for run in runs if run.parent is not None}
    if parents:
        children = sum(run.parent is not None for run in runs)
        checkpoints = counted(len(parents), "full-precision checkpoint")
        yield f"  shared:     {counted(children, 'run')} start from {checkpoints}"
    both = sum(run.main and run.setting is not None for run in runs)
    if both:
        yield f"              {counted(both, 'run')} of the sensitivity grid count in the other tracks too"


def _awaited_lines(suite: Suite) -> Iterator[str]:
    if not suite.awaiting:
        return
    tracks = dict.fromkeys(entry.track for entry in suite.awaiting)
    yield f"  awaiting:   what {' and '.join(tracks)} measures"
    for entry in suite.awaiting:
        where = f" ({entry.title})" if entry.title else ""
        yield f"    {entry.track}: {', '.join(entry.architectures)} on {entry.task}, of the runs above{where}"


def _say_cost(runs: Sequence[RunConfig]) -> None:
    with err.status("timing training steps") as status:
        found = estimate(runs, lambda text: status.update(f"timing training steps: {text}"))
    factors = [f"{name} {factor:.1f}x" for name, factor in found.factors.items() if name != "fp32"]
    say(f"  cost:       about {duration(found.total)} of training on one thread of this machine")
    for (task, architecture), seconds in found.seconds.items():
        text = "unknown, since the task doesn't say how many training samples it has"
        say(f"    {task}/{architecture}: {text if seconds is None else duration(seconds)}")
    say(
        "    from full-precision steps timed on every network, and binarized ones on "
        f"{'/'.join(found.probe)} ({', '.join(factors) or 'none'}); an order of magnitude"
    )


@app.command()
def score(
    folder: Annotated[
        str | None, typer.Argument(metavar="[DIR]", help="Folder of the results; left out with --published.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Score the paper's own figures, beside what its Tables 2 and 3 print.")
    ] = False,
    mode: Annotated[
        str | None,
        typer.Option("--mode", help="literal or paper [default: literal; paper with --published]."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score the results in a folder, or the published ones."""
    failed = False
    with clear_errors():
        if published == (folder is not None):
            raise PlanError("score takes either the folder of some results or --published")
        chosen = _mode(mode or ("paper" if published else "literal"))
        if published:
            cells = recompute(chosen)
            if as_json:
                print(_json(cells))
            else:
                print_recomputed(cells, chosen, out)
            return
        assert folder is not None
        results, scores, _ = score_store(Store.open(address(folder)), chosen)
        if as_json:
            print(_json(scores))
        else:
            with collected_before():
                print_tables(results, scores, comparisons(results), out)
        failed = any(row.status == "failed" for row in scores)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _mode(text: str) -> Mode:
    for mode in get_args(Mode):
        if text == mode:
            return cast(Mode, mode)
    raise PlanError(f"--mode {text}: expected {' or '.join(get_args(Mode))}")


def _json(rows: Sequence[Any]) -> str:
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=1, allow_nan=False)


@app.command()
def compare(
    folder: StoreArgument,
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="Another folder: how well the two rankings agree.")
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="With the paper's figures.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put the results in a folder beside the published ones, cell by cell, or their ranking beside another folder's."""
    with clear_errors():
        if published == (other is not None):
            raise PlanError("compare takes either --published or the folder of other results")
        if other is not None:
            found = rankings(Store.open(address(folder)).results(), Store.open(address(other)).results())
            if as_json:
                print(_json(found))
            else:
                print_rankings(found, f"the rankings in {folder} and {other}", out)
            return
        results, scores, _ = score_store(Store.open(address(folder)))
        cells, raw, orders = beside(scores), beside_raw(results), published_rankings(results)
        if as_json:
            print(_json([*cells, *raw, *orders]))
        else:
            print_beside(cells, raw, out)
            print_rankings(orders, "the rankings here and in the paper", out)


_INPUT, _OUTPUTS = "3,224,224", 1000


@app.command(name="complexity")
def complexity_(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="An architecture (bibench list architectures), or MODULE:FUNCTION that returns one."
        ),
    ],
    algorithm: Annotated[str, typer.Option("--algorithm", help="fp32 for full precision.")] = "bnn",
    task: Annotated[
        str | None, typer.Option("--task", help="Take input and outputs from a task (bibench list tasks).")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--input", help=f"Shape of one input, without the batch: channels, height, width [default: {_INPUT}]."
        ),
    ] = None,
    outputs: Annotated[
        int | None,
        typer.Option("--outputs", min=1, help=f"Outputs of an architecture, such as classes [default: {_OUTPUTS}]."),
    ] = None,
    counting: Annotated[
        str, typer.Option("--counting", help="model: what it has; paper: as the paper counts.")
    ] = "model",
    as_json: JsonOption = False,
) -> None:
    """Count the parameters, operations, bit-operations and memory traffic of a model, layer by layer."""
    with clear_errors():
        if counting not in ("model", "paper"):
            raise PlanError(f"--counting {counting}: expected model or paper")
        given = _Input.of_task(task, size, outputs) if task is not None else _Input.of_shape(size, outputs)
        network = _network(model, given)
        if algorithm != "fp32":
            network = binarize(network, resolve(algorithm), example=given.example, inplace=True)
        found = complexity(network, given.example[:1], counting=cast(Any, counting))
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        print(found)


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise PlanError(f"--input {text}: expected the sizes of one input, such as 3,224,224")
    return shape


@dataclasses.dataclass(frozen=True)
class _Input:
    """What a model of `complexity` takes and predicts.

    Args:
        shape, outputs: that an architecture is built for.
        example: two inputs.
        task: from which they are; None where options say them.
        words: the options that say so.
    """

    shape: tuple[int, ...]
    outputs: int | tuple[int, ...]
    example: Tensor
    task: Task | None
    words: str

    @classmethod
    def of_task(cls, name: str, size: str | None, outputs: int | None) -> _Input:
        if size is not None or outputs is not None:
            raise PlanError(
                f"--task {name} has an input and outputs of its own; leave out --input and --outputs, or --task"
            )
        task: Task = registry.get("tasks", name)
        if task.outputs is None:
            raise PlanError(
                f"--task {name}: the task doesn't say its outputs without its data; give --input and --outputs instead"
            )
        return cls(task.input_shape, task.outputs, task.example(), task, f"--task {name}")

    @classmethod
    def of_shape(cls, size: str | None, outputs: int | None) -> _Input:
        text, number = _INPUT if size is None else size, outputs or _OUTPUTS
        shape = _shape(text)
        return cls(shape, number, torch.zeros(2, *shape), None, f"--input {text} and --outputs {number}")

    def build(self, name: str) -> nn.Module:
        """The architecture of that name."""
        architecture: Architecture = registry.get("architectures", name)
        if self.task is not None and self.task.modality != architecture.modality:
            raise PlanError(
                f"architecture '{name}' takes {architecture.modality} inputs, task '{self.task.name}' has "
                f"{self.task.modality} inputs; choose another of the two"
            )
        try:
            return architecture.build(self.shape, self.outputs)
        except Exception as error:  # of whatever kind: it may be another package's
            advice = (
                f"give --task NAME of a task with {architecture.modality} inputs, or --input and --outputs that fit"
            )
            raise PlanError(f"{name} can't be built for {self.words} ({_in_a_line(error)}); {advice}") from error


def _network(name: str, given: _Input) -> nn.Module:
    """An architecture by name, or what a function of an installed module returns; it runs on the input."""
    module, colon, function = name.partition(":")
    if not colon:
        built = given.build(name)
    else:
        try:
            built = getattr(importlib.import_module(module), function)()
        except Exception as error:
            raise PlanError(
                f"{name}: can't be called as MODULE:FUNCTION without arguments ({_in_a_line(error)})"
            ) from error
        if not isinstance(built, nn.Module):
            raise PlanError(f"{name}: returned {type(built).__name__}, expected a torch.nn.Module")
    try:
        with torch.no_grad():
            built.eval()(given.example[:1])
    except Exception as error:
        what = f"the input of {given.words}" if given.task is not None else given.words.partition(" and ")[0]
        advice = "give --input the sizes that it takes, or --task NAME of a task that it is for"
        raise PlanError(f"{name} doesn't run on {what} ({_in_a_line(error)}); {advice}") from error
    return built


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())


@app.command()
def report(folder: StoreArgument) -> None:
    """Write report.html into a folder of results."""
    with clear_errors():
        path = write_page(Store.open(address(folder)), show=False)
    say(str(path))
