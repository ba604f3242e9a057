"""The training loop: one function that a reader can follow, around Lightning Fabric."""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from bibench.nn import clip_latent_, layer_statistics, parameter_groups, penalty, set_progress, weight_signs
from bibench.recipes import SGD, Recipe
from bibench.records import RunConfig
from bibench.records.figures import LARGEST
from bibench.tasks.base import Batch, Data, Evaluation, Task
from bibench.training.checkpoint import CheckpointError, State, load_optimizer, load_state, save_state, start_again
from bibench.training.distillation import distilled_loss
from bibench.training.loggers import Loggers
from bibench.training.machine import keep_freed_memory
from bibench.training.processes import children_ended, make_fabric
from bibench.training.seeds import derive_seed

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Diverged", "Trained", "evaluate", "steps_an_epoch", "train"]

DIVERGED = 1e6
"""A mean training loss above this, or one that is not finite, ends a run."""


class Diverged(RuntimeError):
    """A run whose loss or weights are no longer finite; a result, not an accident: the same run would do it again.

    Args:
        reason: what was found, and when.
        state: the run until then.
    """

    def __init__(self, reason: str, state: State) -> None:
        super().__init__(reason)
        self.state = state


@dataclass(frozen=True)
class Trained:
    """A trained model (on the run's device, in evaluation mode) and what its training showed."""

    model: nn.Module
    evaluation: Evaluation
    state: State
    optimizer: torch.optim.Optimizer


