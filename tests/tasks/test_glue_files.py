"""GLUE's files as Hugging Face has them: parquet, in one file or several, and what is refused of it."""

import random
import shutil
import sys
import tracemalloc
from itertools import pairwise

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from bibench.tasks import glue
from bibench.tasks.base import DataError
from bibench.tasks.glue_files import Part, Table, find, read
from bibench.tasks.text import Broken, Row
from glue_data import hub_rows, write_hub, write_original, write_parquet, write_vocabulary

PAIRS = Table(
    folder="RTE",
    columns=("sentence1", "sentence2", "label"),
    hub="rte",
    hub_columns=("sentence1", "sentence2"),
    labels=("entailment", "not_entailment"),
    counts=(1, 1),
)
SST2 = Table(
    folder="SST-2",
    columns=("sentence", "label"),
    hub="sst2",
    hub_columns=("sentence",),
    labels=("negative", "positive"),
    counts=(7, 6),
)
TRAIN = "train-00000-of-00001.parquet"


def write(path, **columns):
    parquet.write_table(pyarrow.table(columns), path)
    return Part(paths=(path,), kind="parquet")


def rows_of(part):
    return list(read(part, PAIRS))


@pytest.fixture
def sst2(tmp_path):
    write_vocabulary(tmp_path)
    write_parquet(tmp_path, "sst2")
    return tmp_path


sentences = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.tuples(sentences, sentences, st.sampled_from([0, 1])), min_size=1, max_size=30),
    group=st.integers(1, 30),
    cuts=st.lists(st.integers(0, 30), max_size=3),
    text=st.sampled_from([pyarrow.string(), pyarrow.large_string()]),
    label=st.sampled_from([pyarrow.int64(), pyarrow.uint8(), pyarrow.float32()]),
)
def test_what_was_written_is_read(tmp_path_factory, rows, group, cuts, text, label):
    folder = tmp_path_factory.mktemp("files")
    schema = pyarrow.schema([("label", label), ("sentence2", text), ("idx", pyarrow.int32()), ("sentence1", text)])
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    paths = []
    for number, (start, stop) in enumerate(pairwise(bounds)):
        names = ("sentence1", "sentence2", "label")
        table = pyarrow.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows[start:stop]], schema)
        paths.append(folder / f"{number}.parquet")
        parquet.write_table(table, paths[-1], row_group_size=group)
    found = rows_of(Part(paths=tuple(paths), kind="parquet"))
    shutil.rmtree(folder)
    assert found == [Row(first=first, second=second, label=float(number)) for first, second, number in rows]


@pytest.mark.parametrize("task", ["mnli_m", "mnli_mm"])
def test_shards_are_read_in_order(tmp_path, task):
    write_vocabulary(tmp_path)
    folder = write_parquet(tmp_path, task, shards=3)
    assert sorted(path.name for path in folder.glob("train*"))[2] == "train-00002-of-00003.parquet"
    whole = tmp_path / "whole"
    write_vocabulary(whole)
    write_parquet(whole, task)
    loaded, expected = (getattr(glue, f"glue_{task}").load(root, True) for root in (tmp_path, whole))
    assert loaded.train.labels.tolist() == expected.train.labels.tolist()
    assert loaded.train.words.tolist() == expected.train.words.tolist()
    assert "mnli/train-00000-of-00003.parquet and 2 more: 12 of 392,702 rows" in loaded.notes[0]
    with pytest.raises(DataError, match=r"mnli/train-00000-of-00003\.parquet and 2 more has 12 rows, the original has"):
        getattr(glue, f"glue_{task}").load(tmp_path, False)


def test_the_halves_of_mnli_are_apart(tmp_path):
    """Each has its own file, and one doesn't stand for the other."""
    write_vocabulary(tmp_path)
    folder = write_parquet(tmp_path, "mnli_m", test=4)
    with pytest.raises(DataError, match="no MNLI data in"):
        glue.glue_mnli_mm.load(tmp_path, True)
    write_parquet(tmp_path, "mnli_mm", test=5)
    assert len(glue.glue_mnli_m.load(tmp_path, True).test) == 4
    assert len(glue.glue_mnli_mm.load(tmp_path, True).test) == 5
    (folder / "validation_matched-00000-of-00001.parquet").rename(folder / "validation_matched.parquet")
    assert len(glue.glue_mnli_m.load(tmp_path, True).test) == 4


