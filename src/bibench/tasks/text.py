"""What text tasks share: word pieces that are computed once and mapped from a file, loss and metrics."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
import torch
from scipy.stats import pearsonr, spearmanr
from tokenizers import BertWordPieceTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from bibench.models.bert import VOCABULARY
from bibench.tasks.base import DataError, Evaluation, Metric
from bibench.tasks.cache import cache_folder, warn_not_kept
from bibench.tasks.classification import evaluate as evaluate_classes

__all__ = [
    "BERT_BASE_UNCASED",
    "CORRELATION",
    "MATTHEWS",
    "Broken",
    "Row",
    "TextBatch",
    "Tokens",
    "WordPieces",
    "encode",
    "evaluate_accuracy_and_f1",
    "evaluate_correlation",
    "evaluate_matthews",
    "example",
    "refuse_other_vocabulary",
    "squared_error",
]

BERT_BASE_UNCASED = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
"""SHA-256 of the word pieces of ``bert-base-uncased``, see `WordPieces`."""

MATTHEWS = Metric(name="matthews_corr")
"""Matthews' correlation coefficient, times 100."""

CORRELATION = Metric(name="pearson_spearman_corr")
"""Mean of Pearson's and Spearman's correlation coefficients, times 100."""

TextBatch = tuple[Tensor, Tensor]
"""Tokens ``(batch, 3, length)``, int64 (word pieces, segments, mask), and labels ``(batch,)``: int64, or float32 of
numbers."""

_VERSION = 1
"""Raised when what is kept changes, so that nobody meets tokens of an earlier version."""

_ROWS = 2_048
"""Rows that are read and cut into word pieces at a time: memory doesn't grow with the file."""

_MULTIPLE = 8
"""A training batch is padded to the next multiple of this above its longest sample, so that shapes are few."""

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A sample: its one or two sentences, and its label as a number."""

    first: str
    second: str | None
    label: float


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A row of a file that is left out: its line or row, counted from 1, and what is wrong with it."""

    place: str
    reason: str


