"""Small GLUE data in every layout, with a vocabulary of the right size, for the tests of tasks and of whole runs."""

import json
from pathlib import Path

import pyarrow
from pyarrow import parquet

from bibench.models.bert import VOCABULARY

WORDS = ["a", "good", "bad", "film", "was", "fine", "dull", "the", "cat", "sat", "on", "mat", "not", "at", "all"]
WORDS += [".", ",", "?", '"', "'", "##s", "é"]

TABLES = {
    "cola": ("CoLA", "cola", None, (3, 1), ("sentence",), ("0", "1"), "dev", "validation"),
    "sst2": ("SST-2", "sst2", "sentence\tlabel", (0, 1), ("sentence",), ("0", "1"), "dev", "validation"),
    "mrpc": (
        "MRPC",
        "mrpc",
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        (3, 4, 0),
        ("sentence1", "sentence2"),
        ("0", "1"),
        "dev",
        "validation",
    ),
    "stsb": (
        "STS-B",
        "stsb",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        (7, 8, 9),
        ("sentence1", "sentence2"),
        (),
        "dev",
        "validation",
    ),
    "qqp": (
        "QQP",
        "qqp",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        (3, 4, 5),
        ("question1", "question2"),
        ("0", "1"),
        "dev",
        "validation",
    ),
    "mnli_m": (
        "MNLI",
        "mnli",
        "index\tpromptID\tpairID\tgenre\tp1\tp2\tp3\tp4\tsentence1\tsentence2\tlabel1\tgold_label",
        (8, 9, 11),
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        "dev_matched",
        "validation_matched",
    ),
    "mnli_mm": (
        "MNLI",
        "mnli",
        "index\tpromptID\tpairID\tgenre\tp1\tp2\tp3\tp4\tsentence1\tsentence2\tlabel1\tgold_label",
        (8, 9, 11),
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        "dev_mismatched",
        "validation_mismatched",
    ),
    "qnli": (
        "QNLI",
        "qnli",
        "index\tquestion\tsentence\tlabel",
        (1, 2, 3),
        ("question", "sentence"),
        ("entailment", "not_entailment"),
        "dev",
        "validation",
    ),
    "rte": (
        "RTE",
        "rte",
        "index\tsentence1\tsentence2\tlabel",
        (1, 2, 3),
        ("sentence1", "sentence2"),
        ("entailment", "not_entailment"),
        "dev",
        "validation",
    ),
    "wnli": (
        "WNLI",
        "wnli",
        "index\tsentence1\tsentence2\tlabel",
        (1, 2, 3),
        ("sentence1", "sentence2"),
        ("0", "1"),
        "dev",
        "validation",
    ),
}
"""Folder of the original files, and of Hugging Face's; header; positions of sentences and label; fields; labels;
test files."""


def sample(task: str, number: int) -> tuple[list[str], str, float]:
    """Sentences, the label as it is printed in the original file, and as a number."""
    fields, labels = TABLES[task][4], TABLES[task][5]
    sentences = [f"the cat {'sat on a' if (number + i) % 2 else 'was not'} mat ." for i in range(len(fields))]
    if not labels:
        value = (number % 11) / 2
        return sentences, f"{value:.3f}", value
    return sentences, labels[number % len(labels)], float(number % len(labels))


def original_line(task: str, number: int) -> str:
    """A row of the original file."""
    header, places = TABLES[task][2], TABLES[task][3]
    sentences, label, _ = sample(task, number)
    fields = ["x"] * (4 if header is None else header.count("\t") + 1)
    for place, text in zip(places, [*sentences, label], strict=True):
        fields[place] = text
    return "\t".join(fields)


def write_original(root: Path, task: str, train: int = 12, test: int = 6, suffix: str = "") -> Path:
    """The original layout below ``root``; returns the task's folder."""
    folder, _, header, *_, name, _ = TABLES[task]
    target = root / folder
    target.mkdir(parents=True, exist_ok=True)
    for stem, start, count in (("train", 0, train), (name if not suffix else "dev", 100, test)):
        lines = [] if header is None else [header]
        lines += [original_line(task, start + number) for number in range(count)]
        (target / f"{stem}{suffix}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


def hub_rows(task: str, start: int, count: int) -> list[dict[str, object]]:
    """Rows of the Hugging Face layout, the same as `original_line`'s."""
    _, _, _, _, fields, labels, *_ = TABLES[task]
    rows = []
    for number in range(start, start + count):
        sentences, _, label = sample(task, number)
        row = dict(zip(fields, sentences, strict=True)) | {"label": int(label) if labels else label}
        rows.append(row | {"idx": number})
    return rows


def write_hub(root: Path, task: str, train: int = 12, test: int = 6) -> Path:
    """The Hugging Face layout as JSON lines below ``root``, with the same rows; returns the task's folder."""
    target = root / TABLES[task][1]
    target.mkdir(parents=True, exist_ok=True)
    for stem, start, count in (("train", 0, train), (TABLES[task][-1], 100, test)):
        with (target / f"{stem}.jsonl").open("w", encoding="utf-8") as file:
            for row in hub_rows(task, start, count):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return target


def write_parquet(root: Path, task: str, train: int = 12, test: int = 6, shards: int = 1) -> Path:
    """The Hugging Face layout as parquet below ``root``, with the same rows and types as its hub's; returns the task's
    folder."""
    target = root / TABLES[task][1]
    target.mkdir(parents=True, exist_ok=True)
    label = pyarrow.int64() if TABLES[task][5] else pyarrow.float32()
    schema = pyarrow.schema([(name, pyarrow.string()) for name in TABLES[task][4]])
    schema = schema.append(pyarrow.field("label", label)).append(pyarrow.field("idx", pyarrow.int32()))
    for stem, start, count, pieces in (("train", 0, train, shards), (TABLES[task][-1], 100, test, 1)):
        rows = hub_rows(task, start, count)
        for piece in range(pieces):
            part = rows[piece * count // pieces : (piece + 1) * count // pieces]
            table = pyarrow.Table.from_pylist(part, schema)
            parquet.write_table(table, target / f"{stem}-{piece:05}-of-{pieces:05}.parquet", row_group_size=5)
    return target


def write_vocabulary(root: Path, size: int = VOCABULARY) -> Path:
    """A vocabulary of that many word pieces in ``root/bert-base-uncased/vocab.txt``."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS)]
    pieces += [f"[unused{number}]" for number in range(size - len(pieces))]
    path = root / "bert-base-uncased" / "vocab.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(pieces[:size]) + "\n", encoding="utf-8")
    return path
