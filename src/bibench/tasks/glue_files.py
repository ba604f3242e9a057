"""GLUE's files: the original TSV files, and the Hugging Face layout as parquet or JSON lines."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from bibench.tasks.base import DataError
from bibench.tasks.text import Broken, Row

__all__ = ["Part", "Parts", "Table", "find", "read", "vocabulary"]

_REPAIR = "unpack it again from the archive"
_FETCH = "download it again"
_RANGE = 5.0

_SUFFIXES: tuple[tuple[str, Literal["parquet", "json"]], ...] = (
    (".jsonl", "json"),
    (".json", "json"),
    (".parquet", "parquet"),
)

_ROWS = 2_048
_BUFFER = 1 << 16
"""Rows and bytes of a column of a parquet file that are read at a time: memory doesn't grow with its row groups."""


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
  {self.hub}/train-00000-of-00001.parquet and {self.hub}/{self.test[1]}-00000-of-00001.parquet, Hugging Face's
  (nyu-mll/glue), or train.parquet and {self.test[1]}.parquet, as its Dataset.to_parquet writes
  {self.hub}/train.jsonl and {self.hub}/{self.test[1]}.jsonl, one JSON object a line, as its Dataset.to_json writes
beside them bert-base-uncased/vocab.txt (or vocab.txt)"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One half: its files, more than one where it is in shards, their layout, and whether they are only a part of the
    official ones (``*_subset.tsv``)."""

    paths: tuple[Path, ...]
    kind: Literal["tsv", "parquet", "json"]
    subset: bool = False

    @property
    def name(self) -> str:
        """The file with its folder, for messages.

        >>> shards = tuple(Path(f"data/mnli/train-0000{number}-of-00002.parquet") for number in range(2))
        >>> Part(paths=shards, kind="parquet").name
        'mnli/train-00000-of-00002.parquet and 1 more'
        """
        first, *others = self.paths
        return f"{first.parent.name}/{first.name}" + (f" and {len(others)} more" if others else "")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The files of both halves."""

    train: Part
    test: Part

    @property
    def subsets(self) -> list[str]:
        """Names of the files that are only a part of the official ones."""
        return [part.paths[0].name for part in (self.train, self.test) if part.subset]


def _roots(root: Path) -> list[Path]:
    return [root / "glue_data", root / "glue", root]


def find(root: Path, table: Table, subset: bool) -> Parts:
    """The files of a task below ``root``: whole ones of any layout, the original ones first, before a part of them.

    Args:
        root: the folder, or one whose ``glue_data`` or ``glue`` holds the tasks.
        table: the task.
        subset: take ``train_subset.tsv`` and ``dev_subset.tsv`` where the whole files aren't there.

    Raises:
        DataError: they aren't there, or not all shards of a half are; the message says what is expected.
    """
    incomplete: Parts | None = None
    for parts in _halves(root, table):
        if not parts.subsets:
            return parts
        incomplete = incomplete or parts
    if incomplete is None:
        raise DataError(f"no {table.folder} data in {root}; {table.layout}")
    if not subset:
        raise DataError(
            f"{incomplete.train.paths[0].parent} has only a part of the data set ({', '.join(incomplete.subsets)}): "
            "put the original files in its place, or accept a part of the data set with --allow-subset"
        )
    return incomplete


def _halves(root: Path, table: Table) -> Iterator[Parts]:
    """The files of each folder and layout that has both halves, the original ones of a folder first."""
    for base in _roots(root):
        folder, hub = base / table.folder, base / table.hub
        # A subset of MNLI has one test file for both halves.
        train, test = _tsv(folder, ("train",)), _tsv(folder, (table.test[0], "dev"))
        if train and test:
            yield Parts(train=train, test=test)
        train, test = _hub(hub, "train"), _hub(hub, table.test[1])
        if train and test:
            yield Parts(train=train, test=test)


def _tsv(folder: Path, names: tuple[str, ...]) -> Part | None:
    """The first file of these names that is there: each whole, then each as a subset."""
    if (folder / f"{names[0]}.tsv").is_file():
        return Part(paths=(folder / f"{names[0]}.tsv",), kind="tsv")
    for name in names:
        if (folder / f"{name}_subset.tsv").is_file():
            return Part(paths=(folder / f"{name}_subset.tsv",), kind="tsv", subset=True)
    return None


