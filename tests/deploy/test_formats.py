import csv

import pytest
import torch
from formats_tool import TOOL
from torch import nn

import bibench
from bibench.deploy.format import PackedError
from bibench.deploy.formats import FORMATS, Format, format_named


def test_names_and_suffixes_are_distinct():
    assert next(iter(FORMATS)) == "packed"
    assert all(kind.name == name for name, kind in FORMATS.items())
    assert len({kind.suffix for kind in FORMATS.values()}) == len(FORMATS)


def test_an_unknown_format():
    with pytest.raises(PackedError, match=r"^to='onx': unknown kind of file; did you mean 'onnx'\? \(known: packed, "):
        format_named("onx")
    with pytest.raises(PackedError, match=r"^to='pdf': unknown kind of file \(known: "):
        format_named("pdf")


def test_what_is_missing_is_said_before_anything_is_done(monkeypatch, tmp_path):
    lacking = Format("rare", ".rare", "nothing", lambda program, path: 0, lambda: "the package rare is missing")
    monkeypatch.setitem(FORMATS, "rare", lacking)
    with pytest.raises(PackedError, match=r"^to='rare': the package rare is missing$"):
        bibench.export(nn.Linear(2, 2), tmp_path / "net", to="rare", example=torch.randn(1, 2))


@pytest.fixture(scope="module")
def tool():
    return TOOL


def test_the_document_has_every_architecture_and_format(tool):
    text = tool.DOCUMENT.read_text()
    assert "| architecture | " + " | ".join(f"`{name}`" for name in tool.FORMATS) + " |" in text
    for name in tool.architectures():
        assert f"\n| {name} | " in text, "run tools/formats.py"


def test_the_document_has_the_papers_table_4(tool, shared):
    said = {}
    with (shared / "paper" / "deployability.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            said.setdefault(row["entity"], {})[row["property"]] = row["value"]
    lines = dict(
        line.strip("| ").split(" | ", 1) for line in tool.DOCUMENT.read_text().splitlines() if "| yes |" in line
    )
    for algorithm in set(tool.ALGORITHMS) - {"pact"}:
        own = said[algorithm]
        for column, library in enumerate(("larq", "dabnn")):
            lacks = [
                key for key in ("act_rescaling", "act_mean_shifting") if (own[key], said[library][key]) == ("yes", "no")
            ]
            expected = "yes" if own["deployable"] == "yes" and not lacks else "no"
            assert lines[algorithm].split(" | ")[column] == expected, (algorithm, library)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["digits_cnn", "digits_transformer", "d_fsmn"])
def test_the_document_says_what_is_so(tool, architecture):
    row = tool.row(architecture)
    line = tool.architectures_table([row]).splitlines()[2]
    assert line in tool.DOCUMENT.read_text(), "run tools/formats.py"


def test_tables(tool):
    says = "layer 'a.b' (BinaryConv2d): takes no groups; use none"
    rows = [
        tool.Row("resnet18", {name: {"xnor": says} if name == "onnx" else {} for name in tool.FORMATS}),
        tool.Row(
            "resnet34",
            {name: {} if name == "packed" else dict.fromkeys(tool.ALGORITHMS, says) for name in tool.FORMATS},
        ),
    ]
    assert tool.architectures_table(rows).splitlines()[2].startswith("| resnet18 | all | all but xnor |")
    assert tool.architectures_table(rows).splitlines()[3].startswith("| resnet34 | all | none |")
    assert tool.algorithms_table(rows).startswith("| algorithm | Table 4, Larq | Table 4, daBNN | `packed` | `onnx` |")
    assert "| xnor | no | no | resnet18, resnet34 | no |" in tool.algorithms_table(rows)
    assert "| reactnet | yes | no | resnet18, resnet34 | resnet18 |" in tool.algorithms_table(rows)
    assert "| pact | not in it | not in it | resnet18, resnet34 | resnet18 |" in tool.algorithms_table(rows)
    assert "| `onnx` | takes no groups | all | resnet18, resnet34 |" in tool.reasons_table(rows)
    text = tool.document(f"before\n{tool.MARKS[0]}old{tool.MARKS[1]}\nafter\n", rows)
    assert text.startswith(f"before\n{tool.MARKS[0]}\n| architecture |")
    assert text.endswith(f"{tool.MARKS[1]}\nafter\n")
    assert "old" not in text
