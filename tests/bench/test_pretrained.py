"""Runs that start from a pretrained encoder: what is trained from it, what the records say, and what is refused."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from bibench.bench.benchmark import prepare, run_suite
from bibench.bench.plan import PlanError
from bibench.bench.store import Store
from bibench.bench.suite import load_suite
from bibench.bench.worker import Settings
from bibench.models.bert import Bert, bert_tiny4
from bibench.tasks.base import DataError
from bibench.training import CheckpointError, load_weights, save_weights
from glue_data import write_original, write_vocabulary

SUITE = """
name: text
tasks:
  - {task: glue_rte, architectures: [bert_tiny4], full_precision: {steps: 2}, binarized: {steps: 1}}
algorithms: [bnn]
seeds: 1
tracks: [learning_task]
"""


class _Silent:
    def started(self, run):
        pass

    def progressed(self, run_id, share):
        pass

    def finished(self, outcome):
        assert outcome.status == "ok", outcome.message


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    write_vocabulary(root)
    write_original(root, "rte", train=32, test=6)
    return root


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return load_suite(str(path))


def _encoder(path, model, **more):
    save_file({f"bert.{name}": value.clone() for name, value in model.bert.state_dict().items()} | more, path)
    return path


def _settings(tmp_path, data, **more):
    return Settings(
        **({"out": tmp_path / "store", "data": data, "allow_subset": True, "tracks": ("learning_task",)} | more)
    )


def _records(settings):
    return {record.run.algorithm: record for record in Store(settings.out).records()}


@pytest.mark.slow
def test_full_precision_is_trained_from_it_and_the_records_say_so(tmp_path, data, suite):
    torch.manual_seed(5)
    path = _encoder(tmp_path / "encoder.safetensors", bert_tiny4.build((3, 128), 2), **{"cls.bias": torch.zeros(3)})
    settings = _settings(tmp_path, data, checkpoint=path)
    run_suite(suite, settings, jobs=1, listener=lambda runs: _Silent())
    records = _records(settings)
    full, binarized = records["fp32"], records["bnn"]
    assert (full.run.method, binarized.run.method) == ("full_precision", "fine_tune")
    assert full.run.checkpoint is not None
    assert binarized.run.parent == full.id
    assert "train" in full.phases
    weights, start = load_file(Store(settings.out).weights(full.id)), load_file(path)
    for name, value in start.items():
        if name.startswith("bert.encoder"):
            assert (weights[name] - value).abs().max() < 1e-3  # two steps of Adam with its small rate
    note = f"bert_tiny4 on glue_rte started from pretrained weights (SHA-256 {full.run.checkpoint[:10]}...)"
    assert full.notes[-1] == binarized.notes[-1] == note

    scratch = _settings(tmp_path, data, out=tmp_path / "scratch")
    run_suite(suite, scratch, jobs=1, listener=lambda runs: _Silent())
    for name, record in _records(scratch).items():
        assert record.notes[-1] == "bert_tiny4 on glue_rte started from scratch"
        assert record.id != records[name].id


def test_a_trained_network_is_evaluated_and_not_trained(tmp_path, data, suite):
    path = tmp_path / "weights.safetensors"
    model = bert_tiny4.build((3, 128), 2)
    save_weights(path, model)
    runs = prepare(suite, _settings(tmp_path, data, checkpoint=path)).runs
    assert {run.method for run in runs} == {"checkpoint", "fine_tune"}
    _encoder(path, model)
    runs = prepare(suite, _settings(tmp_path, data, checkpoint=path)).runs
    assert {run.method for run in runs} == {"full_precision", "fine_tune"}
    with pytest.raises(CheckpointError, match=r"doesn't fit the model \(missing: classifier\.weight"):
        load_weights(path, model)


@pytest.mark.slow
def test_the_records_of_a_trained_network_say_that_it_was_given(tmp_path, data, suite):
    settings = _settings(tmp_path, data, checkpoint=tmp_path / "weights.safetensors")
    save_weights(settings.checkpoint, bert_tiny4.build((3, 128), 2))
    run_suite(suite, settings, jobs=1, listener=lambda runs: _Silent())
    records = _records(settings)
    digest = hashlib.sha256(settings.checkpoint.read_bytes()).hexdigest()
    for name in ("fp32", "bnn"):
        assert records[name].notes[-1] == (
            f"full precision of bert_tiny4 on glue_rte is the given checkpoint (SHA-256 {digest[:10]}...)"
        )


@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_with_another_vocabulary_beside_it_starts_nothing(tmp_path, data, suite, whole):
    folder = tmp_path / "theirs"
    folder.mkdir()
    settings = _settings(tmp_path, data, checkpoint=folder / "weights.safetensors")
    model = bert_tiny4.build((3, 128), 2)
    save_weights(settings.checkpoint, model) if whole else _encoder(settings.checkpoint, model)
    own = data / "bert-base-uncased" / "vocab.txt"
    pieces = own.read_text(encoding="utf-8").split("\n")
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8", newline="\r\n")
    assert prepare(suite, settings).runs
    pieces[100], pieces[101] = pieces[101], pieces[100]
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    with pytest.raises(
        DataError, match=r"theirs/weights\.safetensors: its vocabulary \S+/theirs/vocab\.txt is another than the data's"
    ) as caught:
        prepare(suite, settings)
    assert str(own) in str(caught.value)
    assert not settings.out.exists()


def test_an_encoder_that_does_not_fit_starts_nothing(tmp_path, data, suite):
    settings = _settings(tmp_path, data, checkpoint=tmp_path / "encoder.safetensors")
    sizes = {"width": 312, "layers": 4, "heads": 12, "inner": 1200}
    _encoder(settings.checkpoint, Bert(2, **sizes, vocabulary=28_996))
    with pytest.raises(
        CheckpointError, match=r"encoder\.safetensors: it has a vocabulary of 28,996 word pieces, .*30,522"
    ):
        prepare(suite, settings)
    _encoder(settings.checkpoint, Bert(2, **sizes | {"layers": 2}))
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors: it is no encoder of this size"):
        prepare(suite, settings)
    assert not settings.out.exists()


def test_one_encoder_serves_several_tasks_of_one_architecture(tmp_path, data):
    write_original(data, "wnli", train=32, test=6)
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE.replace("algorithms", "  - {task: glue_wnli, architectures: [bert_tiny4]}\nalgorithms"))
    model = bert_tiny4.build((3, 128), 2)
    settings = _settings(tmp_path, data, checkpoint=_encoder(tmp_path / "encoder.safetensors", model))
    runs = prepare(load_suite(str(path)), settings).runs
    assert {(run.task, run.method) for run in runs if run.algorithm == "fp32"} == {
        ("glue_rte", "full_precision"),
        ("glue_wnli", "full_precision"),
    }
    save_weights(settings.checkpoint, model)
    with pytest.raises(PlanError, match="--checkpoint holds one network"):
        prepare(load_suite(str(path)), settings)