def test_json_lines_and_parquet_can_stand_for_each_other(sst2):
    expected = glue.glue_sst2.load(sst2, True)
    write_hub(sst2, "sst2")
    (sst2 / "sst2" / TRAIN).unlink()
    (sst2 / "sst2" / "validation.jsonl").unlink()
    loaded = glue.glue_sst2.load(sst2, True)
    assert loaded.train.words.tolist() == expected.train.words.tolist()
    assert loaded.test.words.tolist() == expected.test.words.tolist()


@pytest.mark.parametrize("write_whole", [write_hub, write_parquet])
@pytest.mark.parametrize("folder", ["", "glue"])
def test_a_subset_does_not_hide_whole_files_of_another_layout_or_folder(tmp_path, write_whole, folder):
    write_vocabulary(tmp_path)
    write_original(tmp_path / ("glue_data" if folder else ""), "sst2", train=3, suffix="_subset")
    assert len(glue.glue_sst2.load(tmp_path, True).train) == 3
    with pytest.raises(DataError, match=r"SST-2 has only a part of .*\(train_subset\.tsv, dev_subset\.tsv\)"):
        glue.glue_sst2.load(tmp_path, False)
    whole = write_whole(tmp_path / folder, "sst2", train=7)
    assert len(glue.glue_sst2.load(tmp_path, True).train) == 7
    assert find(tmp_path, SST2, False).train.paths[0].parent == whole  # before rows are counted


def test_sets_of_shards_that_are_not_whole_are_refused(tmp_path):
    write_vocabulary(tmp_path)
    folder = write_parquet(tmp_path, "sst2", shards=3)
    (folder / "train-00001-of-00003.parquet").rename(tmp_path / "away.parquet")
    expected = r"sst2 lacks train-00001-of-00003\.parquet, and train-00000-of-00003\.parquet is there"
    with pytest.raises(DataError, match=expected):
        glue.glue_sst2.load(tmp_path, True)
    write_parquet(tmp_path, "sst2", shards=3)
    write_parquet(tmp_path, "sst2", shards=1)
    with pytest.raises(DataError, match=r"sst2 has train-00000-of-00001\.parquet, and .* no other; download"):
        glue.glue_sst2.load(tmp_path, True)


def test_rows_without_a_field_are_left_out_and_counted(tmp_path):
    write_vocabulary(tmp_path)
    folder = write_parquet(tmp_path, "rte", shards=2)
    rows = hub_rows("rte", 6, 6)
    rows[2]["sentence2"] = None
    rows[4]["label"] = None
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train-00001-of-00002.parquet")
    data = glue.glue_rte.load(tmp_path, True)
    assert len(data.train) == 10
    expected = "2 broken rows left out (the first is row 3 of train-00001-of-00002.parquet: without sentence2)"
    assert expected in data.notes[0]
    part = write(tmp_path / "a.parquet", sentence1=["a", None], sentence2=["b", "c"], label=[1, 0])
    assert rows_of(part)[1] == Broken(place="row 2", reason="without sentence1")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ([0, 1, 2], r"a\.parquet, row 3: the label is '2', expected one of 0 \(entailment\), 1 \(not_entailment\)"),
        ([0, -1, 1], r"row 2: the label is '-1', .*; a test file without labels\?"),
        ([0.0, 0.5, 1.0], r"row 2: the label is '0\.5'"),
        ([0.0, float("nan"), 1.0], r"row 2: the label is 'nan'"),
    ],
)
def test_unknown_labels_are_refused_with_file_and_row(tmp_path, label, expected):
    part = write(tmp_path / "a.parquet", sentence1=["a", "b", "c"], sentence2=["d", "e", "f"], label=label)
    with pytest.raises(DataError, match=expected):
        rows_of(part)


