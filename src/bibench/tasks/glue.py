"""GLUE: nine tasks on sentences and pairs of sentences, from the original TSV files or those of Hugging Face."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from bibench.files import file_sha256
from bibench.recipes import Adam, Linear, Recipe
from bibench.tasks.base import Data, DataError, Evaluation, Metric, Task, Trivial
from bibench.tasks.classification import ACCURACY, commonest, evaluate, loss
from bibench.tasks.glue_files import Part, Table, find, read, vocabulary
from bibench.tasks.text import (
    BERT_BASE_UNCASED,
    CORRELATION,
    MATTHEWS,
    TextBatch,
    Tokens,
    WordPieces,
    encode,
    evaluate_accuracy_and_f1,
    evaluate_correlation,
    evaluate_matthews,
    example,
    refuse_other_vocabulary,
    squared_error,
)

__all__ = [
    "glue_cola",
    "glue_mnli_m",
    "glue_mnli_mm",
    "glue_mrpc",
    "glue_qnli",
    "glue_qqp",
    "glue_rte",
    "glue_sst2",
    "glue_stsb",
    "glue_wnli",
]

_SINGLE, _PAIR = 64, 128
"""Most tokens of a sentence and of a pair (BiBERT; TinyBERT)."""


def _load(name: str, table: Table, length: int, metric: Metric, root: Path | None, subset: bool) -> Data:
    """Read, cut into word pieces, and describe; see `bibench.tasks.base.Task`."""
    if root is None:
        raise DataError(f"the task {name} needs its files: name their folder with --data DIR; {table.layout}")
    if not root.is_dir():
        raise DataError(f"--data {root}: no such folder; {table.layout}")
    parts = find(root, table, subset)
    pieces = WordPieces(vocabulary(root))
    splits: list[Tokens] = []
    digest = hashlib.sha256(f"{pieces.sha256} {length}".encode())
    notes: list[str] = []
    for part, whole in zip((parts.train, parts.test), table.counts, strict=True):
        source = "".join(map(file_sha256, part.paths))
        digest.update(source.encode())
        split = _encoded(part, table, source, pieces, length)
        splits.append(split)
        if (part.subset or len(split) != whole) and not subset:
            raise DataError(
                f"{part.paths[0].parent.parent / part.name} has {len(split):,} rows, the original has {whole:,}"
                f"{_left_out(split)}; put the original in its place, or accept a part of the data set with "
                "--allow-subset"
            )
        if part.subset or len(split) != whole:
            notes.append(f"{part.name}: {len(split):,} of {whole:,} rows")
        if split.broken:
            notes.append(f"{part.name}{_left_out(split)}")
        if split.cut:
            notes.append(f"{part.name}: {split.cut:,} of {len(split):,} samples cut to {length} word pieces")
    if parts.test.subset and table.test[0] not in parts.test.name:
        notes.append(f"{parts.test.name} stands for {table.test[0]}.tsv")
    return Data(
        train=splits[0],
        test=splits[1],
        outputs=max(1, len(table.labels)),
        fingerprint=digest.hexdigest(),
        notes=(*(["; ".join(notes)] if notes else []), *_of_another_vocabulary(pieces)),
        labels=table.labels,
        trivial=_trivial(table, splits[1], metric),
        check_checkpoint=partial(refuse_other_vocabulary, pieces.path),
    )


def _of_another_vocabulary(pieces: WordPieces) -> list[str]:
    if pieces.sha256 == BERT_BASE_UNCASED:
        return []
    place = f"{pieces.path.parent.name}/{pieces.path.name}"
    return [f"the vocabulary {place} (SHA-256 {pieces.sha256[:10]}...) is not that of bert-base-uncased"]


def _encoded(part: Part, table: Table, source: str, pieces: WordPieces, length: int) -> Tokens:
    # The table decides what is read of the file, so that is part of what decides the tokens.
    reading = (part.kind, table.columns, table.hub_columns, table.labels, table.named)
    return encode(
        lambda: read(part, table),
        source=f"{source} {reading}",
        pieces=pieces,
        length=length,
        numbers=not table.labels,
    )


def _left_out(split: Tokens) -> str:
    """The rows without all columns, if there are any."""
    return f": {split.broken:,} broken rows left out (the first is {split.first_broken})" if split.broken else ""


def _trivial(table: Table, test: Tokens, metric: Metric) -> Trivial:
    """What a constant answer scores on the test half; a correlation by chance has a standard error of ``1/sqrt(n)``."""
    chance = 200.0 / math.sqrt(len(test))
    if not table.labels:
        return Trivial(answer="one answer for all test samples", value=0.0, margin=chance)
    share = commonest(test.labels.astype(np.int64), table.labels)
    if metric is MATTHEWS:
        return Trivial(answer=f"{share.answer}, right on {share.value:.2f} %", value=0.0, margin=chance)
    return share


def _task(
    name: str,
    title: str,
    table: Table,
    *,
    lr: float,
    epochs: int,
    batch_size: int,
    metric: Metric = ACCURACY,
    evaluation: Callable[[nn.Module, Iterable[TextBatch]], Evaluation] = evaluate,
) -> Task:
    length = _SINGLE if len(table.hub_columns) == 1 else _PAIR
    recipe = Recipe(optimizer=Adam(lr=lr), schedule=Linear(), warmup=0.1, epochs=epochs, batch_size=batch_size)
    return Task(
        name=name,
        title=title,
        modality="text",
        architectures=("bert_tiny4", "bert_tiny6", "bert_base"),
        load=partial(_load, name, table, length, metric),
        input_shape=(3, length),
        make_example=partial(example, length),
        loss=loss if table.labels else squared_error,
        evaluate=evaluation,
        metric=metric,
        loss_unit="nats" if table.labels else "squared error",
        full_precision=recipe,
        binarized=recipe,
        training_samples=table.counts[0],
        outputs=max(1, len(table.labels)),
        group="glue",
        source="Wang et al., GLUE, ICLR 2019; recipe: BiBERT (Qin et al., ICLR 2022)",
        labels=table.labels,
    )


glue_cola = _task(
    "glue_cola",
    "CoLA",
    Table(
        folder="CoLA",
        columns=(3, 1),
        hub="cola",
        hub_columns=("sentence",),
        labels=("unacceptable", "acceptable"),
        counts=(8_551, 1_043),
    ),
    lr=1e-4,
    epochs=50,
    batch_size=16,
    metric=MATTHEWS,
    evaluation=evaluate_matthews,
)
"""Whether a sentence is grammatical.

