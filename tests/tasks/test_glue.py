"""GLUE: every layout, every task, broken rows, subsets, vocabularies; the real files."""

import hashlib
import json

import numpy as np
import pytest
import torch

from bibench import registry
from bibench.recipes import Linear
from bibench.tasks import glue
from bibench.tasks.base import DataError, Trivial
from bibench.tasks.classification import commonest
from glue_data import TABLES, original_line, write_hub, write_original, write_parquet, write_vocabulary

CPU = torch.device("cpu")


def task_of(name):
    return registry.get("tasks", f"glue_{name}")


def both(data):
    """Words, segments and labels of all samples, as lists."""
    return [
        (split.words.tolist(), split.starts.tolist(), split.second.tolist(), split.labels.tolist())
        for split in (data.train, data.test)
    ]


@pytest.fixture
def sst2(tmp_path):
    write_vocabulary(tmp_path)
    write_original(tmp_path, "sst2")
    return tmp_path


@pytest.mark.parametrize("name", TABLES)
def test_every_layout_gives_the_same_samples(tmp_path, name):
    original, lines, columns = (tmp_path / layout for layout in ("original", "lines", "columns"))
    write_original(original / "glue_data", name)
    write_hub(lines / "glue", name)
    write_parquet(columns / "glue", name)
    for root in (original, lines, columns):
        write_vocabulary(root)
    task = task_of(name)
    data = task.load(original, True)
    assert both(data) == both(task.load(lines, True)) == both(task.load(columns, True))
    assert (len(data.train), len(data.test)) == (12, 6)
    labels = TABLES[name][5]
    assert data.outputs == task.outputs == max(1, len(labels))
    expected = [number % len(labels) if labels else (number % 11) / 2 for number in range(12)]
    assert data.train.labels.tolist() == expected
    tokens, given = next(data.test.batches(6, device=CPU))
    assert tokens.shape == (6, *task.input_shape)  # as a deployed network takes it
    assert given.dtype == (torch.int64 if labels else torch.float32)
    assert tokens[0, 1].any().item() == (len(TABLES[name][4]) == 2)
    assert registry.get("tasks", task.name) is task
    assert (task.group, task.modality) == ("glue", "text")


def test_the_tokens_are_what_they_should_be(sst2):
    words = (sst2 / "bert-base-uncased" / "vocab.txt").read_text(encoding="utf-8").split("\n")
    (sst2 / "SST-2" / "train.tsv").write_text(
        'sentence\tlabel\nA "GOOD" caté\u2028sat\x0b at xyz .\t1\r\n', encoding="utf-8"
    )
    data = glue.glue_sst2.load(sst2, True)
    tokens, labels = next(data.train.batches(1, device=CPU))
    expected = ["[CLS]", "a", '"', "good", '"', "[UNK]", "sat", "at", "[UNK]", ".", "[SEP]"]
    assert [words[number] for number in tokens[0, 0].tolist()][: len(expected)] == expected
    assert tokens[0, 2].tolist() == [1] * len(expected) + [0] * (64 - len(expected))
    assert labels.tolist() == [1]


def test_a_byte_order_mark_is_no_part_of_the_header(sst2):
    path = sst2 / "SST-2" / "train.tsv"
    before = both(glue.glue_sst2.load(sst2, True))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert both(glue.glue_sst2.load(sst2, True)) == before


@pytest.mark.parametrize("name", ["sst2", "cola", "qqp", "stsb"])
def test_rows_without_all_columns_are_left_out_and_counted(tmp_path, name):
    write_vocabulary(tmp_path)
    path = write_original(tmp_path, name) / "train.tsv"
    whole = task_of(name).load(tmp_path, True)
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[3:3] = ["half\ta row of many columns"[:4]]
    lines.insert(6, original_line(name, 1) + "\tone more")
    path.write_text("\n".join(lines), encoding="utf-8")
    data = task_of(name).load(tmp_path, True)
    width = 4 if name == "cola" else TABLES[name][2].count("\t") + 1
    assert f"train.tsv: 2 broken rows left out (the first is line 4: 1 columns, expected {width})" in data.notes[0]
    assert both(data) == both(whole)
    assert data.notes == task_of(name).load(tmp_path, True).notes  # from the cache


def test_json_rows_without_all_fields_are_left_out_and_counted(tmp_path):
    write_vocabulary(tmp_path)
    path = write_hub(tmp_path, "rte") / "train.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[2] = json.dumps({"sentence1": "a", "sentence2": None, "label": 0})
    lines[4] = json.dumps({"sentence1": "a", "sentence2": "b"})
    path.write_text("\n".join(lines), encoding="utf-8")
    data = glue.glue_rte.load(tmp_path, True)
    assert len(data.train) == 10
    assert "rte/train.jsonl: 2 broken rows left out (the first is line 3: without sentence2)" in data.notes[0]


