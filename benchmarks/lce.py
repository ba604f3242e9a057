"""Larq Compute Engine's interpreter, for files of `bibench.export(..., to="tflite-lce")`: installed, loaded, run.

Its package is for x86-64 with Python 3.10 to 3.12 and needs NumPy below 2, which other packages may not take. So it
lives in a virtual environment of its own, which

    python benchmarks/lce.py --setup DIR

makes; ``DIR/bin/python benchmarks/lce.py --serve`` then runs files for another process. A benchmark in the same process
needs the package (without its dependencies) beside the project's own. Apart from that this needs NumPy alone.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

try:
    import numpy as np
except ModuleNotFoundError:  # `--setup` is there to install it
    np: Any = None

__all__ = ["MODES", "Prepared", "lacks", "setup"]

MODES: Mapping[str, tuple[bool, bool, bool]] = {
    "default": (False, False, False),
    "indirect": (False, True, False),
    "indirect + XNNPACK": (False, True, True),
}
"""The interpreter's switches: reference kernels, indirect matrix product, XNNPACK."""

_PACKAGE = "larq-compute-engine"
_VERSION = "0.16.0"
_MODULE = "larq_compute_engine/tflite/python/interpreter_wrapper_lite"
_PYTHONS = ((3, 10), (3, 12))


def lacks() -> str | None:
    """Why it can't be run here; None where it can."""
    try:
        _interpreter()
    except (ImportError, PackageNotFoundError) as error:
        return f"{type(error).__name__}: {error}"
    return None


@functools.cache
def _interpreter() -> Any:
    """The compiled module, loaded on its own: the package around it imports TensorFlow."""
    files = distribution(_PACKAGE).files or []
    found = [file for file in files if str(file).startswith(_MODULE) and file.suffix in (".so", ".pyd")]
    if not found:
        raise ImportError(f"{_PACKAGE} has no {_MODULE}")
    if int(np.__version__.partition(".")[0]) >= 2:  # it would crash on its first array
        raise ImportError(f"{_PACKAGE} needs NumPy below 2, found {np.__version__}")
    spec = importlib.util.spec_from_file_location("interpreter_wrapper_lite", found[0].locate())
    if spec is None or spec.loader is None:
        raise ImportError(f"{found[0]} can't be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Prepared:
    """A file in LCE's interpreter.

    Args:
        content: the file.
        mode: one of `MODES`.
        threads: of the interpreter.
    """

    def __init__(self, content: bytes, mode: str, threads: int = 1) -> None:
        self._interpreter = _interpreter().LiteInterpreter(content, threads, *MODES[mode])

    def on(self, *inputs: Any) -> Callable[[], list[Any]]:
        """A call on arrays as the file takes them. Inputs and outputs are copied in it."""
        interpreter, given = self._interpreter, [np.ascontiguousarray(x) for x in inputs]

        def call() -> list[Any]:
            return list(interpreter.predict(given))

        return call


def setup(folder: Path) -> Path:
    """Make the virtual environment; the path of its Python.

    Raises:
        SystemExit: this Python has no build of the package.
        subprocess.CalledProcessError: the installation failed; pip has said why.
    """
    if not _PYTHONS[0] <= sys.version_info[:2] <= _PYTHONS[1]:
        raise SystemExit(
            f"{_PACKAGE} has builds for Python {' to '.join('.'.join(map(str, v)) for v in _PYTHONS)}, this is "
            f"{sys.version_info.major}.{sys.version_info.minor}: run this with one of them"
        )
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "numpy<2"], check=True)
    # Its dependencies are those of its converter, TensorFlow among them; the interpreter needs none.
    subprocess.run([*pip, "--no-deps", f"{_PACKAGE}=={_VERSION}"], check=True)
    return python


def serve() -> None:
    """Run what each line of the standard input asks for, and answer it with a line.

    A request is a JSON object: ``file``, ``mode``, ``inputs`` (an .npz with arrays ``0``, ``1``, ...) and ``outputs``
    (where the same is to be written). The answer is an object, with the ``error`` where there was one.
    """
    for line in sys.stdin:
        request = json.loads(line)
        try:
            with np.load(request["inputs"]) as stored:
                inputs = [stored[str(number)] for number in range(len(stored.files))]
            outputs = Prepared(Path(request["file"]).read_bytes(), request["mode"]).on(*inputs)()
            np.savez(request["outputs"], **{str(number): output for number, output in enumerate(outputs)})
        except Exception as error:  # the answer; the one who asked goes on
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        else:
            print(json.dumps({}), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Larq Compute Engine's interpreter, in an environment of its own.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--setup", type=Path, metavar="DIR", help="make the environment, and print its Python's path")
    what.add_argument("--serve", action="store_true", help="run files for another process, see serve() here")
    given = parser.parse_args(arguments)
    if given.serve:
        lack = lacks()
        if lack is not None:
            raise SystemExit(f"{lack}\nmake an environment for it: python benchmarks/lce.py --setup DIR")
        serve()
    else:
        print(setup(given.setup))


if __name__ == "__main__":
    main()
