"""The README is true: its code runs, its table is what the code says."""

import re
import shutil
from pathlib import Path

import pytest
import torch

import bibench
from bibench import registry
from bibench.algorithms import composition
from bibench.bench.plan import make_plan
from bibench.bench.suite import parse_suite
from bibench.nn import resolve
from small_runs import bibench as command
from small_runs import suite_file

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    """The code block behind a marker."""
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no code block behind <!-- {marker} -->"
    return found[1]


def algorithm_rows() -> list[str]:
    """The table's rows, as the code composes the algorithms."""
    rows = []
    for name in registry.names("algorithms"):
        if registry.origin("algorithms", name) == "bibench":
            algorithm = resolve(name)
            rows.append(f"| `{name}` | {' | '.join(composition(algorithm))} | {algorithm.source} |")
    return rows


def test_the_table_of_algorithms_is_what_the_code_composes() -> None:
    expected = algorithm_rows()
    missing = [row for row in expected if row not in README]
    assert not missing, "README.md lacks these rows:\n" + "\n".join(missing)


def test_the_example_of_an_own_model_prints_what_it_says() -> None:
    found = re.search(r"## Your own model\n\n```python\n(.*?)```.*?```\n(.*?)```", README, re.DOTALL)
    assert found
    code = found[1].replace("224, 224", "64, 64").replace("print(", "text = str(")
    names: dict[str, object] = {}
    exec(code, names)
    assert str(names["text"]).splitlines()[-1] == found[2].strip()


def test_the_own_algorithm_has_at_most_30_lines_and_works() -> None:
    code = block("own algorithm")
    assert len(code.splitlines()) <= 30
    names: dict[str, object] = {}
    exec(code, names)
    model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
    binary = bibench.binarize(model, names["soft"])
    x = torch.randn(4, 8)
    binary(x).sum().backward()
    assert bibench.summary(binary).binarized == ("1",)
    assert binary[1].weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_three_commands_train_export_and_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(Path(__file__).parents[1] / "docs" / "images", tmp_path / "docs" / "images")
    for line in block("deploy commands").splitlines():
        found = command(*line.split()[1:])
        assert found.returncode == 0, found.stderr
    assert re.search(r"^ *\d+\.\d+ %  3$", found.stdout.splitlines()[0])  # the image is a three


def test_an_own_model_is_exported_and_run(tmp_path, monkeypatch) -> None:
    found = re.search(r"## Ship it\n\n```python\n(.*?)```", README, re.DOTALL)
    assert found
    monkeypatch.chdir(tmp_path)
    example = torch.randn(1, 8)
    model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
    binary = bibench.binarize(model, "recu", example=example).eval()
    images = torch.randn(5, 8)
    names: dict[str, object] = {"bibench": bibench, "binary": binary, "example": example, "images": images}
    exec(found[1], names)
    with torch.no_grad():
        torch.testing.assert_close(names["scores"], binary(images))


def test_the_pandas_lines_read_a_store(tmp_path, monkeypatch) -> None:
    out = tmp_path / "results" / "quick"
    suite = suite_file(tmp_path, recipe="{epochs: 1, batch_size: 256}")
    assert command("run", suite, "--out", out, "--jobs", 1).returncode == 0
    found = re.search(r"```python\nimport json\n(.*?)```", README, re.DOTALL)
    assert found
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec("import json\n" + found[1], names)
    accuracy = names["clean"].query("name == 'accuracy'")
    assert sorted(accuracy["run.algorithm"]) == ["bnn", "fp32", "recu"]
    assert len(names["epochs"]) == 3


def test_the_example_suite_is_valid() -> None:
    found = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert found
    suite = parse_suite(found[1], "README.md")
    assert suite.seeds == (0, 1, 2, 3, 4)
    assert {run.recipe.optimizer.lr for run in make_plan(suite) if run.operator and run.main} == {0.0005}
    assert len({run.setting for run in make_plan(suite)}) == 1 + 8


def test_the_call_of_partial_pretraining_trains_both_parts() -> None:
    found = re.search(r"## Train it faster\n.*?```python\n(.*?)```", README, re.DOTALL)
    assert found
    parts: list[tuple[bool, int]] = []

    def fit(model: torch.nn.Module, steps: int) -> None:
        parts.append((bool(bibench.summary(model).binarized), steps))

    model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
    names = {"bibench": bibench, "model": model, "fit": fit, "example": torch.randn(2, 8)}
    exec(found[1], names)
    assert parts == [(False, 32_000), (True, 32_000)]
    assert bibench.summary(names["binary"]).binarized