class WordPieces:
    """A tokenizer: BERT's, for lower-cased text, from a vocabulary of one word piece a line.

    Its ``sha256`` is that of the word pieces in their order, each followed by a newline, whatever ends the lines.

    Args:
        path: ``vocab.txt``.

    Raises:
        DataError: no such file, not `bibench.models.bert.VOCABULARY` word pieces, or without ``[CLS]`` and the like.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.tokenizer = BertWordPieceTokenizer(str(path), lowercase=True)
        except Exception as error:  # tokenizers raises plain exceptions for whatever it doesn't like
            raise DataError(f"{path}: cannot be read as a vocabulary, one word piece a line: {error}") from error
        found = self.tokenizer.get_vocab_size()
        numbers = {piece: self.tokenizer.token_to_id(piece) for piece in _SPECIAL}
        lacking = [piece for piece, number in numbers.items() if number is None]
        if lacking or numbers["[PAD]"] != 0:
            what = (
                f"lacks {', '.join(lacking)}"
                if lacking
                else f"has [PAD] on line {numbers['[PAD]'] + 1}, expected line 1"
            )
            raise DataError(f"{path}: {what}; take the vocab.txt of bert-base-uncased")
        if found != VOCABULARY:
            raise DataError(
                f"{path} has {found:,} word pieces, and the networks have {VOCABULARY:,} (bert-base-uncased): "
                "the tokenizer doesn't match them; take the vocab.txt of bert-base-uncased"
            )
        self.sha256 = _pieces_sha256(path)


def _pieces_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for line in file:
            digest.update(line.rstrip(b"\r\n") + b"\n")
    return digest.hexdigest()


def refuse_other_vocabulary(vocabulary: Path, checkpoint: Path) -> None:
    """Refuse weights that have another vocabulary beside them than the data's: to them a number is another word piece.

    Args:
        vocabulary: of the data.
        checkpoint: file of the weights; where no ``vocab.txt`` is beside it, nothing is known of theirs.

    Raises:
        DataError: the two differ in more than line ends.
    """
    beside = checkpoint.with_name("vocab.txt")
    if beside.is_file() and _pieces_sha256(beside) != _pieces_sha256(vocabulary):
        raise DataError(
            f"--checkpoint {checkpoint}: its vocabulary {beside} is another than the data's, {vocabulary}, so the "
            "tokenizer doesn't match it; give weights of the data's vocabulary, or put theirs in its place"
        )


@dataclass(eq=False, kw_only=True)
class Tokens:
    """A split of tokenized samples, mapped from files: a batch reads what it needs of them.

    A training batch is as long as its longest sample; in evaluation all have the same length, the one that a deployed
    network takes. Padding is masked, so that changes no result.

    Args:
        words: uint16, the word pieces of all samples, one sample after the other.
        starts: int64 ``(samples + 1,)``, where each begins.
        second: uint16 ``(samples,)``, the position in the sample where its second sentence begins.
        labels: float32 ``(samples,)``.
        length: most tokens of a sample.
        numbers: whether labels are numbers to be predicted, or classes.
        cut: how many samples were longer than allowed.
        broken: how many rows of the file were left out, and the first of them.

    >>> split = Tokens(
    ...     words=np.array([101, 7, 102, 101, 9, 102, 8, 102], np.uint16), starts=np.array([0, 3, 8]),
    ...     second=np.array([3, 3], np.uint16), labels=np.array([1, 0], np.float32), length=8, numbers=False,
    ... )
    >>> tokens, labels = next(split.batches(2, device=torch.device("cpu")))
    >>> tokens[1], labels
    (tensor([[101,   9, 102,   8, 102,   0,   0,   0],
             [  0,   0,   0,   1,   1,   0,   0,   0],
             [  1,   1,   1,   1,   1,   0,   0,   0]]), tensor([1, 0]))
    """

    words: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]
    second: npt.NDArray[np.uint16]
    labels: npt.NDArray[np.float32]
    length: int
    numbers: bool
    cut: int = 0
    broken: int = 0
    first_broken: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int, *, device: torch.device, seed: int | None = None) -> Iterator[TextBatch]:
        """Iterate over ``(tokens, labels)``; see `bibench.tasks.base.Split.batches`."""
        stop = len(self)
        if seed is None:
            order = torch.arange(stop)
        else:
            order = torch.randperm(stop, generator=torch.Generator().manual_seed(seed))
            stop = min(stop, max(1, stop // batch_size) * batch_size)
        for start in range(0, stop, batch_size):
            chosen = order[start : min(start + batch_size, stop)].numpy()
            tokens, labels = self._samples(chosen, None if seed is not None else self.length)
            yield tokens.to(device), labels.to(device)

    def _samples(self, chosen: npt.NDArray[np.int64], longest: int | None) -> TextBatch:
        starts = self.starts[chosen][:, None]
        counts = self.starts[chosen + 1][:, None] - starts
        if longest is None:
            longest = min(self.length, -(-int(counts.max()) // _MULTIPLE) * _MULTIPLE)
        position = np.arange(longest)[None]
        present = position < counts
        words = self.words[np.where(present, starts + position, 0)].astype(np.int64)
        rows = np.stack((words * present, present & (position >= self.second[chosen][:, None]), present), axis=1)
        labels = torch.from_numpy(self.labels[chosen])
        return torch.from_numpy(rows.astype(np.int64)), labels if self.numbers else labels.long()


def encode(
    rows: Callable[[], Iterator[Row | Broken]],
    *,
    source: str,
    pieces: WordPieces,
    length: int,
    numbers: bool,
) -> Tokens:
    """A file's rows as tokens: from the cache if they are there, else computed and kept there for the next time.

    They are kept in ``tokens/<SHA-256 of what decides them>-v<version>`` below the user's cache folder, and mapped
    from there. Rows are read and written a piece at a time. Several processes may do this at once: each writes a
    folder of its own and moves it into place. Where nothing can be written, a warning says so, once, and they are
    computed each time.

    Args:
        rows: reads the file from its beginning.
        source: SHA-256 of the file's content, and of what else decides the rows.
        pieces: cuts them.
        length: most tokens of a sample; of a longer one, the longer sentence is shortened first.
        numbers: see `Tokens`.

    Raises:
        DataError: as ``rows`` does, or there is none.
    """
    decisive = f"{source} {pieces.sha256} {length} {tokenizers.__version__}"
    name = f"{hashlib.sha256(decisive.encode()).hexdigest()}-v{_VERSION}"
    folder = cache_folder() / "tokens" / name
    kept = _open(folder, length, numbers)
    if kept is not None:
        return kept
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name[:8]}.", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        warn_not_kept("tokens", error)
        temporary = Path(tempfile.mkdtemp(prefix="bibench-tokens-"))
        folder = temporary
    try:
        _write(rows(), temporary, pieces, length)
        if folder != temporary:
            _move(temporary, folder)
        made = _open(folder, length, numbers)
    finally:
        # The mapped files of a folder that isn't kept live on until the last reader is gone.
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)
    if made is None:
        raise DataError(f"{folder}: what was just written there can't be read; delete the folder and try again")
    return made


def _move(temporary: Path, folder: Path) -> None:
    """Put a complete folder in its place; a damaged one that is there makes way, another process's whole one stays."""
    try:
        temporary.rename(folder)
    except OSError:
        if _open(folder, 0, False) is None:
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)


