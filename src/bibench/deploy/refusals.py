"""Saying which layer of a program another runtime's format can't express."""

from __future__ import annotations

from typing import NoReturn

from bibench.deploy.format import PackedError, Program

__all__ = ["ELSEWHERE", "IN_FULL_PRECISION", "refuse"]

ELSEWHERE = "replace it, or export to another format"
"""Advice for what the format doesn't have at all."""

IN_FULL_PRECISION = "leave it in full precision, or export to another format"
"""Advice for a layer that the format has only for floats."""


def refuse(program: Program, number: int, runtime: str, why: str, advice: str = ELSEWHERE) -> NoReturn:
    """Refuse an operation, by the name of its layer where it has one.

    Args:
        program: what is written.
        number: of the operation.
        runtime: the format's runtime, the subject of ``why``.
        why: what the runtime lacks.
        advice: what to do.

    Raises:
        PackedError: always.
    """
    layers = [layer["name"] for layer in program.metadata.get("layers", []) if layer["operation"] == number]
    titles = program.metadata.get("operations", [])
    title = titles[number] if number < len(titles) else program.operations[number].code.name
    what = f"layer '{layers[0]}'" if layers else f"operation {number}, {title}"
    raise PackedError(f"{what}: {runtime} {why}; {advice}")
