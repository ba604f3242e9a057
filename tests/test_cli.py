"""The command line: exit statuses, names that scripts rely on, and messages."""

import contextlib
import dataclasses
import json
import os
import pty
import re
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from bibench import __version__, registry
from bibench.bench.store import Store
from bibench.bench.suite import shipped_suites
from bibench.cli import app
from bibench.tasks.movielens import movielens
from bibench.training import save_weights
from small_runs import bibench, command, suite_file, untimed

TRACKS = [
    "learning_task",
    "neural_architecture",
    "corruption_robustness",
    "training_consumption",
    "theoretical_complexity",
    "hardware_inference",
]
PAPER = ["fp32", "bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda", "pact"]


def call(*arguments, status=0):
    """Run a command in this process; what it printed is checked for escape codes and tracebacks."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    assert "\x1b" not in result.output
    assert "Traceback" not in result.output
    return result


def refused(*arguments, status=2):
    """The one message of a command that can't be done."""
    result = call(*arguments, status=status)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    return result.stderr.removeprefix("error: ").rstrip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def suite(folder):
    return suite_file(folder, recipe="{epochs: 1, batch_size: 256}")


@pytest.fixture(scope="module")
def done(folder, suite):
    """A finished store, made by a process of its own whose output is no terminal."""
    result = bibench("run", suite, "--out", folder / "done", "--jobs", 1)
    assert result.returncode == 0, result.stderr
    return folder / "done", result


def test_a_run_prints_a_plain_line_each_its_scores_and_the_report(done):
    out, result = done
    lines = result.stdout.splitlines()
    assert lines[0] == f"small: 3 runs to do on cpu, results in {out}"
    for number, (line, name) in enumerate(zip(lines[1:4], ("fp32", "bnn", "recu"), strict=True), 1):
        assert re.match(rf"\[{number}/3\] ok     digits digits_cnn {name} seed 0: [\d.]+ percent  [\d.]+ s", line)
    assert "learning_task" in result.stdout
    assert re.search(rf"^3 runs in [\d.]+ s; report: {out}/report\.html$", lines[-1])
    assert result.stderr == ""
    assert "\x1b" not in result.stdout
    assert "\r" not in result.stdout
    assert (out / "report.html").read_text().count("<svg") + (out / "report.html").read_text().count("data:image") >= 1


def test_again_it_repeats_nothing_and_says_so(done, suite):
    out, _ = done
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()}
    result = call("run", suite, "--out", out, "--jobs", 1)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert result.stdout.splitlines()[-1] == (
        f"nothing to do: 3 runs asked for, 3 finished before; report: {out}/report.html"
    )
    assert "to do on" not in result.stdout


def test_score(done):
    rows = json.loads(call("score", done[0], "--json").stdout)
    keys = {"track", "metric", "algorithm", "value", "low", "high", "status"}
    assert all(keys <= set(row) for row in rows)
    of = {(row["track"], row["metric"], row["algorithm"]): row for row in rows}
    whole = of["learning_task", "om_task", "bnn"]
    assert (whole["status"], whole["low"], whole["high"]) == ("ok", None, None)
    assert 0 < whole["value"] < 150
    part = of["neural_architecture", "om_arch", "bnn"]
    assert (part["status"], part["value"]) == ("incomplete", None)
    assert "learning_task" in call("score", done[0]).stdout


def test_the_score_of_a_part_is_incomplete(folder, suite):
    out = folder / "part"
    call("run", suite, "--out", out, "--only", "algorithm=fp32", "--jobs", 1)
    call("run", suite, "--out", out, "--only", "algorithm=bnn", "--epochs", 2, "--jobs", 1, status=2)
    plan = json.loads((out / "plan.json").read_text())
    assert [run["algorithm"] for run in plan] == ["fp32"]