def _write(rows: Iterator[Row | Broken], folder: Path, pieces: WordPieces, length: int) -> None:
    tokenizer: Any = pieces.tokenizer
    tokenizer.enable_truncation(length, strategy="longest_first")
    starts, second, labels = array("q", [0]), array("H"), array("f")
    cut, broken, first_broken = 0, 0, ""
    with (folder / "words").open("wb") as file:
        while part := list(islice(rows, _ROWS)):
            for row in part:
                if isinstance(row, Broken):
                    broken += 1
                    first_broken = first_broken or f"{row.place}: {row.reason}"
            whole = [row for row in part if isinstance(row, Row)]
            texts = [row.first if row.second is None else (row.first, row.second) for row in whole]
            for row, found in zip(whole, tokenizer.encode_batch(texts), strict=True):
                array("H", found.ids).tofile(file)
                starts.append(starts[-1] + len(found.ids))
                second.append(found.type_ids.index(1) if 1 in found.type_ids else len(found.ids))
                labels.append(row.label)
                cut += bool(found.overflowing)
        file.flush()
        os.fsync(file.fileno())
    for name, values in (("starts", starts), ("second", second), ("labels", labels)):
        np.save(folder / f"{name}.npy", np.asarray(values), allow_pickle=False)
    facts = {"samples": len(labels), "words": starts[-1], "cut": cut, "broken": broken, "first_broken": first_broken}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _open(folder: Path, length: int, numbers: bool) -> Tokens | None:
    """The kept tokens, or None where they are missing or not whole."""
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        samples, count = facts["samples"], facts["words"]
        words = np.memmap(folder / "words", np.uint16, mode="r")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("starts", "second", "labels")}
        right = {"starts": (np.int64, samples + 1), "second": (np.uint16, samples), "labels": (np.float32, samples)}
        if len(words) != count or any((arrays[k].dtype, arrays[k].shape) != (d, (n,)) for k, (d, n) in right.items()):
            return None
        return Tokens(
            words=words,
            **arrays,
            length=length,
            numbers=numbers,
            cut=int(facts["cut"]),
            broken=int(facts["broken"]),
            first_broken=str(facts["first_broken"]),
        )
    except Exception:  # missing, or damaged: a damaged header can raise almost anything
        return None


