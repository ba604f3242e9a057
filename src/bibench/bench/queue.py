"""Which run comes next: parents first, and of those that can start the one with the longest path behind it."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence

from bibench.bench.estimate import samples_of
from bibench.records import RunConfig

__all__ = ["Queue", "work_of"]


def work_of(runs: Sequence[RunConfig]) -> list[float]:
    """What each run costs beside the others: the training samples that it sees; 0 where nothing is trained.

    Where a task doesn't say how many training samples it has, all runs count by their budgets, in epochs or in steps.
    """
    trained = [run.method != "checkpoint" for run in runs]
    samples = [samples_of(run) if own else 0 for run, own in zip(runs, trained, strict=True)]
    known = [count for count in samples if count is not None]
    if len(known) == len(runs):
        return [float(count) for count in known]
    return [float(run.known_recipe.budget) if own else 0.0 for run, own in zip(runs, trained, strict=True)]


class Queue:
    """Runs that wait, by the length of their path: a run's own work and that of its longest chain of children.

    So a full-precision run that many wait for comes out before any of them, and the long chains are begun first,
    which is what keeps the last hours of a sweep busy. Every step costs O(log n).

    Args:
        runs: what there is to do, parents before children.
        there: identities of runs whose weights are there; of these none is waited for.

    Raises:
        ValueError: a run starts from one that is neither there nor before it in ``runs``.
    """

    def __init__(self, runs: Sequence[RunConfig], there: Collection[str] = ()) -> None:
        self._runs = {run.id: run for run in runs}
        self._children: dict[str, list[str]] = {name: [] for name in self._runs}
        self._order = {name: index for index, name in enumerate(self._runs)}
        self._paths = dict(zip(self._runs, work_of(list(self._runs.values())), strict=True))
        self._heap: list[tuple[float, int, str]] = []
        waits: list[str] = []
        for name, run in self._runs.items():
            if run.parent is None or run.parent in there:
                continue
            if self._order.get(run.parent, len(self._order)) >= self._order[name]:
                raise ValueError(f"run {name} starts from {run.parent}, neither finished nor planned before it")
            self._children[run.parent].append(name)
            waits.append(name)
        for name in reversed(self._runs):
            self._paths[name] += max((self._paths[child] for child in self._children[name]), default=0.0)
        for name in self._runs.keys() - set(waits):
            self._push(name)

    def _push(self, name: str) -> None:
        heapq.heappush(self._heap, (-self._paths[name], self._order[name], name))

    def take(self) -> RunConfig | None:
        """The next run; None as long as all others wait for one that was taken, or if there are no more."""
        return self._runs[heapq.heappop(self._heap)[2]] if self._heap else None

    def put_back(self, name: str) -> None:
        """Queue a run again that was taken: it wasn't done."""
        self._push(name)

    def finish(self, name: str) -> None:
        """Let those start that start from a run; it was taken and is done."""
        for child in self._children.pop(name, ()):
            self._push(child)

    def lose(self, name: str) -> list[RunConfig]:
        """Drop those that start from a run, or from one of these, and return them: its weights will not come."""
        lost: list[RunConfig] = []
        names = [name]
        while names:
            children = self._children.pop(names.pop(), [])
            lost += [self._runs[child] for child in children]
            names += children
        return lost
