"""GLUE's files: the original TSV files, and the Hugging Face layout as JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bibench.tasks.base import DataError
from bibench.tasks.text import Broken, Row

__all__ = ["Part", "Parts", "Table", "find", "read", "vocabulary"]

_REPAIR = "unpack it again from the archive"
_RANGE = 5.0


@dataclass(frozen=True, kw_only=True)
class Table:
    """How one of GLUE's tasks is stored.

    Args:
        folder: of the original files.
        columns: names of the sentences' columns and of the label's in them; numbers where a file has no header.
        hub: of the Hugging Face layout: the folder.
        hub_columns: names of the sentences' fields there.
        labels: names of the classes in the order of their numbers; empty: the label is a number from 0 to 5.
        named: whether the original files have the classes' names, or their numbers.
        test: the files of the test half: original, and Hugging Face.
        counts: rows of the whole data set, training and test.
    """

    folder: str
    columns: tuple[str | int, ...]
    hub: str
    hub_columns: tuple[str, ...]
    labels: tuple[str, ...]
    named: bool = False
    test: tuple[str, str] = ("dev", "validation")
    counts: tuple[int, int]

    @property
    def layout(self) -> str:
        """What is expected, for messages."""
        return f"""expected one of these below the folder (or below its glue_data/ or glue/):
  {self.folder}/train.tsv and {self.folder}/{self.test[0]}.tsv, the original files
  {self.hub}/train.jsonl and {self.hub}/{self.test[1]}.jsonl, one JSON object a line, as Hugging Face's
  Dataset.to_json writes
