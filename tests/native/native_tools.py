"""Compilers and emulators for the native tests."""

import subprocess
from pathlib import Path

from needed_tools import lacks, need_tool

__all__ = ["NATIVE", "X86_UNITS", "build_replay", "call", "lacks", "need_tool"]

NATIVE = Path(__file__).parents[2] / "native"
X86_UNITS = {
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mpopcnt"],
    "avx512": [f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vpopcntdq", "vnni")]
    + ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mpopcnt"],
}
"""As in CMakeLists.txt."""


def call(*command: object, **settings) -> subprocess.CompletedProcess:
    """Run a command that must succeed; its output is text."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **settings)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done


def build_replay(folder: Path, prefix: str, units: dict[str, list[str]], *options: str) -> Path:
    """``native/examples/replay.c`` with the engine inside, for the compilers ``{prefix}gcc`` and ``{prefix}g++``.

    Args:
        units: kernels and their flags, beside the scalar ones.
        options: for every file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = [f for f in sorted((NATIVE / "src").glob("*.cpp")) if not f.stem.startswith("kernels_")]
    sources += [NATIVE / "src" / f"kernels_{unit}.cpp" for unit in ("scalar", *units)]
    objects = []
    for source in sources:
        flags = units.get(source.stem.removeprefix("kernels_"), [])
        objects.append(folder / f"{source.stem}.o")
        call(f"{prefix}g++", "-std=c++17", "-O1", *options, *flags, "-c", source, "-o", objects[-1])
    replay = folder / "replay.o"
    call(
        f"{prefix}gcc",
        "-std=c11",
        "-O1",
        "-I",
        NATIVE / "include",
        "-c",
        NATIVE / "examples" / "replay.c",
        "-o",
        replay,
    )
    call(f"{prefix}g++", "-static", replay, *objects, "-o", folder / "replay", "-pthread", "-lm")
    return folder / "replay"
