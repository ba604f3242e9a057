"""Text tasks: batches, tokens that are kept, memory, and metrics against scipy and scikit-learn."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics
from torch import nn

from bibench.files import file_sha256
from bibench.tasks import cache as cache_module
from bibench.tasks.base import DataError
from bibench.tasks.text import (
    Broken,
    Row,
    Tokens,
    WordPieces,
    encode,
    evaluate_accuracy_and_f1,
    evaluate_correlation,
    evaluate_matthews,
    squared_error,
)
from glue_data import write_vocabulary

CPU = torch.device("cpu")


def _split(count=10, numbers=False):
    lengths = np.random.default_rng(0).integers(3, 20, count)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    return Tokens(
        words=np.arange(starts[-1]).astype(np.uint16) + 1,
        starts=starts,
        second=(lengths // 2).astype(np.uint16),
        labels=np.arange(count).astype(np.float32) / (2 if numbers else 1),
        length=32,
        numbers=numbers,
    )


def test_a_batch_holds_each_sample_s_tokens():
    split = _split()
    batches = [*split.batches(4, device=CPU), *split.batches(4, device=CPU, seed=0)]
    assert [tokens.shape[2] for tokens, _ in batches[:3]] == [32] * 3  # as a deployed network takes it
    assert {tokens.shape[2] for tokens, _ in batches[3:]} <= {8, 16, 24}
    for tokens, labels in batches:
        assert tokens.dtype == torch.int64
        for (words, segments, present), label in zip(tokens.tolist(), labels.tolist(), strict=True):
            start, stop = split.starts[label], split.starts[label + 1]
            count, rest = stop - start, tokens.shape[2] - (stop - start)
            assert words == [*range(start + 1, stop + 1), *[0] * rest]
            assert segments == [0] * int(split.second[label]) + [1] * (count - int(split.second[label])) + [0] * rest
            assert present == [1] * count + [0] * rest


def test_evaluation_is_everything_in_order_and_training_whole_batches():
    split = _split(10)
    assert torch.cat([labels for _, labels in split.batches(4, device=CPU)]).tolist() == list(range(10))
    sizes = [[len(labels) for _, labels in split.batches(size, device=CPU, seed=0)] for size in (4, 10, 100)]
    assert sizes == [[4, 4], [10], [10]]
    orders = [torch.cat([labels for _, labels in split.batches(5, device=CPU, seed=s)]).tolist() for s in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == list(range(10))


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    list(_split().batches(4, device=CPU, seed=3))
    assert torch.equal(state, torch.get_rng_state())
    assert next(_split(numbers=True).batches(4, device=CPU))[1].tolist() == [0, 0.5, 1, 1.5]


@pytest.fixture
def pieces(tmp_path):
    return WordPieces(write_vocabulary(tmp_path))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def _rows():
    yield Row(first="the cat sat", second=None, label=1.0)
    yield Broken(place="line 7", reason="torn")
    yield Row(first="a good film", second="was dull", label=0.0)


def _encoded(pieces, rows=_rows, source="s", length=16):
    return encode(rows, source=source, pieces=pieces, length=length, numbers=False)


def test_tokens_are_computed_once(pieces, cache, monkeypatch):
    first = _encoded(pieces)
    assert (len(first), first.broken, first.first_broken) == (2, 1, "line 7: torn")

    def not_again():
        raise AssertionError

    again = _encoded(pieces, not_again)
    assert again.words.tolist() == first.words.tolist()
    assert (again.broken, again.first_broken) == (1, "line 7: torn")
    assert isinstance(again.words, np.memmap)
    for changed in ({"source": "t"}, {"length": 8}):
        with pytest.raises(AssertionError):
            _encoded(pieces, not_again, **changed)
    path = pieces.path
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    monkeypatch.setattr(pieces, "sha256", file_sha256(path))
    with pytest.raises(AssertionError):
        _encoded(pieces, not_again)


@pytest.mark.parametrize("name", ["words", "starts.npy", "second.npy", "labels.npy", "facts.json"])
@pytest.mark.parametrize("keep", [0, 10, None])
def test_damaged_files_are_made_anew(pieces, cache, name, keep):
    expected = _encoded(pieces).words.tolist()
    (folder,) = cache.iterdir()
    path = folder / name
    if keep is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:keep])
    found = _encoded(pieces)
    assert found.words.tolist() == expected
    assert [entry.name for entry in cache.iterdir()] == [folder.name]
    assert _encoded(pieces, lambda: iter(())).words.tolist() == expected


def test_another_process_may_be_first(pieces, cache):
    def rows():
        if not nested:
            nested.append(1)
            _encoded(pieces)  # it is done before these rows are
        yield from _rows()

    nested = []
    assert len(_encoded(pieces, rows)) == 2
    assert len(list(cache.iterdir())) == 1


def test_what_is_interrupted_leaves_nothing(pieces, cache):
    def rows():
        yield Row(first="a", second=None, label=0.0)
        raise DataError("line 2")

    with pytest.raises(DataError, match="line 2"):
        _encoded(pieces, rows)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_costs_time_only(pieces, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("BIBENCH_CACHE", str(file))
    cache_module._warn.cache_clear()
    with pytest.warns(UserWarning, match=r"tokens cannot be kept in .*file: .*Set BIBENCH_CACHE"):
        found = _encoded(pieces)
    assert next(found.batches(2, device=CPU))[0].shape == (2, 3, 16)


class _Fixed(nn.Module):
    """Returns its inputs' numbers."""

    def forward(self, x):
        return x