def steps_an_epoch(data: Data, recipe: Recipe) -> int:
    """Steps of the optimizer in one pass over the training samples."""
    return max(1, len(data.train) // recipe.batch_size)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the model's parameters; scales and thresholds without weight decay by default."""
    chosen = recipe.optimizer
    groups = parameter_groups(model, chosen.weight_decay, decay_scales=recipe.decay_scales)
    if isinstance(chosen, SGD):
        return torch.optim.SGD(groups, lr=chosen.lr, momentum=chosen.momentum, nesterov=chosen.nesterov)
    return torch.optim.Adam(groups, lr=chosen.lr, betas=chosen.betas)


def optimize(
    fabric: Fabric,
    network: Any,
    optimizer: Any,
    batch: Batch,
    *,
    task: Task,
    recipe: Recipe,
    teacher: nn.Module | None = None,
) -> Tensor:
    """One step of the optimizer on a batch, and what the recipe asks for around it.

    Args:
        fabric: runs the step on the device, in the recipe's precision.
        network, optimizer: as ``fabric.setup`` returns them; the network is in training mode.
        batch: on the device.
        task: whose loss.
        recipe: distillation, bounds of the gradient and of the latent weights; the learning rate is the optimizer's.
        teacher: for distillation, in evaluation mode on the device.

    Returns:
        The loss before the step, detached, without the terms that the rules add.
    """
    optimizer.zero_grad()
    if recipe.distillation is None:
        loss = task.loss(network, batch)
    else:
        loss = distilled_loss(fabric, network, teacher, batch, task=task, weights=recipe.distillation)
    extra = penalty(network.module)
    fabric.backward(loss if extra is None else loss + extra)
    if recipe.gradient_clip is not None:
        fabric.clip_gradients(network, optimizer, max_norm=recipe.gradient_clip)
    optimizer.step()
    if recipe.latent_clip is not None:
        clip_latent_(network.module, recipe.latent_clip)
    return loss.detach()


def evaluate(model: nn.Module, task: Task, data: Data, *, batch_size: int, device: torch.device) -> Evaluation:
    """Evaluate on the whole test split, in evaluation mode and without gradients."""
    model.eval()
    with torch.no_grad():
        return task.evaluate(model, data.test.batches(batch_size, device=device))


@contextmanager
def _timed(phases: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        phases[phase] = phases.get(phase, 0.0) + time.perf_counter() - start


def _nothing() -> None:
    """Do nothing; unlike a lambda it can be sent to another process."""


def train(
    config: RunConfig,
    model: nn.Module,
    *,
    task: Task,
    data: Data,
    folder: Path,
    device: str = "cpu",
    threads: int = 1,
    checkpoint_seconds: float = 10.0,
    layers: bool = False,
    optimizer_start: Path | None = None,
    teacher: nn.Module | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
    on_saved: Callable[[], None] = _nothing,
    stop: Callable[[], bool] = lambda: False,
    loggers: Loggers | None = None,
) -> Trained:
    """Train a model as its run says, going on from the folder's checkpoint if there is one.

    Interrupted at any moment and started again, it ends with the same weights and figures; bit for bit on a CPU with
    the same number of threads.

    Args:
        config: the run.
        model: as `build_model` returns it.
        task, data: what the run names.
        folder: where checkpoints go.
        device: ``"cpu"`` or ``"cuda"``.
        threads: of each process, where the run has several devices.
        checkpoint_seconds: at the end of an epoch, write a checkpoint if the last one is at least this old.
        layers: record flip rate, sign balance and dead weights of every binarized layer after each epoch.
        optimizer_start: a state of the optimizer to start from, see `bibench.training.checkpoint.load_optimizer`.
        teacher: what the model learns from where the recipe has distillation: the full-precision network that it
            started from. It is moved to the device, in evaluation mode, and otherwise stays as it is.
        on_progress: called with the share of the run's steps that are done, before the first step and after each;
            not called where the run has several devices.
        on_saved: called after each checkpoint, in the process that wrote it; where the run has several devices, it must
            be of a kind that can be pickled.
        stop: asked at the end of each epoch whether to end there, after a checkpoint; not where the run has several
            devices.
        loggers: are told what each epoch gave.

    Raises:
        KeyboardInterrupt: ``stop`` said so.
        Diverged: the loss, a weight or a figure on the test split is not finite, or the loss is above `DIVERGED`.
        CheckpointError: the folder's checkpoint can't be used.
        ValueError: distillation without a teacher, or of what the model doesn't show.
    """
    precision = config.known_recipe.precision
    own = loggers or Loggers()
    job = _Job(config, model, task, data, folder, checkpoint_seconds, layers, optimizer_start, teacher, on_saved, own)
    if config.devices == 1:
        return _train(make_fabric(device, precision=precision), job, on_progress, stop)
    if config.known_recipe.batch_size % config.devices:
        raise ValueError(
            f"a batch of {config.known_recipe.batch_size} samples can't be shared evenly by {config.devices} devices; "
            "choose a number that divides it, or another batch_size"
        )
    # Each device is a process of its own with a copy of the job. They leave a checkpoint of the finished training, from
    # which this process goes on; only a reason comes back, since what doesn't fit a pipe would block them. The job goes
    # along with the function: Fabric takes arguments apart and doesn't know frozen dataclasses.
    several = make_fabric(device, config.devices, precision=precision, strategy="ddp_spawn")
    with children_ended():
        diverged = several.launch(partial(_train_part, job=job, threads=threads))
    if diverged is None:
        return _train(make_fabric(device, precision=precision), job, on_progress, stop)
    state = load_state(folder, config.id, model, make_optimizer(model, config.known_recipe)) or State(run=config.id)
    raise Diverged(diverged, state)


@dataclass(frozen=True)
class _Job:
    """What every process of a run needs."""

    config: RunConfig
    model: nn.Module
    task: Task
    data: Data
    folder: Path
    checkpoint_seconds: float
    layers: bool
    optimizer_start: Path | None
    teacher: nn.Module | None
    on_saved: Callable[[], None]
    loggers: Loggers


def _train_part(fabric: Fabric, *, job: _Job, threads: int) -> str | None:
    """One process of several; returns why the run diverged, if it did."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    # The copy that arrives shares its memory with those of the other processes.
    job = replace(job, model=copy.deepcopy(job.model))
    diverged: str | None = None
    try:
        _train(fabric, job, lambda share: None, lambda: False)
    except Diverged as error:
        diverged = str(error)
    # Before the interpreter ends, and with nothing left that holds the group: its threads may still be letting go of a
    # tensor, for which they need the interpreter; where it is gone they abort the process.
    gc.collect()
    fabric.barrier()
    torch.distributed.destroy_process_group()
    return diverged


def _part(fabric: Fabric, batch: Batch) -> Batch:
    """The samples of a batch that are this process's."""
    if fabric.world_size == 1:
        return batch
    own = slice(fabric.global_rank, None, fabric.world_size)
    return tree_map(lambda leaf: leaf[own] if isinstance(leaf, Tensor) else leaf, batch)


def whole_batch_statistics(model: nn.Module) -> nn.Module:
    """Let batch norm take its statistics over all processes of a run, in place; PyTorch has that for GPUs only.

    Parameters and buffers are the same objects under the same names.
    """
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return converted


def _mean(fabric: Fabric, value: Tensor) -> float:
    """The mean over the processes of a run."""
    reduced: Any = fabric.all_reduce(value, reduce_op="mean")
    return float(reduced)


def _train(fabric: Fabric, job: _Job, on_progress: Callable[[float], None], stop: Callable[[], bool]) -> Trained:
    config, model, task, data, folder = job.config, job.model, job.task, job.data, job.folder
    recipe = config.known_recipe
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        model = whole_batch_statistics(model)
    plain_optimizer = make_optimizer(model, recipe)
    network, optimizer = fabric.setup(model, plain_optimizer)
    teacher = None if job.teacher is None else fabric.to_device(job.teacher.eval())
    resumed = load_state(folder, config.id, model, plain_optimizer)
    if resumed is None and job.optimizer_start is not None:
        load_optimizer(job.optimizer_start, model, plain_optimizer)
    state = resumed or State(run=config.id)

    steps = steps_an_epoch(data, recipe)
    total_steps = recipe.total_steps(steps)
    epochs = 0 if config.method == "checkpoint" else recipe.total_epochs(steps)
    if state.epoch > epochs:
        raise CheckpointError(
            f"the checkpoint in {folder} is of epoch {state.epoch}, and the run has {epochs}; {start_again(folder)}"
        )
    saved = time.monotonic()
    result: Evaluation | None = None

    def test() -> Evaluation:
        with _timed(state.phases, "evaluate"):
            found = evaluate(network, task, data, batch_size=recipe.batch_size, device=fabric.device)
        _check_figures(found, state)
        return found

    if state.epoch < epochs:
        on_progress(state.epoch * steps / total_steps)
    # A run whose training is all done, as after its several processes, has been logged.
    with (job.loggers if state.epoch < epochs else Loggers()).opened(fabric, state.history) as log:
        for epoch in range(state.epoch, epochs):
            with _timed(state.phases, "train"):
                torch.manual_seed(derive_seed(config.seed, "epoch", epoch))
                set_progress(model, epoch, epochs)
                network.train()
                signs = weight_signs(model) if job.layers else {}
                total = torch.zeros((), device=fabric.device)
                count = min(steps, total_steps - epoch * steps)  # the last epoch may be a part of one
                seed = derive_seed(config.seed, "data", epoch)
                # Under no name, so that what reads the batches, such as worker processes, ends with the loop.
                for step, batch in enumerate(
                    islice(data.train.batches(recipe.batch_size, device=fabric.device, seed=seed), count)
                ):
                    done = epoch * steps + step
                    for group in optimizer.param_groups:
                        group["lr"] = recipe.learning_rate(done / total_steps)
                    own = _part(fabric, batch)
                    total += optimize(fabric, network, optimizer, own, task=task, recipe=recipe, teacher=teacher)
                    on_progress((done + 1) / total_steps)
                mean_loss = _mean(fabric, total) / count
                _check(model, mean_loss, state)
            result = test()
            row = {"epoch": epoch + 1, "lr": optimizer.param_groups[0]["lr"], "train_loss": mean_loss}
            state.history.append(row | result.figures)
            log(state.history[-1])
            if job.layers:
                state.layers += [{"epoch": epoch + 1} | asdict(layer) for layer in layer_statistics(model, signs)]
            state.epoch = epoch + 1
            stopped = stop()
            # Whether it is time is the first process's to say: the others only wait for it.
            if fabric.broadcast(stopped or state.epoch == epochs or time.monotonic() - saved >= job.checkpoint_seconds):
                with _timed(state.phases, "checkpoint"):
                    if fabric.is_global_zero:
                        save_state(folder, state, model, plain_optimizer)
                        job.on_saved()
                    fabric.barrier()
                saved = time.monotonic()
            if stopped:
                raise KeyboardInterrupt
    if result is None:  # nothing to train, or all of it was done before an interruption
        if epochs:
            set_progress(model, epochs - 1, epochs)
        result = test()
    return Trained(model.eval(), result, state, plain_optimizer)


def _check(model: nn.Module, loss: float, state: State) -> None:
    epoch = state.epoch + 1
    if not math.isfinite(loss) or loss > DIVERGED:
        raise Diverged(f"diverged: the mean training loss of epoch {epoch} is {loss:g}", state)
    for name, parameter in model.named_parameters():
        # A sign hides a weight that is not a number, so the loss alone doesn't tell.
        if not bool(torch.isfinite(parameter).all()):
            raise Diverged(f"diverged: after epoch {epoch} the parameter '{name}' is not finite", state)


def _check_figures(evaluation: Evaluation, state: State) -> None:
    # Weights that are finite can still be so large that the outputs are not.
    for name, value in evaluation.figures.items():
        if not abs(value) < LARGEST:
            raise Diverged(f"diverged: on the test split, after epoch {state.epoch + 1}, '{name}' is {value:g}", state)
