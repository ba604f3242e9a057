"""The rules of the house: who imports whom, what is public, and that examples in docstrings run."""

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import bibench

ROOT = Path(bibench.__file__).parent
ALLOWED = {
    "algorithms": {"algorithms"},
    "nn": {"nn", "algorithms", "recipes", "registry"},
    "models": {"models", "nn", "algorithms"},
    "tasks": {"tasks", "models", "recipes", "files"},
    "recipes": {"recipes"},
    "records": {"records", "recipes"},
    "training": {"training", "nn", "tasks", "models", "recipes", "records", "files"},
    "tracks": {"tracks", "nn", "training", "tasks", "models", "records", "deploy"},
    "bench": {
        "bench",
        "training",
        "tracks",
        "deploy",
        "records",
        "tasks",
        "models",
        "recipes",
        "nn",
        "registry",
        "suites",
        "files",
        "yaml_lines",
        "bibench",
    },
    "report": {"report", "tracks", "records", "files"},
    "suites": {"suites"},
    "registry": {"registry"},
    "files": {"files"},
    "yaml_lines": {"yaml_lines", "registry"},
    "native": {"native"},
    "deploy": {"deploy", "native", "nn", "algorithms", "tasks", "files", "yaml_lines"},
    "display": {"display", "bench", "records", "report"},
    "bibench": {"bibench", "nn", "algorithms", "deploy"},
    "__main__": {"cli"},
    "cli": None,  # all
}
"""What each room may import of bibench; ``bibench`` itself is the package's own ``__init__``."""

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(ROOT)], "bibench.")
    if not module.name.startswith("bibench.native.libbibench_engine")  # the packed engine, which isn't one of Python
)


def room(module):
    """The room of a module's dotted name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "bibench"


def path_of(module):
    path = ROOT.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(source, module, is_package):
    """Dotted names of bibench's modules that a source imports, anywhere in it, with the line."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            inside = name == "bibench"  # "from bibench import nn" imports a room, "... import __version__" the package
            found = [
                f"bibench.{alias.name}" if inside and f"bibench.{alias.name}" in MODULES else name
                for alias in node.names
            ]
        else:
            continue
        yield from ((name, node.lineno) for name in found if name.split(".")[0] == "bibench")


def broken_rules(source, module, is_package=False):
    allowed = ALLOWED[room(module)]
    return [
        f"{module}, line {line}: imports {name}"
        for name, line in imports(source, module, is_package)
        if allowed is not None and room(name) not in allowed
    ]


def test_rooms_import_only_what_they_may():
    broken = []
    for module in ["bibench", *MODULES]:
        path = path_of(module)
        broken += broken_rules(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    assert broken == []


def test_every_room_has_a_rule():
    assert {room(module) for module in ["bibench", *MODULES]} == set(ALLOWED)


@pytest.mark.parametrize(
    "source",
    [
        "from bibench.bench.store import Store",
        "import bibench.bench.store",
        "from bibench import bench",
        "import bibench",
        "def f():\n    from ..bench import store",
        "from .. import bench",
        "if True:\n    from ..bench.store import Store as S",
    ],
)
def test_the_check_sees_every_kind_of_import(source):
    assert len(broken_rules(source, "bibench.tasks.mine")) == 1
    assert broken_rules(source.replace("bench.store", "tasks.x").replace("..bench", "."), "bibench.cli") == []


def test_the_check_lets_pass_what_is_allowed():
    source = "import torch\nfrom . import base\nfrom .base import Task\nfrom ..models import image\nimport bibenchmark"
    assert broken_rules(source, "bibench.tasks.mine") == []
    assert broken_rules("from . import base", "bibench.tasks", is_package=True) == []


@pytest.mark.parametrize("name", ["bibench", *(name for name in MODULES if name != "bibench.__main__")])
def test_public_names_exist_and_examples_run(name):
    module = importlib.import_module(name)
    missing = [public for public in getattr(module, "__all__", []) if not hasattr(module, public)]
    assert missing == []
    results = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


def test_examples_are_found():
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module("bibench.registry"))
    assert sum(bool(test.examples) for test in found) >= 1