def _predictions(kind, count=300):
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 2, count)
    outputs = generator.normal(size=(count, 2)) + 0.5 * np.eye(2)[labels]
    if kind == "constant":
        outputs = np.tile([0.0, 1.0], (count, 1))
    if kind == "never":
        outputs = np.tile([1.0, 0.0], (count, 1))
    return torch.tensor(outputs, dtype=torch.float32), torch.tensor(labels)


def _batches(x, y):
    return list(zip(x.split(32), y.split(32), strict=True))


@pytest.mark.parametrize("kind", ["random", "constant", "never"])
def test_metrics_of_classes_equal_scikit_learn_s(kind):
    outputs, labels = _predictions(kind)
    predicted = outputs.argmax(1).numpy()
    found = evaluate_accuracy_and_f1(_Fixed(), _batches(outputs, labels))
    assert found.figures["accuracy"] == pytest.approx(100 * metrics.accuracy_score(labels, predicted), abs=1e-9)
    expected = 100 * metrics.f1_score(labels, predicted, zero_division=0)
    assert found.figures["f1"] == pytest.approx(expected, abs=1e-9)
    matthews = evaluate_matthews(_Fixed(), _batches(outputs, labels))
    expected = 100 * metrics.matthews_corrcoef(labels, predicted)
    assert matthews.figures["matthews_corr"] == pytest.approx(expected, abs=1e-9)
    (tn, fp), (fn, tp) = metrics.confusion_matrix(labels, predicted).tolist()
    below = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert matthews.figures["matthews_corr"] == pytest.approx(100 * (tp * tn - fp * fn) / below if below else 0.0)
    for evaluation in (found, matthews):
        np.testing.assert_array_equal(evaluation.per_sample, predicted == labels.numpy())


def test_correlations_equal_scipy_s():
    generator = np.random.default_rng(4)
    labels = torch.tensor(np.round(generator.uniform(0, 5, 200) * 5) / 5, dtype=torch.float32)  # with ties
    outputs = (labels + torch.tensor(generator.normal(size=200), dtype=torch.float32)).round(decimals=1)
    found = evaluate_correlation(_Fixed(), _batches(outputs[:, None], labels))
    pearson = 100 * stats.pearsonr(outputs.double(), labels.double()).statistic
    spearman = 100 * stats.spearmanr(outputs, labels).statistic
    assert found.figures["pearson"] == pytest.approx(pearson, abs=1e-9)
    assert found.figures["spearman"] == pytest.approx(spearman, abs=1e-9)
    assert found.figures["pearson_spearman_corr"] == pytest.approx((pearson + spearman) / 2, abs=1e-9)
    assert found.figures["loss"] == pytest.approx(((outputs - labels) ** 2).mean().item(), rel=1e-5)
    assert found.figures["loss"] == pytest.approx(squared_error(_Fixed(), (outputs[:, None], labels)).item(), rel=1e-5)
    expected = (1 - (outputs - labels).abs() / 5).clamp(0, 1)
    np.testing.assert_allclose(found.per_sample, expected, atol=1e-6)


def test_a_constant_number_has_no_correlation():
    labels = torch.arange(6.0) % 5
    figures = evaluate_correlation(_Fixed(), [(torch.full((6, 1), 2.5), labels)]).figures
    assert [figures[name] for name in ("pearson_spearman_corr", "pearson", "spearman")] == [0, 0, 0]
    broken = evaluate_correlation(_Fixed(), [(torch.full((6, 1), float("nan")), labels)]).figures
    assert np.isnan(broken["pearson_spearman_corr"])


@pytest.mark.parametrize("evaluate", [evaluate_accuracy_and_f1, evaluate_matthews, evaluate_correlation])
def test_an_evaluation_needs_a_batch(evaluate):
    with pytest.raises(ValueError, match="needs at least one batch"):
        evaluate(_Fixed(), [])


_PEAK = """
import json, resource, sys
from pathlib import Path
import torch
from bibench.tasks.glue import glue_mnli_m
data = glue_mnli_m.load(Path(sys.argv[1]), True)
tokens = 0
for split, seed in ((data.train, 0), (data.test, None)):
    for batch, labels in split.batches(32, device=torch.device("cpu"), seed=seed):
        tokens += int(batch[:, 2].sum())
print(json.dumps([len(data.train), tokens, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@pytest.mark.slow
def test_ten_times_the_rows_take_no_more_memory(tmp_path):
    """MNLI has 392,702 training rows; a row here is as long as one there."""
    from glue_data import original_line, write_original

    peaks = []
    for count in (40_000, 400_000):
        root = tmp_path / str(count)
        write_vocabulary(root)
        path = write_original(root, "mnli_m") / "train.tsv"
        line = original_line("mnli_m", 0).replace("the cat sat on a mat .", "the cat sat on a mat . " * 3)
        header = path.read_text(encoding="utf-8").split("\n")[0]
        with path.open("w", encoding="utf-8") as file:
            file.write(header + "\n")
            file.writelines(line + "\n" for _ in range(count))
        environment = os.environ | {"BIBENCH_CACHE": str(tmp_path / f"cache{count}"), "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, str(root)], env=environment, capture_output=True, text=True, check=True
        )
        rows, tokens, peak = json.loads(done.stdout)
        assert rows == count
        assert tokens > 25 * count
        peaks.append(peak)
        (cached,) = {
            path.parent for path in Path(environment["BIBENCH_CACHE"]).rglob("words") if path.stat().st_size > count
        }
        assert cached.is_dir()
    assert peaks[1] <= 1.2 * peaks[0]