@pytest.mark.parametrize(
    ("name", "label", "expected"),
    [
        ("sst2", "2", r"SST-2/train\.tsv, line 6: the label is '2', expected one of 0, 1"),
        ("sst2", "positive", "the label is 'positive'"),
        (
            "rte",
            "neutral",
            r"RTE/train\.tsv, line 6: the label is 'neutral', expected one of entailment, not_entailment",
        ),
        ("mnli_m", "-", "expected one of entailment, neutral, contradiction"),
        ("stsb", "5.5", "the label is '5.5', expected a number from 0 to 5"),
        ("stsb", "nan", "expected a number from 0 to 5"),
        ("stsb", "", "a test file without labels"),
    ],
)
def test_unknown_labels_are_refused_with_file_and_line(tmp_path, name, label, expected):
    write_vocabulary(tmp_path)
    path = write_original(tmp_path, name) / "train.tsv"
    lines = path.read_text(encoding="utf-8").split("\n")
    fields = lines[5].split("\t")
    fields[TABLES[name][3][-1]] = label
    lines[5] = "\t".join(fields)
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=expected):
        task_of(name).load(tmp_path, True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            '{"sentence": "a", "label": 7}',
            r"sst2/train\.jsonl, line 2: the label is '7', expected one of 0 \(negative\), 1",
        ),
        ('{"sentence": "a", "label": -1}', "a test file without labels"),
        ('{"sentence": "a", "label": true}', "the label is 'True'"),
        ('{"sentence": "a", "label": 0.5}', "the label is '0.5'"),
        ('{"sentence": "a", "label": "1"', "line 2: not a JSON object"),
        ("[1, 2]", "is not a JSON object"),
    ],
)
def test_json_that_is_not_what_it_should_be_is_refused(tmp_path, line, expected):
    write_vocabulary(tmp_path)
    path = write_hub(tmp_path, "sst2") / "train.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[1] = line
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=expected):
        glue.glue_sst2.load(tmp_path, True)


def test_other_files_are_refused(sst2):
    path = sst2 / "SST-2" / "train.tsv"
    good = path.read_bytes()
    path.write_bytes(good.replace(b"sentence\tlabel", b"text\tlabel"))
    with pytest.raises(DataError, match=r"train\.tsv, line 1: the header lacks 'sentence'; it is 'text\\tlabel'"):
        glue.glue_sst2.load(sst2, True)
    path.write_bytes(good + b"caf\xe9\t1\n")
    with pytest.raises(DataError, match=r"train\.tsv, line 14: not UTF-8"):
        glue.glue_sst2.load(sst2, True)
    path.write_bytes(b"sentence\tlabel\n")
    with pytest.raises(DataError, match=r"train\.tsv has no rows; expected"):
        glue.glue_sst2.load(sst2, True)
    path.write_bytes(b"sentence\tlabel\n1\n")
    with pytest.raises(DataError, match=r"train\.tsv has no rows but broken ones \(line 2: 1 columns"):
        glue.glue_sst2.load(sst2, True)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="the header lacks"):
        glue.glue_sst2.load(sst2, True)


def test_a_part_of_the_data_set_has_to_be_allowed(tmp_path):
    write_vocabulary(tmp_path)
    write_original(tmp_path, "qnli")
    with pytest.raises(DataError, match=r"QNLI/train\.tsv has 12 rows, the original has 104,743; .*--allow-subset"):
        glue.glue_qnli.load(tmp_path, False)
    notes = glue.glue_qnli.load(tmp_path, True).notes[0]
    assert notes == "QNLI/train.tsv: 12 of 104,743 rows; QNLI/dev.tsv: 6 of 5,463 rows"


def test_subset_files_are_read_only_where_allowed(tmp_path):
    write_vocabulary(tmp_path)
    write_original(tmp_path, "mnli_m", suffix="_subset")
    with pytest.raises(DataError, match=r"only a part of the data set \(train_subset\.tsv, dev_subset\.tsv\)"):
        glue.glue_mnli_m.load(tmp_path, False)
    for task, stands in ((glue.glue_mnli_m, "dev_matched"), (glue.glue_mnli_mm, "dev_mismatched")):
        assert f"dev_subset.tsv stands for {stands}.tsv" in task.load(tmp_path, True).notes[0]
    write_original(tmp_path, "mnli_m", train=8)  # whole files are preferred
    data = glue.glue_mnli_m.load(tmp_path, True)
    assert len(data.train) == 8
    assert "stands for" not in data.notes[0]


