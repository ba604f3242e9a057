"""The figures of a record: read in parts or as a whole, found, copied."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bibench.files import json_text
from bibench.records import Environment, Figure, Figures, Record, RecordError, RunConfig, read_record
from bibench.records.record import parse_record

RUN = RunConfig(
    task="digits", architecture="digits_cnn", algorithm="bnn", method="published", seed=0, recipe=None,
    family="cnns", metric="accuracy",
)  # fmt: skip
CLEAN = Figure(name="accuracy", value=91.5, unit="percent", samples=360, higher_is_better=True)
FOGGY = Figure(name="accuracy", value=80.25, unit="percent", conditions={"corruption": "fog", "severity": "1"})


def record(*figures: Figure, run: RunConfig = RUN) -> Record:
    environment = Environment(
        bibench="0.1.0",
        commit=None,
        python="3.12",
        torch="2.9",
        platform="p",
        processor="c",
        accelerator=None,
        threads=1,
    )
    return Record(id=run.id, run=run, status="ok", figures=figures, environment=environment, finished="now")


def content(made: Record) -> dict[str, Any]:
    return made.model_dump(mode="json")


def written(made: Record) -> bytes:
    """As a store has it."""
    return json_text(content(made)).encode()


TEXTS = st.text(max_size=8) | st.sampled_from(['"value": 1,', 'a"value": 1,', "value", '\n ],\n "absences"', "\\"])
FIGURES = st.builds(
    Figure,
    name=TEXTS,
    value=st.floats(-9e99, 9e99) | st.integers(-(10**20), 10**20),
    unit=TEXTS,
    samples=st.none() | st.integers(0, 10**6),
    higher_is_better=st.none() | st.booleans(),
    mode=st.none() | TEXTS,
    conditions=st.dictionaries(TEXTS, TEXTS, max_size=3),
    source=st.none() | TEXTS,
)


@given(st.lists(FIGURES, max_size=5))
def test_a_record_that_is_read_in_parts_is_what_was_written(figures: list[Figure]) -> None:
    made = record(*figures)
    found = parse_record(written(made), "")
    assert found == made == Record.model_validate_json(written(made))
    assert tuple(found.figures) == tuple(figures)
    assert written(found) == written(made)


def test_runs_that_were_measured_alike_share_what_their_figures_are() -> None:
    other = RUN.model_copy(update={"seed": 1})
    lower = Figure(name="accuracy", value=9.0, unit="percent", samples=360, higher_is_better=True)
    first, second = (
        parse_record(written(made), "") for made in (record(CLEAN, FOGGY), record(lower, FOGGY, run=other))
    )
    assert first.figures.kinds is second.figures.kinds
    assert [figure.value for figure in first.figures] == [91.5, 80.25]
    assert [figure.value for figure in second.figures] == [9.0, 80.25]
    assert parse_record(written(record(CLEAN)), "").figures.kinds is not first.figures.kinds


@pytest.mark.parametrize("indent", [None, 1, 2])
@pytest.mark.parametrize("order", [False, True])
def test_the_layout_of_the_text_does_not_matter(indent: int | None, order: bool) -> None:
    made = record(CLEAN, FOGGY)
    assert parse_record(json.dumps(content(made), indent=indent, sort_keys=order).encode(), "") == made


def test_only_the_records_own_figures_are_taken() -> None:
    """A layout that no run writes: an option of the run looks like a record's figures."""
    options = {"figures": content(record(CLEAN))["figures"], "absences": []}
    made = record(FOGGY, run=RUN.model_copy(update={"options": options}))
    fields = content(made)
    fields["run"]["options"] = "HERE"
    text = json.dumps({"figures": fields.pop("figures")} | fields)
    text = text.replace('"HERE"', json_text(options).rstrip().replace("\n  ],", "\n ],"))
    assert '\n "figures": [\n' in text
    assert '\n ],\n "absences"' in text
    assert parse_record(text.encode(), "") == parse_record(text, "") == made


def test_the_last_of_two_values_counts() -> None:
    made = record(CLEAN, FOGGY)
    text = written(made).replace(b'"value": 80.25', b'"value": 1.0, "value": 80.25')
    assert parse_record(text, "") == made == Record.model_validate_json(text)


BAD = [
    ('"value": 80.25', '"value": null', "field 'figures.1.value'"),
    ('"value": 80.25', '"value": NaN', "field 'figures.1.value'"),
    ('"value": 80.25', '"value": 1e100', r"'figures.1.value': expected a number between -1e\+100 and 1e\+100"),
    ('"value": 80.25', '"value": 080', "not valid JSON"),
    ('"value": 80.25', '"value": [80.25]', "field 'figures.1.value'"),
    ('"value": 80.25,', "", "field 'figures.1.value'"),
    ('"value": 80.25,', '"value": 80.25, "other": 1,', "field 'figures.1.other'"),
    ('"samples": 360', '"samples": "many"', "field 'figures.0.samples'"),
    ('"severity": "1"', '"severity": 1', "field 'figures.1.conditions.severity'"),
    ('"severity": "1"', '"value": 1, "severity": "1"', "field 'figures.1.conditions.value'"),
    ('"status": "ok"', '"status": "fine"', "field 'status'"),
]


@pytest.mark.parametrize(("before", "after", "message"), BAD)
def test_a_damaged_record_is_named_with_its_field(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = tmp_path / "record.json"
    text = written(record(CLEAN, FOGGY)).decode()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after), encoding="utf-8")
    with pytest.raises(RecordError, match=message) as caught:
        read_record(path)
    with pytest.raises(RecordError) as whole:
        parse_record(text.replace(before, after), str(path))
    assert str(caught.value) == str(whole.value)


def test_figures_are_a_sequence() -> None:
    figures = Figures.of([CLEAN, FOGGY])
    assert (figures[0], figures[-1], len(figures)) == (CLEAN, FOGGY, 2)
    assert figures[:1] == (CLEAN,)
    assert [*figures] == [CLEAN, FOGGY]
    assert FOGGY in figures
    assert figures == (CLEAN, FOGGY) == figures
    assert figures != Figures.of([CLEAN])
    assert repr(figures) == repr((CLEAN, FOGGY))
    with pytest.raises(IndexError):
        figures[2]
    assert Figures.of(figures) is figures


def test_a_record_is_copied_with_its_figures() -> None:
    made = parse_record(written(record(CLEAN, FOGGY)), "")
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), made.model_copy()):
        assert copied == made
        assert copied.number("accuracy") == 91.5


def test_numbers_are_the_values_of_figures() -> None:
    other = Figure(name="accuracy", value=1.0, unit="ratio")
    made = record(CLEAN, FOGGY, other)
    assert made.number("accuracy") == made.figure("accuracy").value == 91.5  # type: ignore[union-attr]
    assert made.number("loss") is made.figure("loss") is None
    under = made.figures_under("accuracy", "severity", "corruption")
    assert under == {("1", "fog"): FOGGY}
    assert made.numbers_under("accuracy", "severity", "corruption") == {("1", "fog"): 80.25}
    assert made.numbers_under("loss", "severity") == {}
