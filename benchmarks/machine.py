"""The machine that a benchmark ran on, in one line."""

from pathlib import Path

import torch

from bibench.bench.worker import Settings, environment


def machine(device: str = "cpu") -> str:
    """Processor or accelerator, threads and versions."""
    found = environment(Settings(out=Path(), device=device, threads=torch.get_num_threads()))
    return f"{found.accelerator or found.processor}, torch {found.torch}, {found.threads} threads, {found.platform}"