def test_long_samples_are_cut_and_counted(sst2):
    with (sst2 / "SST-2" / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("cat " * 80 + "\t1\n")
    data = glue.glue_sst2.load(sst2, True)
    assert "SST-2/train.tsv: 1 of 13 samples cut to 64 word pieces" in data.notes[0]
    assert np.diff(data.train.starts).max() == 64


def test_the_trivial_score(sst2):
    (sst2 / "SST-2" / "dev.tsv").write_text("sentence\tlabel\n" + "a\t1\n" * 3 + "a\t0\n", encoding="utf-8")
    assert glue.glue_sst2.load(sst2, True).trivial == commonest([1, 1, 1, 0], ["negative", "positive"])
    write_original(sst2, "cola")
    write_original(sst2, "stsb")
    for task, words in ((glue.glue_cola, " ('unacceptable'), right on 50.00 %"), (glue.glue_stsb, "")):
        data = task.load(sst2, True)
        answer = f"one answer for all test samples{words}"
        assert data.trivial == Trivial(answer=answer, value=0, margin=200 / len(data.test) ** 0.5)


def test_a_correlation_by_chance_is_within_the_margin():
    """As often as a normal variable is within two standard deviations, one-sidedly."""
    random = np.random.default_rng(0)
    answers, truths = random.integers(2, size=(2, 4_000, 400))
    centred = [one - one.mean(axis=1, keepdims=True) for one in (answers, truths)]
    product = (centred[0] * centred[1]).sum(axis=1)
    phi = product / np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    assert (100 * phi <= 200 / 400**0.5).mean() == pytest.approx(0.977, abs=0.01)


def test_missing_files_are_explained(tmp_path):
    with pytest.raises(
        DataError,
        match=r"glue_sst2 needs its files(.|\n)*SST-2/train\.tsv(.|\n)*sst2/validation-0(.|\n)*sst2/validation\.jsonl",
    ):
        glue.glue_sst2.load(None, False)
    with pytest.raises(DataError, match="no such folder"):
        glue.glue_sst2.load(tmp_path / "none", False)
    with pytest.raises(DataError, match=r"no SST-2 data in"):
        glue.glue_sst2.load(tmp_path, False)
    folder = write_original(tmp_path, "sst2")
    with pytest.raises(DataError, match=r"no vocabulary for .*bert-base-uncased/vocab\.txt"):
        glue.glue_sst2.load(tmp_path, True)
    (folder / "dev.tsv").unlink()
    with pytest.raises(DataError, match=r"no SST-2 data in"):
        glue.glue_sst2.load(tmp_path, True)


def test_the_vocabulary_is_found_beside_the_data(tmp_path):
    write_original(tmp_path / "glue_data", "sst2")
    path = write_vocabulary(tmp_path)
    expected = both(glue.glue_sst2.load(tmp_path, True))
    assert both(glue.glue_sst2.load(tmp_path / "glue_data", True)) == expected
    path.rename(tmp_path / "vocab.txt")
    assert both(glue.glue_sst2.load(tmp_path, True)) == expected


def test_a_vocabulary_that_does_not_match_the_networks_is_refused(sst2):
    write_vocabulary(sst2, 28_996)
    with pytest.raises(DataError, match=r"vocab\.txt has 28,996 word pieces, and the networks have 30,522"):
        glue.glue_sst2.load(sst2, True)
    path = write_vocabulary(sst2)
    path.write_text(path.read_text(encoding="utf-8").replace("[CLS]", "[BOS]"), encoding="utf-8")
    with pytest.raises(DataError, match=r"vocab\.txt: (lacks \[CLS\]|.*cls_token not found)"):
        glue.glue_sst2.load(sst2, True)
    path.write_text("x\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"has \[PAD\] on line 2, expected line 1"):
        glue.glue_sst2.load(sst2, True)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match="cannot be read as a vocabulary"):
        glue.glue_sst2.load(sst2, True)


def test_another_vocabulary_is_noted(sst2, monkeypatch):
    path = sst2 / "bert-base-uncased" / "vocab.txt"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    _, note = glue.glue_sst2.load(sst2, True).notes
    assert note == (
        f"the vocabulary bert-base-uncased/vocab.txt (SHA-256 {digest[:10]}...) is not that of bert-base-uncased"
    )
    monkeypatch.setattr(glue, "BERT_BASE_UNCASED", digest)
    assert len(glue.glue_sst2.load(sst2, True).notes) == 1
    pieces = path.read_text(encoding="utf-8").split("\n")
    pieces[100], pieces[101] = pieces[101], pieces[100]
    path.write_text("\n".join(pieces), encoding="utf-8")
    assert "is not that of bert-base-uncased" in glue.glue_sst2.load(sst2, True).notes[1]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_vocabulary_is_the_same_whatever_ends_its_lines(sst2, end):
    before = glue.glue_sst2.load(sst2, True)
    path = sst2 / "bert-base-uncased" / "vocab.txt"
    path.write_text(path.read_text(encoding="utf-8").removesuffix("\n"), encoding="utf-8", newline=end)
    after = glue.glue_sst2.load(sst2, True)
    assert (after.fingerprint, after.notes, both(after)) == (before.fingerprint, before.notes, both(before))


def test_the_fingerprint_is_of_content(sst2):
    before = glue.glue_sst2.load(sst2, True).fingerprint
    assert glue.glue_sst2.load(sst2, True).fingerprint == before
    path = sst2 / "SST-2" / "dev.tsv"
    path.write_text(path.read_text(encoding="utf-8").replace("mat", "film", 1), encoding="utf-8")
    assert glue.glue_sst2.load(sst2, True).fingerprint != before


def test_recipes():
    """Adam, 10 % warm-up and linear decay; learning rates and epochs of the binarized BERT's paper."""
    rates = {"cola": 1e-4, "sst2": 1e-4, "qnli": 1e-4, "qqp": 1e-4, "stsb": 1e-4, "mrpc": 2e-4, "rte": 1e-5}
    epochs = {"cola": 50, "sst2": 10, "qnli": 10, "qqp": 5, "stsb": 20, "mrpc": 20, "rte": 20}
    for name in ("mnli_m", "mnli_mm"):
        rates[name], epochs[name] = 5e-5, 5
    for name in rates:
        for recipe in (task_of(name).full_precision, task_of(name).binarized):
            assert (recipe.optimizer.name, recipe.optimizer.lr) == ("adam", rates[name])
            assert (recipe.epochs, recipe.warmup, recipe.schedule) == (epochs[name], 0.1, Linear())
            assert 16 <= recipe.batch_size <= 32
    for name, metric in (("cola", "matthews_corr"), ("stsb", "pearson_spearman_corr"), ("mnli_mm", "accuracy")):
        assert task_of(name).metric.name == metric  # as in the published results


@pytest.mark.parametrize("name", TABLES)
def test_examples_are_for_every_network(name):
    example = task_of(name).example()
    assert example.shape == (2, *task_of(name).input_shape)
    assert example.dtype == torch.int64
    assert example[:, 1:].max() == 1


def test_real_files(real_data):
    expected = {
        "cola": (8_551, 1_043),
        "sst2": (67_349, 872),
        "mrpc": (3_668, 408),
        "stsb": (5_749, 1_500),
        "rte": (2_490, 277),
        "wnli": (635, 71),
    }
    for name, counts in expected.items():
        data = task_of(name).load(real_data, False)
        assert (len(data.train), len(data.test)) == counts
        assert data.train.broken == data.test.broken == 0
    for name, counts in {"qnli": (8_999, 5_463), "qqp": (8_999, 1_000), "mnli_m": (8_999, 1_000)}.items():
        data = task_of(name).load(real_data, True)
        assert (len(data.train), len(data.test)) == counts
        assert not any("vocabulary" in note for note in data.notes)
    assert f"{glue.glue_sst2.load(real_data, False).trivial.value:.2f}" == "50.92"


def test_real_tokens_are_those_of_transformers(real_data):
    import transformers

    vocabulary = real_data / "bert-base-uncased" / "vocab.txt"
    theirs = transformers.BertTokenizer(str(vocabulary))
    if theirs.vocab_size != 30_522:  # a version that takes no file
        theirs = transformers.BertTokenizer.from_pretrained(str(vocabulary.parent))
    data = glue.glue_mrpc.load(real_data, False)
    lines = (real_data / "glue_data" / "MRPC" / "dev.tsv").read_text(encoding="utf-8-sig").split("\n")[1:101]
    tokens, _ = next(data.test.batches(100, device=CPU))
    for line, (words, segments, present) in zip(lines, tokens.tolist(), strict=True):
        _, _, _, first, second = line.split("\t")
        expected = theirs(first, second, truncation="longest_first", max_length=128)
        count = sum(present)
        assert words[:count] == expected["input_ids"]
        assert segments[:count] == expected["token_type_ids"]