def _hub(folder: Path, name: str) -> Part | None:
    """The files of a half in the Hugging Face layout: one of JSON lines, one of parquet, or shards of parquet."""
    for suffix, kind in _SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return Part(paths=(folder / f"{name}{suffix}",), kind=kind)
    shard = re.compile(rf"{name}-[0-9]{{5}}-of-([0-9]{{5}})\.parquet")
    matches = {path: shard.fullmatch(path.name) for path in sorted(folder.glob(f"{name}-*.parquet"))}
    found = [path for path, match in matches.items() if match]
    if not found:
        return None
    count = max(match[1] for match in matches.values() if match)
    expected = [folder / f"{name}-{number:05}-of-{count}.parquet" for number in range(int(count))]
    lacking = [path.name for path in expected if path not in found]
    others = [path.name for path in found if path not in expected]
    if lacking or others:
        what = f"lacks {lacking[0]}" if lacking else f"has {others[0]}"
        raise DataError(
            f"{folder} {what}, and {found[0].name} is there: expected all files of one set, "
            f"{name}-00000-of-{count}.parquet to the last, and no other; download them again"
        )
    return Part(paths=tuple(expected), kind="parquet")


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
    """The rows of a half, one after the other.

    A row that lacks a column (or has too many, as with a tab in a sentence) is `Broken` and left out, as some of the
    official QQP files' are. What can't be read in another way is refused: it says that the file isn't what it should
    be.

    Raises:
        DataError: other columns, an unknown label, text that isn't UTF-8, a line that isn't JSON, a file that isn't
            parquet, or parquet without the package pyarrow; it names file and line, or row.
    """
    usable, first = False, ""
    for path in part.paths:
        with path.open("rb") as file:
            for row in _READERS[part.kind](file, path, table):
                if isinstance(row, Row):
                    usable = True
                    yield row
                    continue
                broken = row if len(part.paths) == 1 else replace(row, place=f"{row.place} of {path.name}")
                first = first or f" but broken ones ({broken.place}: {broken.reason})"
                yield broken
    if not usable:
        raise DataError(f"{part.paths[0]} has no rows{first}; {table.layout}")


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number:,}: not UTF-8 ({error.reason}); {_REPAIR}") from error
        text = text.removesuffix("\n").removesuffix("\r")
        if text:
            yield number, text


def _tsv_rows(file: BinaryIO, path: Path, table: Table) -> Iterator[Row | Broken]:
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
            yield Broken(place=f"line {number:,}", reason=f"{len(fields)} columns, expected {width}")
            continue
        *sentences, text = (fields[column] for column in columns)
        label = numbers.get(text) if table.labels else _number(text)
        if label is None:
            raise _unknown(path, f"line {number:,}", text, ", ".join(numbers))
        yield Row(first=sentences[0], second=sentences[1] if len(sentences) > 1 else None, label=label)


def _json_rows(file: BinaryIO, path: Path, table: Table) -> Iterator[Row | Broken]:
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
        yield _hub_row(row, f"line {number:,}", path, table)


def _parquet_rows(file: BinaryIO, path: Path, table: Table) -> Iterator[Row | Broken]:
    number = 0
    for rows in _record_batches(file, path, table):
        for *sentences, label in rows:
            number += 1
            try:
                texts = [None if text is None else text.decode("utf-8") for text in sentences]
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, row {number:,}: not UTF-8 ({error.reason}); {_FETCH}") from error
            values = dict(zip(table.hub_columns, texts, strict=True)) | {"label": label}
            yield _hub_row(values, f"row {number:,}", path, table)


def _record_batches(file: BinaryIO, path: Path, table: Table) -> Iterator[Iterator[tuple[Any, ...]]]:
    """The rows of a parquet file, some at a time: the sentences as bytes, since Arrow doesn't look whether they are
    UTF-8, and the label."""
    try:
        import pyarrow
        from pyarrow import parquet, types
    except ModuleNotFoundError as error:
        raise DataError(
            f"{path}: the package pyarrow, which reads parquet, is missing; install it by: "
            "python -m pip install 'bibench[parquet]'"
        ) from error
    columns = [*table.hub_columns, "label"]
    try:
        opened = parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
        schema = opened.schema_arrow
        if any(schema.names.count(column) != 1 for column in columns):
            raise DataError(
                f"{path}: the columns are {', '.join(map(repr, schema.names))}, expected "
                f"{', '.join(map(repr, columns))}, each once; {_FETCH}"
            )
        for column in columns:
            kind = schema.field(column).type
            number = types.is_integer(kind) or types.is_floating(kind)
            text = types.is_string(kind) or types.is_large_string(kind)
            if not (number if column == "label" else text):
                expected = "a number" if column == "label" else "text"
                raise DataError(f"{path}: the column {column!r} is of type {kind}, expected {expected}; {_FETCH}")
        for batch in opened.iter_batches(batch_size=_ROWS, columns=columns, use_threads=False):
            sentences = (batch.column(column).cast(pyarrow.large_binary()) for column in table.hub_columns)
            yield zip(*(array.to_pylist() for array in (*sentences, batch.column("label"))), strict=True)
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as parquet ({reason}); {_FETCH}") from error


_READERS = {"tsv": _tsv_rows, "parquet": _parquet_rows, "json": _json_rows}


def _hub_row(values: Mapping[str, Any], place: str, path: Path, table: Table) -> Row | Broken:
    """A row of the Hugging Face layout, where classes are numbers."""
    lacking = [name for name in table.hub_columns if not isinstance(values.get(name), str)]
    if values.get("label") is None:
        lacking.append("label")
    if lacking:
        return Broken(place=place, reason=f"without {', '.join(lacking)}")
    label = _number(str(values["label"]))
    if label is None or (table.labels and label not in range(len(table.labels))):
        raise _unknown(path, place, str(values["label"]), _known(table))
    first, *others = (values[name] for name in table.hub_columns)
    return Row(first=first, second=others[0] if others else None, label=label)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= _RANGE else None


def _known(table: Table) -> str:
    return ", ".join(f"{number} ({name})" for number, name in enumerate(table.labels))


def _unknown(path: Path, place: str, text: str, known: str) -> DataError:
    expected = f"one of {known}" if known else f"a number from 0 to {_RANGE:g}"
    hint = "; a test file without labels?" if text in ("-1", "", "-1.0") else ""
    return DataError(f"{path}, {place}: the label is {text[:40]!r}, expected {expected}{hint}; {_REPAIR}")