beside them bert-base-uncased/vocab.txt (or vocab.txt)"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file: its path, its layout, and whether it is a part of the official one (``*_subset.tsv``)."""

    path: Path
    kind: Literal["tsv", "json"]
    subset: bool = False


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The files of both halves."""

    train: Part
    test: Part


def _roots(root: Path) -> list[Path]:
    return [root / "glue_data", root / "glue", root]


def find(root: Path, table: Table, subset: bool) -> Parts:
    """The files of a task below ``root``, the original ones first.

    Args:
        root: the folder, or one whose ``glue_data`` or ``glue`` holds the tasks.
        table: the task.
        subset: take ``train_subset.tsv`` and ``dev_subset.tsv`` where the whole files aren't there.

    Raises:
        DataError: they aren't there; the message has the layout.
    """
    parts: list[str] = []
    for base in _roots(root):
        folder = base / table.folder
        train = _tsv(folder, ("train",))
        # A subset of MNLI has one test file for both halves.
        test = _tsv(folder, (table.test[0], "dev"))
        if train and test:
            if not (train.subset or test.subset) or subset:
                return Parts(train=train, test=test)
            parts += [part.path.name for part in (train, test) if part.subset]
            raise DataError(
                f"{folder} has only a part of the data set ({', '.join(parts)}): put the original files in its place, "
                "or accept a part of the data set with --allow-subset"
            )
        hub = base / table.hub
        found = [_json(hub, name) for name in ("train", table.test[1])]
        if found[0] and found[1]:
            return Parts(train=found[0], test=found[1])
        others = [path.name for path in sorted(hub.glob("*")) if path.suffix in (".parquet", ".arrow")]
        if others:
            raise DataError(
                f"{hub} has {others[0]}, which isn't read; write JSON lines beside it: "
                f'datasets.load_dataset("parquet", data_files="{others[0]}")["train"].to_json("train.jsonl"), and so '
                f"{table.test[1]}.jsonl"
            )
    raise DataError(f"no {table.folder} data in {root}; {table.layout}")


def _tsv(folder: Path, names: tuple[str, ...]) -> Part | None:
    """The first file of these names that is there: each whole, then each as a subset."""
    if (folder / f"{names[0]}.tsv").is_file():
        return Part(path=folder / f"{names[0]}.tsv", kind="tsv")
    for name in names:
        if (folder / f"{name}_subset.tsv").is_file():
            return Part(path=folder / f"{name}_subset.tsv", kind="tsv", subset=True)
    return None


def _json(folder: Path, name: str) -> Part | None:
    paths = (folder / f"{name}{suffix}" for suffix in (".jsonl", ".json"))
    return next((Part(path=path, kind="json") for path in paths if path.is_file()), None)


def vocabulary(root: Path) -> Path:
    """The vocabulary beside the data.

    Raises:
        DataError: there is none.
    """
    places = [place for base in (root, root.parent, *_roots(root)) for place in (base / "bert-base-uncased", base)]
    for place in dict.fromkeys(places):
        if (place / "vocab.txt").is_file():
            return place / "vocab.txt"
    raise DataError(
        f"no vocabulary for {root}; expected {root / 'bert-base-uncased' / 'vocab.txt'} (or vocab.txt in the folder "
        "itself), the file of bert-base-uncased with one word piece a line"
    )


def read(part: Part, table: Table) -> Iterator[Row | Broken]:
    """The rows of a file, one after the other.

    A row that lacks a column (or has too many, as with a tab in a sentence) is `Broken` and left out, as some of the
    official QQP files' are. What can't be read in another way is refused: it says that the file isn't what it should
    be.

    Raises:
        DataError: other columns in the header, an unknown label, text that isn't UTF-8, a line that isn't JSON; it
            names file and line.
    """
    usable, first = False, ""
    with part.path.open("rb") as file:
        for row in (_tsv_rows if part.kind == "tsv" else _json_rows)(file, part.path, table):
            if isinstance(row, Row):
                usable = True
            elif not first:
                first = f" but broken ones (line {row.line:,}: {row.reason})"
            yield row
    if not usable:
        raise DataError(f"{part.path} has no rows{first}; {table.layout}")


def _lines(file: Any, path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number:,}: not UTF-8 ({error.reason}); {_REPAIR}") from error
        text = text.removesuffix("\n").removesuffix("\r")
        if text:
            yield number, text


def _tsv_rows(file: Any, path: Path, table: Table) -> Iterator[Row | Broken]:
    lines = _lines(file, path)
    columns: list[int]
    if isinstance(table.columns[0], int):
        columns, width = [int(column) for column in table.columns], 4
    else:
        _, header = next(lines, (1, ""))
        names = header.split("\t")  # there are no quotes: a quotation mark is one
        lacking = [column for column in table.columns if column not in names]
        if lacking:
            raise DataError(
                f"{path}, line 1: the header lacks {', '.join(map(repr, lacking))}; it is {header[:120]!r}; {_REPAIR}"
            )
        columns, width = [names.index(str(column)) for column in table.columns], len(names)
    numbers: Mapping[str, float] = {
        (name if table.named else str(number)): float(number) for number, name in enumerate(table.labels)
    }
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != width:
            yield Broken(line=number, reason=f"{len(fields)} columns, expected {width}")
            continue
        *sentences, text = (fields[column] for column in columns)
        label = numbers.get(text) if table.labels else _number(text)
        if label is None:
            raise _unknown(path, number, text, ", ".join(numbers))
        yield Row(first=sentences[0], second=sentences[1] if len(sentences) > 1 else None, label=label)


def _json_rows(file: Any, path: Path, table: Table) -> Iterator[Row | Broken]:
    for number, line in _lines(file, path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number:,}: not a JSON object ({error}); one a line is expected, as "
                "Dataset.to_json writes"
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number:,}: {line[:40]!r} is not a JSON object")
        sentences: list[Any] = [row.get(name) for name in table.hub_columns]
        lacking = [name for name in table.hub_columns if not isinstance(row.get(name), str)]
        if row.get("label") is None:
            lacking.append("label")
        if lacking:
            yield Broken(line=number, reason=f"without {', '.join(lacking)}")
            continue
        label = _number(str(row["label"]))
        if label is None or (table.labels and label not in range(len(table.labels))):
            raise _unknown(path, number, str(row["label"]), _known(table))
        yield Row(first=sentences[0], second=sentences[1] if len(sentences) > 1 else None, label=label)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= _RANGE else None


def _known(table: Table) -> str:
    return ", ".join(f"{number} ({name})" for number, name in enumerate(table.labels))


def _unknown(path: Path, line: int, text: str, known: str) -> DataError:
    expected = f"one of {known}" if known else f"a number from 0 to {_RANGE:g}"
    hint = "; a test file without labels?" if text in ("-1", "", "-1.0") else ""
    return DataError(f"{path}, line {line:,}: the label is {text[:40]!r}, expected {expected}{hint}; {_REPAIR}")