def example(length: int) -> Tensor:
    """Two samples of full length, of two sentences each, for tracing."""
    words = torch.randint(1_000, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(0))
    words[:, 0] = 101
    segments = (torch.arange(length) >= length // 2).long().expand(2, -1)
    return torch.stack((words, segments, torch.ones_like(words)), dim=1)


def squared_error(model: nn.Module, batch: TextBatch) -> Tensor:
    """Mean of ``(model(x) - y)^2`` over the batch, for a model with one output.

    >>> squared_error(nn.Flatten(), (torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0])))
    tensor(2.)
    """
    tokens, labels = batch
    return F.mse_loss(model(tokens).float().squeeze(1), labels)


def _predicted(
    model: nn.Module, batches: Iterable[TextBatch]
) -> tuple[Evaluation, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The usual evaluation of classes, and the predicted and the right classes."""
    predictions, labels = [], []

    def watched() -> Iterator[TextBatch]:
        for batch in batches:
            labels.append(batch[1])
            yield batch

    class Watched(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            outputs: Tensor = model(tokens)
            predictions.append(outputs.float().argmax(dim=1))
            return outputs

    found = evaluate_classes(Watched(), watched())
    return found, torch.cat(predictions).cpu().numpy(), torch.cat(labels).cpu().numpy()


def evaluate_accuracy_and_f1(model: nn.Module, batches: Iterable[TextBatch]) -> Evaluation:
    """Accuracy, mean cross-entropy, and F1 of class 1 in percent (0 where it is neither predicted nor right).

    >>> tokens, labels = torch.eye(2)[[0, 1, 1, 1]], torch.tensor([0, 1, 1, 0])
    >>> found = evaluate_accuracy_and_f1(nn.Flatten(), [(tokens, labels)]).figures
    >>> found["accuracy"], round(found["f1"], 1)
    (75.0, 80.0)
    """
    from sklearn.metrics import f1_score  # 130 MB, which a plan or a score doesn't need

    found, predicted, right = _predicted(model, batches)
    score = 100.0 * float(f1_score(right, predicted, zero_division=0.0))
    return Evaluation(figures=found.figures | {"f1": score}, per_sample=found.per_sample)


def evaluate_matthews(model: nn.Module, batches: Iterable[TextBatch]) -> Evaluation:
    """Matthews' correlation times 100 (0 for a constant prediction), accuracy, and mean cross-entropy.

    Per sample: 1.0 where the class is right, else 0.0; it is a figure of the whole, which no sample has.
    """
    from sklearn.metrics import matthews_corrcoef  # as above

    found, predicted, right = _predicted(model, batches)
    score = 100.0 * float(matthews_corrcoef(right, predicted))
    return Evaluation(figures={"matthews_corr": score} | found.figures, per_sample=found.per_sample)


def evaluate_correlation(model: nn.Module, batches: Iterable[TextBatch]) -> Evaluation:
    """Pearson's and Spearman's correlation times 100 and their mean (0 for a constant prediction), and the mean
    squared error.

    Per sample: ``1 - |model(x) - y| / 5``, where 5 is the range of the labels, and not below 0.

    Raises:
        ValueError: there is no batch.
    """
    outputs, labels = [], []
    for tokens, numbers in batches:
        outputs.append(model(tokens).float().squeeze(1))
        labels.append(numbers)
    if not outputs:
        raise ValueError("an evaluation needs at least one batch, got none; check the test split")
    predicted = torch.cat(outputs).double().cpu().numpy()
    right = torch.cat(labels).double().cpu().numpy()
    both = [0.0, 0.0]
    if np.ptp(predicted) > 0 and np.ptp(right) > 0:
        both = [100.0 * float(measure(predicted, right).statistic) for measure in (pearsonr, spearmanr)]
    elif not np.isfinite(predicted).all():
        both = [float("nan")] * 2
    error = np.abs(predicted - right)
    return Evaluation(
        figures={
            "pearson_spearman_corr": sum(both) / 2,
            "pearson": both[0],
            "spearman": both[1],
            "loss": float((error**2).mean()),
        },
        per_sample=np.clip(1.0 - error / 5.0, 0.0, 1.0).astype(np.float32),
    )