def test_report(done):
    (done[0] / "report.html").unlink()
    assert call("report", done[0]).stdout == f"{done[0]}/report.html\n"
    assert (done[0] / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("kind", ["algorithms", "architectures", "tasks", "tracks", "suites"])
def test_list(kind):
    names = [row["name"] for row in json.loads(call("list", kind, "--json").stdout)]
    expected = {
        "algorithms": PAPER,
        "architectures": ["resnet18", "resnet20", "resnet20e", "resnet34", "resnet34e", "vgg16", "vgg_small"],
        "tasks": ["digits", "cifar10", "imagenet"],
        "tracks": TRACKS,
        "suites": shipped_suites(),
    }[kind]
    assert names[: len(expected)] == expected
    table = call("list", kind).stdout
    assert all(name in table for name in names)
    assert kind != "algorithms" or "A·1[a > A/2]" in table  # brackets are no markup
    assert not any(line.endswith(" ") for line in table.splitlines())


def test_validate(suite):
    assert call("validate", suite, "--no-estimate").stdout.splitlines() == [
        "small: valid, 3 runs (1 in full precision), 3 epochs together",
        "  networks:   1",
        "    digits/digits_cnn: 3 runs",
        "  algorithms: bnn, recu",
        "  seeds:      0",
        "  shared:     2 runs start from 1 full-precision checkpoint",
    ]
    assert "on request: pact" in call("validate", "quick", "--no-estimate").stdout


def test_validate_estimates_the_cost_from_measured_steps(suite):
    lines = call("validate", suite).stdout.splitlines()
    assert re.fullmatch(r"  cost:       about [\d.]+ s of training on one thread of this machine", lines[-3])
    assert re.fullmatch(r"    digits/digits_cnn: [\d.]+ s", lines[-2])
    ratios = r"\(bnn [\d.]+x, recu [\d.]+x\)"
    assert re.search(rf"binarized ones on digits/digits_cnn {ratios}; an order of magnitude", lines[-1])


def test_the_paper_suite_says_what_it_shares_and_what_awaits_devices():
    text = call("validate", "paper", "--no-estimate").stdout
    assert text.startswith("paper: valid, 711 runs (79 in full precision)")
    assert "sensitivity: 8 settings x 5 seeds on cifar10/resnet18: sgd-1x-cosine, sgd-1x-step" in text
    assert "9 runs of the sensitivity grid count in the other tracks too" in text
    assert "632 runs start from 44 full-precision checkpoints" in text
    lines = text.splitlines()
    start = lines.index("  networks:   40")
    assert lines[start + 1 : start + 5] == [
        "    cifar10/resnet18: 360 runs",
        "    cifar10/resnet20: 9 runs",
        "    cifar10/resnet34: 9 runs",
        "    cifar10/vgg_small: 9 runs",
    ]
    assert "    glue_cola/bert_base: 9 runs" in lines
    assert {"    coco17/faster_rcnn: 9 runs", "    voc07/faster_rcnn: 9 runs", "    voc07/ssd300: 9 runs"} <= {*lines}
    assert "  awaiting:   what hardware_inference measures" in lines
    assert (
        "    hardware_inference: resnet18, resnet34, vgg_small on cifar10, of the runs above "
        "(Tables 14 to 17, 14 devices with Larq and daBNN: run the suite 'devices')"
    ) in lines


def test_published_scores():
    rows = json.loads(call("score", "--published", "--json").stdout)
    keys = ["track", "metric", "algorithm", "printed", "recomputed", "difference", "status"]
    assert all(list(row) == keys for row in rows)
    assert {row["track"] for row in rows} == set(TRACKS)
    cells = {(row["metric"], row["algorithm"]): row for row in rows}
    assert cells["om_task", "recu"]["printed"] == 77.96
    assert cells["om_task", "recu"]["recomputed"] == pytest.approx(77.96, abs=0.01)
    text = call("score", "--published").stdout
    assert "not reproducible" in text
    assert "not deployable" in text
    literal = json.loads(call("score", "--published", "--mode", "literal", "--json").stdout)
    changed = {(row["metric"], row["algorithm"]): row["recomputed"] for row in literal}
    assert changed["voc07", "bnn"] != cells["voc07", "bnn"]["recomputed"]


def test_own_results_are_scored_in_the_papers_reading_too(done):
    rows = json.loads(call("score", done[0], "--mode", "paper", "--json").stdout)
    assert {row["mode"] for row in rows if row["track"] == "corruption_robustness"} == {"paper"}


def test_compare(done):
    rows = json.loads(call("compare", done[0], "--published", "--json").stdout)
    found = {(row.get("metric"), row["algorithm"]) for row in rows if row.get("track") == "theoretical_complexity"}
    assert found == {(metric, name) for metric in ("speedup", "compression", "om_comp") for name in ("bnn", "recu")}
    assert "om_comp" in call("compare", done[0], "--published").stdout


def test_complexity():
    text = call("complexity", "resnet18", "--algorithm", "reactnet").stdout
    assert "layer1.0.conv1" in text
    total = next(line for line in text.splitlines() if line.startswith("total"))
    assert "1,814,073,344" in total.split()  # of one input
    content = json.loads(call("complexity", "resnet18", "--counting", "paper", "--json").stdout)
    assert content["operations"] == 1_814_073_344
    assert content["compression"] == pytest.approx(13.27, abs=0.05)
    assert content["speedup"] == pytest.approx(12.60, abs=0.15)
    other = call("complexity", "torchvision.models:squeezenet1_1", "--input", "3,64,64", "--algorithm", "fp32")
    assert "classifier.1" in other.stdout


def test_complexity_with_the_input_and_outputs_of_a_task(monkeypatch):
    content = json.loads(call("complexity", "ncf", "--task", "movielens", "--json").stdout)
    # (138,493 + 26,744) · 2 · (64 + 128) in the embeddings, without a product; the perceptron and the layer over both
    assert content["operations"] == 256 * 256 + 256 * 128 + 128 * 64 + 128
    assert content["parameters"] == 31_725_504 + 107_328 + 129
    images = json.loads(call("complexity", "resnet20", "--task", "cifar10", "--json").stdout)
    assert images == json.loads(call("complexity", "resnet20", "--input", "3,32,32", "--outputs", 10, "--json").stdout)
    own = call("complexity", "torchvision.models:squeezenet1_1", "--task", "cifar10", "--algorithm", "fp32")
    assert "classifier.1" in own.stdout
    assert refused("complexity", "ncf", "--task", "movielens", "--input", "2") == (
        "--task movielens has an input and outputs of its own; leave out --input and --outputs, or --task"
    )
    assert "did you mean 'movielens'?" in refused("complexity", "ncf", "--task", "movielense")
    assert refused("complexity", "resnet18", "--task", "movielens") == (
        "architecture 'resnet18' takes image inputs, task 'movielens' has ratings inputs; choose another of the two"
    )
    unknown = dataclasses.replace(movielens, outputs=None)
    get = registry.get
    monkeypatch.setattr(registry, "get", lambda kind, name: unknown if name == "movielens" else get(kind, name))
    assert refused("complexity", "ncf", "--task", "movielens") == (
        "--task movielens: the task doesn't say its outputs without its data; give --input and --outputs instead"
    )


def test_a_model_that_cannot_be_built_or_run_is_said_with_what_to_give():
    text = refused("complexity", "ncf")
    assert text.startswith("ncf can't be built for --input 3,224,224 and --outputs 1000 (ncf takes pairs of a user")
    assert text.endswith("; give --task NAME of a task with ratings inputs, or --input and --outputs that fit")
    assert refused("complexity", "resnet18", "--input", "64").startswith("resnet18 can't be built for --input 64 and")
    for algorithm in ("fp32", "bnn"):
        model = ("complexity", "torchvision.models:squeezenet1_1", "--algorithm", algorithm)
        text = refused(*model, "--input", "3,4,4")
        assert text.startswith("torchvision.models:squeezenet1_1 doesn't run on --input 3,4,4 (Given input size")
        assert text.endswith("; give --input the sizes that it takes, or --task NAME of a task that it is for")
        assert refused(*model, "--task", "movielens").startswith(
            "torchvision.models:squeezenet1_1 doesn't run on the input of --task movielens ("
        )
    assert "no running event loop" in refused("complexity", "asyncio:get_running_loop")


def test_missing(folder, suite):
    out = folder / "missing"
    call("run", suite, "--out", out, "--only", "algorithm=bnn", "--missing", "om_task", "--jobs", 1)
    plan = json.loads((out / "plan.json").read_text())
    assert [run["algorithm"] for run in plan] == ["fp32", "bnn"]
    text = call("run", suite, "--out", out, "--only", "algorithm=bnn", "--missing", "om_task", "--jobs", 1).stdout
    assert "nothing to do" in text
    text = call("run", suite, "--out", out, "--only", "algorithm=bnn", "--missing", "om_infer", "--jobs", 1).stdout
    assert "nothing to do" in text


def test_version():
    assert call("--version").stdout == f"{__version__}\n"
    assert bibench("--version").stdout == f"{__version__}\n"


def test_train_trains_one_network_and_the_one_that_it_starts_from(folder):
    out = folder / "train"
    arguments = [
        "train",
        "--task",
        "digits",
        "--arch",
        "digits_cnn",
        "--algorithm",
        "bireal",
        "--epochs",
        1,
        "--out",
        out,
    ]
    assert "2 runs to do" in call(*arguments, "--seed", 4).stdout
    assert [(run.algorithm, run.seed, run.recipe.epochs) for run in Store(out).plan()] == [
        ("fp32", 4, 1),
        ("bireal", 4, 1),
    ]
    assert "nothing to do" in call(*arguments, "--seed", 4).stdout
    message = refused(*arguments, "--seed", 4, "--method", "from_scratch")
    assert "method was" in message


PARTIAL = ("train", "--task", "digits", "--arch", "digits_cnn", "--algorithm", "bnn", "--method", "partial_pretraining")


def test_train_by_partial_pretraining(folder):
    out = folder / "partial"
    shown = call(*PARTIAL, "--steps", 40, "--share", 0.25, "--out", out).stdout
    assert "2 runs to do" in shown
    assert re.search(r"^\[1/2\] ok     digits digits_cnn fp32 seed 0 10 steps: ", shown, re.MULTILINE)
    assert re.search(r"^\[2/2\] ok     digits digits_cnn bnn seed 0: ", shown, re.MULTILINE)
    first, second = Store(out).plan()
    assert [run.method for run in (first, second)] == ["full_precision", "partial_pretraining"]
    assert [run.recipe.steps for run in (first, second)] == [10, 30]
    assert (second.parent, second.share, first.main) == (first.id, 0.25, False)
    assert len(Store(out).records()) == 2
    assert "nothing to do" in call(*PARTIAL, "--steps", 40, "--share", 0.25, "--out", out).stdout
    assert "(share was 0.25, is null)" in refused(*PARTIAL, "--steps", 40, "--out", out)
    assert "seconds was null, is 5.0, steps was 40, is null" in refused(
        *PARTIAL, "--seconds", 5, "--share", 0.25, "--out", out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--share", 1.5), "--share 1.5: expected a number from 0 to below 1, such as 0.5"),
        (("--share", 1), "--share 1: expected a number from 0 to below 1, such as 0.5"),
        (("--share=-0.5",), "--share -0.5: expected a number from 0 to below 1, such as 0.5"),
        (("--share", "nan"), "--share nan: expected a number from 0 to below 1, such as 0.5"),
        (
            ("--method", "nonsense"),
            "--method nonsense: expected fine_tune or from_scratch or partial_pretraining",
        ),
        (("--optimizer-state", "x"), "--optimizer-state x: expected reset or keep"),
        (
            ("--optimizer-state", "keep"),
            "optimizer_state is 'keep', but task 'digits' has sgd in full precision and adam binarized; give both the "
            "same optimizer, or choose 'reset'",
        ),
        (("--steps", 4, "--epochs", 3), "a budget is in epochs, steps or seconds; found epochs and steps"),
        (("--steps", 4, "--seconds", 3), "a budget is in epochs, steps or seconds; found steps and seconds"),
        (
            ("--steps", 1),
            "digits digits_cnn: a budget of 1 is too short for a share of 0.5 in full precision: one of the two parts "
            "would have nothing; give a larger budget, or one in steps",
        ),
        (("--seconds", 0), r"--seconds 0: digits digits_cnn fp32: the budget of 0 s is shorter than one iteration"),
    ],
    ids=lambda value: "".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_partial_pretraining_that_cannot_be_is_one_message(folder, arguments, message):
    assert refused(*PARTIAL, "--out", folder / "no", *arguments).startswith(message)
    assert not (folder / "no").exists()


def test_partial_pretraining_and_weights_of_ones_own_are_refused(done, folder):
    (weights,) = done[0].glob("runs/*fp32*/model.safetensors")
    message = refused(*PARTIAL, "--out", folder / "no", "--checkpoint", weights)
    assert message.startswith("--checkpoint gives the weights of a whole full-precision training")


def test_two_rankings_are_compared(folder):
    """The same three trainings twice, and the second time each under the next one's name: two of three pairs turn."""
    stores = []
    recipe = "{epochs: 1, batch_size: 256}"
    turned = "[{name: fda, label: bnn}, {name: bnn, label: recu}, {name: recu, label: fda}]"
    for name, algorithms in (("one", "[bnn, recu, fda]"), ("other", turned)):
        path = suite_file(folder, name=name, recipe=recipe, algorithms=algorithms, tracks="[learning_task]")
        call("run", path, "--out", folder / name, "--jobs", 1)
        stores.append(folder / name)
    lines = call("compare", *stores).stdout.splitlines()
    assert lines[0].startswith(f"the rankings in {stores[0]} and {stores[1]}: Kendall's tau")
    (row,) = json.loads(call("compare", *stores, "--json").stdout)
    found = row["agreement"]
    assert (row["task"], row["architecture"]) == ("digits", "digits_cnn")
    assert lines[1] == f"  digits digits_cnn: {found['tau']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    assert found["tau"] < 0
    for line, store, order in zip(lines[2:], stores, (found["first"], found["second"]), strict=True):
        assert line == f"    {' > '.join(order)}"
        score = {r.run.algorithm: r.figure("accuracy").value for r in Store(store).records() if r.run.operator}
        assert [score[name] for name in order] == sorted(score.values(), reverse=True)
    (own,) = json.loads(call("compare", stores[0], stores[0], "--json").stdout)
    assert own["agreement"]["tau"] == pytest.approx(1)


def test_seeds_and_only(folder, suite):
    out = folder / "seeds"
    call("run", suite, "--out", out, "--seeds", "3,1", "--only", "algorithm=bnn", "--only", "seed=1", "--jobs", 1)
    assert [(run.algorithm, run.seed) for run in Store(out).plan()] == [("fp32", 1), ("bnn", 1)]
    call("run", suite, "--out", out, "--seeds", "1", "--only", "algorithm=fp32", "--jobs", 1)
    assert [(run.algorithm, run.seed) for run in Store(out).plan()] == [("fp32", 1), ("bnn", 1), ("fp32", 0)]
    assert len(Store(out).records()) == 3


def test_layer_statistics(folder, suite):
    out = folder / "layers"
    call("run", suite, "--out", out, "--only", "algorithm=bnn", "--layer-statistics", "--jobs", 1)
    (path,) = out.glob("runs/*/layers.csv")
    assert path.read_text().splitlines()[0] == "epoch,layer,flip_rate,positive,dead"


def test_starting_from_a_checkpoint_of_ones_own(done, folder, suite):
    (weights,) = done[0].glob("runs/*fp32*/model.safetensors")
    out = folder / "checkpoint"
    call("run", suite, "--out", out, "--checkpoint", weights, "--only", "algorithm=recu", "--jobs", 1)
    records = {record.run.algorithm: record for record in Store(out).records()}
    before = {record.run.algorithm: record for record in Store(done[0]).records()}
    assert records["fp32"].run.method == "checkpoint"
    assert "train" not in records["fp32"].phases
    # The same start, the same seed: the same figures as when the full-precision network was trained here.
    for name in ("fp32", "recu"):
        assert untimed(records[name]) == untimed(before[name])
    assert "checkpoint was" in refused("run", suite, "--out", out)


def test_an_earlier_failure_counts_only_for_who_asked_for_it(folder):
    """recu diverges, bnn doesn't: --only algorithm=bnn has done everything that was asked for."""
    huge = "{epochs: 1, batch_size: 256, optimizer: {name: sgd, lr: 1.0e+30}}"
    tasks = f"\n  - task: digits\n    full_precision: {{epochs: 1, batch_size: 256}}\n    binarized: {huge}"
    suite = suite_file(folder, name="diverging", tasks=tasks)
    out = folder / "diverging"
    result = call("run", suite, "--out", out, "--only", "algorithm=bnn", "--jobs", 1, status=1)
    assert re.search(r"\[2/2\] failed digits digits_cnn bnn seed 0: diverged: the mean training loss", result.stdout)
    assert "2 runs in" in result.stdout
    assert ", 1 not ok; report:" in result.stdout
    again = call("run", suite, "--out", out, "--only", "algorithm=bnn", "--jobs", 1, status=1)
    assert "nothing to do: 2 runs asked for, 2 finished before (1 of them failed)" in again.stdout
    call("run", suite, "--out", out, "--only", "algorithm=fp32", "--jobs", 1, status=0)
    rows = json.loads(call("score", out, "--json", status=1).stdout)
    assert {row["status"] for row in rows if row["algorithm"] == "bnn" and row["metric"] == "om_task"} == {"failed"}


def test_wrong_input_is_one_message_and_status_2(folder, suite, done):
    out = folder / "wrong"
    run = ("run", suite, "--out", out)
    assert refused("run", "quik").startswith("unknown suite 'quik'; did you mean 'quick'?")
    assert "did you mean 'algorithm'?" in refused(*run, "--only", "algoritm=bnn")
    assert "did you mean 'recu'?" in refused(*run, "--only", "algorithm=reku")
    for seeds in ("none", "-1", "0", "1,1", "1,", "1.5", "1000000000"):
        assert refused(*run, f"--seeds={seeds}").startswith(f"--seeds {seeds}: expected")
    assert "--device tpu: expected auto, cpu or cuda" in refused(*run, "--device", "tpu")
    assert "no such file" in refused(*run, "--checkpoint", folder / "none")
    layout = call("run", "cifar10", "--data", folder / "none", "--out", out, status=2).stderr
    assert layout.startswith(f"error: --data {folder / 'none'}: no such folder; expected ")
    assert not out.exists() or not list(out.iterdir())
    (folder / "file").write_text("x")
    assert "is not a folder; choose another --out" in refused("run", suite, "--out", folder / "file")
    (folder / "letters").mkdir()
    (folder / "letters" / "a.txt").write_text("x")
    assert "holds no results of bibench" in refused("run", suite, "--out", folder / "letters")
    assert [path.name for path in (folder / "letters").iterdir()] == ["a.txt"]
    assert "holds results of suite 'small' with other settings" in refused("run", "quick", "--out", done[0])
    assert "did you mean 'suites'?" in refused("list", "suite")
    assert "no results here" in refused("score", folder / "nothing")
    assert "no results here" in refused("report", folder / "nothing")
    train = ("train", "--task", "digits", "--out", out)
    assert "did you mean 'bireal'?" in refused(*train, "--arch", "digits_cnn", "--algorithm", "birael")
    assert "did you mean 'digits_cnn'?" in refused(*train, "--arch", "digits_cn", "--algorithm", "bnn")
    assert "expected fine_tune or from_scratch" in refused(
        *train, "--arch", "digits_cnn", "--algorithm", "bnn", "--method", "tune"
    )
    assert refused("score") == "score takes either the folder of some results or --published"
    assert refused("score", done[0], "--published") == "score takes either the folder of some results or --published"
    assert refused("score", done[0], "--mode", "exact") == "--mode exact: expected literal or paper"
    either = "compare takes either --published or the folder of other results"
    assert refused("compare", done[0]) == either
    assert refused("compare", done[0], done[0], "--published") == either
    assert "no results here" in refused("compare", done[0], folder / "nothing")
    assert "did you mean 'om_task'?" in refused(*run, "--missing", "om_tusk")
    assert "did you mean 'resnet18'?" in refused("complexity", "resnet81")
    assert refused("complexity", "resnet18", "--input", "3,x") == (
        "--input 3,x: expected the sizes of one input, such as 3,224,224"
    )
    assert refused("complexity", "resnet18", "--counting", "all") == "--counting all: expected model or paper"
    assert "can't be called as MODULE:FUNCTION" in refused("complexity", "torchvision.models:resnet81")
    assert "returned dict, expected a torch.nn.Module" in refused("complexity", "builtins:dict")
    bad = folder / "bad.yaml"
    bad.write_text(suite.read_text() + "seed: 3\n")
    assert refused("validate", bad).startswith(f"{bad}, line ")


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "quick", "--jobs", "0"], ["run", "quick", "--job", "1"], ["fly"]]
)
def test_wrong_usage_is_status_2_too(arguments):
    result = call(*arguments, status=2)
    assert result.stdout == ""
    assert "Usage: " in result.stderr