>>> glue_cola.load(None, False)
Traceback (most recent call last):
bibench.tasks.base.DataError: the task glue_cola needs its files: name their folder with --data DIR; ...
"""

glue_sst2 = _task(
    "glue_sst2",
    "SST-2",
    Table(
        folder="SST-2",
        columns=("sentence", "label"),
        hub="sst2",
        hub_columns=("sentence",),
        labels=("negative", "positive"),
        counts=(67_349, 872),
    ),
    lr=1e-4,
    epochs=10,
    batch_size=32,
)
"""Whether a sentence of a film review is positive."""

glue_mrpc = _task(
    "glue_mrpc",
    "MRPC",
    Table(
        folder="MRPC",
        columns=("#1 String", "#2 String", "Quality"),
        hub="mrpc",
        hub_columns=("sentence1", "sentence2"),
        labels=("not_equivalent", "equivalent"),
        counts=(3_668, 408),
    ),
    lr=2e-4,
    epochs=20,
    batch_size=16,
    evaluation=evaluate_accuracy_and_f1,
)
"""Whether two sentences say the same."""

glue_stsb = _task(
    "glue_stsb",
    "STS-B",
    Table(
        folder="STS-B",
        columns=("sentence1", "sentence2", "score"),
        hub="stsb",
        hub_columns=("sentence1", "sentence2"),
        labels=(),
        counts=(5_749, 1_500),
    ),
    lr=1e-4,
    epochs=20,
    batch_size=16,
    metric=CORRELATION,
    evaluation=evaluate_correlation,
)
"""How similar two sentences are, from 0 to 5: a number is predicted."""

glue_qqp = _task(
    "glue_qqp",
    "QQP",
    Table(
        folder="QQP",
        columns=("question1", "question2", "is_duplicate"),
        hub="qqp",
        hub_columns=("question1", "question2"),
        labels=("not_duplicate", "duplicate"),
        counts=(363_846, 40_430),
    ),
    lr=1e-4,
    epochs=5,
    batch_size=32,
    evaluation=evaluate_accuracy_and_f1,
)
"""Whether two questions are the same. The official files have a few broken rows, which are left out and noted."""

_MNLI = Table(
    folder="MNLI",
    columns=("sentence1", "sentence2", "gold_label"),
    hub="mnli",
    hub_columns=("premise", "hypothesis"),
    labels=("entailment", "neutral", "contradiction"),
    named=True,
    test=("dev_matched", "validation_matched"),
    counts=(392_702, 9_815),
)

glue_mnli_m = _task(
    "glue_mnli_m",
    "MNLI matched",
    _MNLI,
    lr=5e-5,
    epochs=5,
    batch_size=32,
)
"""Whether one sentence follows from another, contradicts it, or neither; tested on the genres of the training half."""

glue_mnli_mm = _task(
    "glue_mnli_mm",
    "MNLI mismatched",
    replace(_MNLI, test=("dev_mismatched", "validation_mismatched"), counts=(392_702, 9_832)),
    lr=5e-5,
    epochs=5,
    batch_size=32,
)
"""As `glue_mnli_m`, tested on other genres. It is a run of its own, with the same training as the other of its seed."""

glue_qnli = _task(
    "glue_qnli",
    "QNLI",
    Table(
        folder="QNLI",
        columns=("question", "sentence", "label"),
        hub="qnli",
        hub_columns=("question", "sentence"),
        labels=("entailment", "not_entailment"),
        named=True,
        counts=(104_743, 5_463),
    ),
    lr=1e-4,
    epochs=10,
    batch_size=32,
)
"""Whether a sentence holds the answer to a question."""

glue_rte = _task(
    "glue_rte",
    "RTE",
    Table(
        folder="RTE",
        columns=("sentence1", "sentence2", "label"),
        hub="rte",
        hub_columns=("sentence1", "sentence2"),
        labels=("entailment", "not_entailment"),
        named=True,
        counts=(2_490, 277),
    ),
    lr=1e-5,
    epochs=20,
    batch_size=16,
)
"""Whether one sentence follows from another."""

glue_wnli = _task(
    "glue_wnli",
    "WNLI",
    Table(
        folder="WNLI",
        columns=("sentence1", "sentence2", "label"),
        hub="wnli",
        hub_columns=("sentence1", "sentence2"),
        labels=("not_entailment", "entailment"),
        counts=(635, 71),
    ),
    lr=1e-5,
    epochs=20,
    batch_size=16,
)
"""Whether a sentence with a pronoun replaced follows from the other. The paper doesn't score it: its dev set
contradicts the training half, and most networks do best with a constant answer. A suite that doesn't name it doesn't
score it either."""