def test_rows_are_numbered_over_the_pieces_that_are_read(tmp_path):
    count = 5_000
    text = ["a"] * count
    part = write(tmp_path / "a.parquet", sentence1=text, sentence2=text, label=[0] * (count - 1) + [7])
    with pytest.raises(DataError, match=r"a\.parquet, row 5,000: the label is '7'"):
        rows_of(part)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"premise": ["a"], "sentence2": ["b"], "label": [0]},
            r"a\.parquet: the columns are 'premise', 'sentence2', 'label', expected 'sentence1', 'sentence2', 'label'",
        ),
        ({"sentence1": ["a"], "sentence2": ["b"]}, "the columns are 'sentence1', 'sentence2', expected"),
        ({"sentence1": [1], "sentence2": ["b"], "label": [0]}, "'sentence1' is of type int64, expected text"),
        ({"sentence1": ["a"], "sentence2": ["b"], "label": ["0"]}, "'label' is of type string, expected a number"),
        ({"sentence1": ["a"], "sentence2": ["b"], "label": [True]}, "'label' is of type bool, expected a number"),
    ],
)
def test_other_columns_are_refused(tmp_path, columns, expected):
    with pytest.raises(DataError, match=expected):
        rows_of(write(tmp_path / "a.parquet", **columns))


def test_a_column_twice_is_refused(tmp_path):
    arrays = [pyarrow.array(["a"]), pyarrow.array(["b"]), pyarrow.array(["c"]), pyarrow.array([0])]
    table = pyarrow.Table.from_arrays(arrays, names=["sentence1", "sentence1", "sentence2", "label"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="each once"):
        rows_of(Part(paths=(tmp_path / "a.parquet",), kind="parquet"))


def test_text_that_is_not_utf_8_is_refused(tmp_path):
    offsets, text = pyarrow.array([0, 2, 6], pyarrow.int32()), b"ok" + b"caf\xe9"
    broken = pyarrow.StringArray.from_buffers(2, offsets.buffers()[1], pyarrow.py_buffer(text))
    part = write(tmp_path / "a.parquet", sentence1=broken, sentence2=["b", "c"], label=[0, 1])
    with pytest.raises(DataError, match=r"a\.parquet, row 2: not UTF-8 \(unexpected end of data\); download"):
        rows_of(part)


def test_files_that_are_not_parquet_or_cut_off_are_refused(sst2):
    path = sst2 / "sst2" / TRAIN
    good = path.read_bytes()
    for content in (b"", b"sentence\tlabel\n", good[: len(good) // 2], good[:4] + bytes(len(good) - 12) + good[-8:]):
        path.write_bytes(content)
        with pytest.raises(
            DataError, match=r"sst2/train-0.*\.parquet: cannot be read as parquet \(.*download it again"
        ):
            glue.glue_sst2.load(sst2, True)
    parquet.write_table(parquet.read_table(sst2 / "sst2" / "validation-00000-of-00001.parquet").slice(0, 0), path)
    with pytest.raises(DataError, match=r"sst2/train-0.*\.parquet has no rows; expected"):
        glue.glue_sst2.load(sst2, True)


def test_a_damaged_page_is_refused(tmp_path):
    text = [f"sentence {number}" for number in range(3_000)]
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"sentence1": text, "sentence2": text, "label": [0] * len(text)})
    parquet.write_table(table, path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as parquet"):
        rows_of(Part(paths=(path,), kind="parquet"))


def test_without_pyarrow_it_says_how_to_get_it(tmp_path, monkeypatch):
    part = write(tmp_path / "a.parquet", sentence1=["a"], sentence2=["b"], label=[0])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"a\.parquet: the package pyarrow.* is missing.*'bibench\[parquet\]'"):
        rows_of(part)


def test_a_larger_file_takes_no_more_memory(tmp_path):
    """Arrow's own memory and Python's while rows are read, of files with a single row group that doesn't compress."""
    peaks = []
    generator = random.Random(0)
    for count in (2_500, 25_000):
        text = [generator.randbytes(20).hex() for _ in range(count)]
        table = pyarrow.table({"sentence1": text, "sentence2": text, "label": [0] * count})
        path = tmp_path / f"{count}.parquet"
        parquet.write_table(table, path, data_page_size=1 << 14, dictionary_pagesize_limit=1 << 14)
        assert parquet.ParquetFile(path).num_row_groups == 1
        del text, table
        before = pyarrow.total_allocated_bytes()
        tracemalloc.start()
        arrow = max(pyarrow.total_allocated_bytes() - before for _ in read(Part(paths=(path,), kind="parquet"), PAIRS))
        peaks.append(arrow + tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= 1.2 * peaks[0], peaks