def test_a_truncated_record_is_named(folder, suite):
    out = folder / "truncated"
    call("run", suite, "--out", out, "--only", "algorithm=fp32", "--jobs", 1)
    (path,) = out.glob("runs/*/record.json")
    path.write_text(path.read_text()[:300])
    for arguments in (("run", suite, "--out", out), ("score", out), ("report", out)):
        assert refused(*arguments).startswith(f"{path}: not valid JSON")


def test_an_unfitting_checkpoint_starts_nothing(folder, suite):
    save_weights(folder / "small.safetensors", torch.nn.Linear(2, 2))
    message = refused("run", suite, "--out", folder / "unfit", "--checkpoint", folder / "small.safetensors")
    assert "doesn't fit the model" in message


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_in_a_terminal_there_are_bars_with_the_time_left(folder, suite):
    ours, theirs = pty.openpty()
    out = folder / "terminal"
    process = subprocess.Popen(
        command("run", suite, "--out", out, "--jobs", 1, "--only", "algorithm=bnn", "--epochs", 8),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
    )
    os.close(theirs)
    text = ""
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(ours, 4096):
            text += part.decode(errors="replace")
    os.close(ours)
    assert process.wait(timeout=10) == 0, text
    assert re.search(r"\[2/2\] ok     (\x1b\[\w+m)*digits digits_cnn bnn seed 0: [\d.]+ percent  [\d.]+ s", text)
    assert "digits digits_cnn bnn seed 0" in text
    assert re.search(r"\d of 2 runs, about [\d.]+ s left", text)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") >= 1  # the cursor is hidden, and shown again
    assert "2 runs in" in text


def test_one_more_algorithm_joins_a_finished_store(folder, suite):
    """What is there stays; only the new one's runs are added, and all are scored together."""
    out = folder / "joined"
    call("run", suite, "--out", out, "--jobs", 1, "--only", "algorithm=bnn")
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/record.json")}
    call("run", suite, "--out", out, "--jobs", 1, "--algorithm", "bireal", "--only", "algorithm=bireal")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(out.glob("runs/*/record.json"))) == len(before) + 1
    scores = json.loads(call("score", out, "--json").stdout)
    assert {row["algorithm"] for row in scores} == {"bnn", "bireal"}
    assert "did you mean 'pact'?" in refused("run", suite, "--out", out, "--algorithm", "pakt")


def test_one_name_for_two_settings_is_refused(folder):
    out = folder / "namesakes"
    recipe = "{epochs: 1, batch_size: 256}"
    call("run", suite_file(folder, name="twice", recipe=recipe, algorithms="[bnn, dorefa]"), "--out", out, "--jobs", 1)
    other = suite_file(
        folder, name="twice", recipe=recipe, algorithms="[{name: dorefa, options: {granularity: layer}}]"
    )
    assert "already has 'dorefa' with other settings" in refused("run", other, "--out", out)
