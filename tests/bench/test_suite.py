"""Suites: what is shipped loads, and what is wrong is said with its line."""
# ruff: noqa: E501

import pytest

from bibench import registry
from bibench.bench.plan import make_plan
from bibench.bench.suite import SuiteError, load_suite, shipped_suites
from bibench.models.image import digits_cnn
from bibench.recipes import SGD, Cosine, Step
from bibench.tasks.digits import digits
from bibench.tracks.base import Measuring
from small_runs import suite_file

PAPER = ("bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda")


def loaded(tmp_path, text):
    path = tmp_path / "suite.yaml"
    path.write_text(text, encoding="utf-8")
    return load_suite(str(path))


def refused(tmp_path, text):
    with pytest.raises(SuiteError) as caught:
        loaded(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "suite.yaml"))
    assert "\n" not in message
    return message.removeprefix(str(tmp_path / "suite.yaml"))


GLUE = ("mnli_m", "mnli_mm", "qqp", "qnli", "sst2", "cola", "stsb", "mrpc", "rte")


@pytest.mark.parametrize(
    ("name", "networks", "runs"),
    [
        ("quick", [("digits", name) for name in ("digits_cnn", "digits_mlp", "digits_transformer")], 135),
        (
            "paper",
            [
                *(("cifar10", name) for name in ("resnet20", "resnet18", "resnet34", "vgg_small")),
                ("imagenet", "resnet18"),
                ("voc07", "faster_rcnn"),
                ("voc07", "ssd300"),
                ("coco17", "faster_rcnn"),
                ("modelnet40", "pointnet_vanilla"),
                ("modelnet40", "pointnet"),
                ("shapenet", "pointnet"),
                *((f"glue_{task}", f"bert_{size}") for task in GLUE for size in ("tiny4", "tiny6", "base")),
                ("speech_commands", "fsmn"),
                ("speech_commands", "d_fsmn"),
            ],
            711,
        ),
        ("cifar10", [("cifar10", name) for name in ("resnet20", "resnet18", "resnet34", "vgg_small")], 108),
        ("imagenet", [("imagenet", "resnet18"), ("imagenet", "resnet34")], 18),
        ("fast", [("cifar10", "resnet20")], 30),  # 3 seeds: full precision with all of the budget and half, 8 binarized
    ],
)
def test_shipped_suites(name, networks, runs):
    suite = load_suite(name)
    assert suite.name == name
    assert tuple(entry.name for entry in suite.algorithms) == PAPER
    plan = make_plan(suite)
    assert list(dict.fromkeys((run.task, run.architecture) for run in plan)) == networks
    assert len(plan) == runs
    assert name in shipped_suites()


def test_the_suite_of_devices_needs_no_data():
    suite = load_suite("devices")
    assert suite.measure.threads == (1, 2, 4, 8, 16)
    plan = make_plan(suite)
    networks = [("noise224", "resnet18"), ("noise224", "resnet34"), ("noise32", "vgg_small")]
    assert list(dict.fromkeys((run.task, run.architecture) for run in plan)) == networks
    assert [run.algorithm for run in plan if run.architecture == "resnet18"] == ["fp32", "bnn", "reactnet"]
    assert all(run.parent is None and run.known_recipe.steps == 1 for run in plan)
    other = make_plan(suite, only={"algorithm": ["xnor"]})
    assert {run.algorithm for run in other} == {"fp32", "xnor"}


@pytest.mark.parametrize(
    ("name", "networks", "runs"),
    [
        # 5 points of 3 methods; of the full-precision halves all are points but the smallest, and where the budgets are
        # odd: of 11 of 90 epochs, and of 96,981 of 387,925 steps.
        (
            "partial-pretraining",
            [("cifar10", "resnet20e"), ("cifar10", "vgg16"), ("imagenet", "resnet34e"), ("movielens", "ncf")],
            3 * (2 * (15 + 1) + (15 + 2) + (15 + 2)),
        ),
        # full precision at 5 points, and halves at 1/8 and 3/4; 9 algorithms at 5 points in 3 ways
        ("partial-pretraining-algorithms", [("cifar10", "resnet20e")], 3 * (7 + 9 * 15)),
        # full precision with 4 lengths and the whole; 4 x 4 splits, of which the largest is the main run
        ("partial-pretraining-splits", [("cifar10", "resnet20e")], 3 * (5 + 16)),
    ],
)
def test_shipped_suites_of_partial_pretraining(name, networks, runs):
    suite = load_suite(name)
    assert (suite.name, suite.method, suite.share) == (name, "partial_pretraining", 0.5)
    plan = make_plan(suite)
    assert list(dict.fromkeys((run.task, run.architecture) for run in plan)) == networks
    assert len(plan) == runs
    assert all(run.point is not None for run in plan if run.operator)
    assert all(run.recipe.optimizer == plan[0].recipe.optimizer for run in plan if run.task == plan[0].task)


def test_everything_in_its_place(tmp_path):
    suite = loaded(
        tmp_path,
        """
name: mine
version: 2
description: a test
tasks:
  - task: digits
    full_precision: {epochs: 3, optimizer: {name: sgd, lr: 0.5}}
algorithms: [bnn, {name: recu, options: {quantile: empirical}, label: recu-q}]
on_request: [fda]
seeds: [4, 2]
method: from_scratch
tracks: [learning_task]
shortcuts: true
padding_value: -1
layer_statistics: true
""",
    )
    assert [entry.title for entry in (*suite.algorithms, *suite.on_request)] == ["bnn", "recu-q", "fda"]
    plan = make_plan(suite)
    assert {run.recipe.optimizer for run in plan if run.algorithm == "fp32"} == {SGD(lr=0.5)}
    recu = next(run for run in plan if run.algorithm == "recu-q")
    assert (recu.operator, recu.options, recu.padding_value, recu.shortcuts, recu.seed) == (
        "recu",
        {"quantile": "empirical"},
        -1,
        True,
        4,
    )


TASK = "tasks:\n  - task: digits\n"

WRONG = [
    ("name: x\n" + TASK + "algorithms: [bnn]\nseed: 3\n", ", line 5: unknown key 'seed'; did you mean 'seeds'?"),
    ("name: x\n" + TASK + "algorithms:\n - {name: bnn, lable: a}\n", "line 5: unknown key 'algorithms.0.lable'; did you mean 'label'?"),
    ("name: x\ntasks:\n  - task: digits\n    architecture: [a]\nalgorithms: [bnn]\n", "line 4: unknown key 'tasks.0.architecture'; did you mean 'architectures'?"),
    ("name: x\n" + TASK + "algorithms: [bnn]\nseeds: many\n", "line 5: 'seeds' is 'many': expected a list"),
    ("name: x\n" + TASK + "algorithms: [bnn]\nseeds: 0\n", "line 5: 'seeds' is 0: Value error, expected 1 to 1000 seeds"),
    ("name: x\n" + TASK + "algorithms: [bnn]\nseeds:\n  - 1\n  - -2\n", "line 7: 'seeds.1' is -2"),
    ("name: x\n" + TASK + "algorithms: [bnn]\nseeds: [1, 1]\n", "line 5: 'seeds' is"),
    ("name: x\n" + TASK + "algorithms: [bnn]\npadding_value: 2\n", "line 5: 'padding_value' is 2"),
    ("name: x\n" + TASK + "algorithms: [bnn]\nmethod: tuned\n", "line 5: 'method' is 'tuned'"),
    ("name: x\n" + TASK + "algorithms: bnn\n", "line 4: 'algorithms' is 'bnn'"),
    ("name: ../x\n" + TASK + "algorithms: [bnn]\n", "line 1: 'name' is '../x'"),
    ("name: x\nalgorithms: [bnn]\n", "line 1: 'tasks' is missing"),
    ("name: x\ntasks: []\nalgorithms: [bnn]\n", "line 2: 'tasks' is []"),
    ("name: x\n" + TASK + "algorithms:\n  - bnn\n  - rectu\n", "line 6: unknown algorithm 'rectu'; did you mean 'recu'?"),
    ("name: x\ntasks:\n  - task: digit\nalgorithms: [bnn]\n", "line 3: unknown task 'digit'; did you mean 'digits'?"),
    ("name: x\n" + TASK + "    architectures: [digit_cnn]\nalgorithms: [bnn]\n", "line 4: unknown architecture 'digit_cnn'; did you mean 'digits_cnn'?"),
    ("name: x\n" + TASK + "    on_request:\n      - resnet21\nalgorithms: [bnn]\n", "line 5: unknown architecture 'resnet21'"),
    ("name: x\n" + TASK + "algorithms: [bnn]\ntracks: [learning_tasks]\n", "line 5: unknown track 'learning_tasks'; did you mean 'learning_task'?"),
    ("name: x\n" + TASK + "algorithms:\n  - bnn\n  - {name: recu, options: {quantil: 1}}\n", "line 6: algorithm 'recu' with options {'quantil': 1}"),
    ("name: x\n" + TASK + "algorithms:\n  - {name: recu, options: {quantile: middle}}\n", "line 5: "),
    ("name: x\n" + TASK + "    full_precision:\n      epochs: 2\n      batchsize: 3\nalgorithms: [bnn]\n", "line 6: unknown key 'tasks.0.full_precision.batchsize'; did you mean 'batch_size'?"),
    ("name: x\n" + TASK + "    binarized:\n      epochs: none\nalgorithms: [bnn]\n", "line 5: 'tasks.0.binarized.epochs' is 'none'"),
    ("name: x\n" + TASK + "    binarized:\n      optimizer:\n        name: sgd\n        lr: 0.1\n        momentun: 0.9\nalgorithms: [bnn]\n", "line 8: unknown key 'tasks.0.binarized.optimizer.sgd.momentun'; did you mean 'momentum'?"),
    ("name: x\n" + TASK + "    binarized:\n      optimizer: {name: sdg, lr: 0.1}\nalgorithms: [bnn]\n", "line 5: 'tasks.0.binarized.optimizer' is"),
    ("name: x\n" + TASK + "    binarized:\n      schedule: {name: step}\nalgorithms: [bnn]\n", "line 5: 'tasks.0.binarized.schedule.step.milestones' is missing"),
    ("name: x\n" + TASK + "algorithms: [bnn]\nname: y\n", "line 5: 'name' is already given in line 1"),
    ("name: x\n" + TASK + "    binarized: {epochs: 2,\n      epochs: 3}\nalgorithms: [bnn]\n", "line 5: 'epochs' is already given in line 4"),
    ("name: x\n" + TASK + "algorithms:\n  - bnn\n  - bnn\n", "line 6: two algorithms are called 'bnn'"),
    ("name: x\n" + TASK + "algorithms:\n  - bnn\non_request:\n  - {name: recu, label: bnn}\n", "line 7: two algorithms are called 'bnn'"),
    ("name: x\n" + TASK + "algorithms:\n  - {name: recu, label: fp32}\n", "line 5: two algorithms are called 'fp32'"),
    ("name: x\n" + TASK + "algorithms: [fp32]\n", "line 4: 'fp32' is full precision"),
    ("name: x\n" + TASK + "  - task: digits\n    binarized: {epochs: 2}\nalgorithms: [bnn]\n", "line 4: task 'digits' with architecture 'digits_cnn' is already given"),
    ("name: x\n" + TASK + "    architectures: [digits_cnn]\n    on_request: [digits_cnn]\nalgorithms: [bnn]\n", "line 3: task 'digits' with architecture 'digits_cnn' is already given"),
    ("name: x\ntasks: [\nalgorithms: [bnn]\n", "line "),
    ("- a\n- b\n", ": expected a mapping with the keys name, tasks and algorithms"),
    ("", ": expected a mapping"),
    ("1: 2\nname: x\n" + TASK + "algorithms: [bnn]\n", "'1'"),
    ("name: x\nname2: &a [*a]\n" + TASK + "algorithms: [bnn]\n", "line 2: unknown key 'name2'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=[expected[:60] for _, expected in WRONG])
def test_what_is_wrong_is_said_with_its_line(tmp_path, text, expected):
    assert expected in refused(tmp_path, text)


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!python/object/new:os.system", "!!python/name:os.system"]
)
def test_yaml_tags_that_would_run_code_are_refused(tmp_path, tag):
    trap = tmp_path / "ran"
    text = f"name: x\n{TASK}algorithms: [bnn]\ndescription: {tag} ['touch {trap}']\n"
    assert "line 5: not valid YAML: could not determine a constructor" in refused(tmp_path, text)
    assert not trap.exists()


def test_an_architecture_of_another_modality_is_refused(tmp_path, monkeypatch):
    object.__setattr__(digits_cnn, "modality", "text")
    try:
        text = "name: x\n" + TASK + "    architectures: [digits_cnn]\nalgorithms: [bnn]\n"
        message = refused(tmp_path, text)
    finally:
        object.__setattr__(digits_cnn, "modality", "image")
    assert message == ", line 4: architecture 'digits_cnn' takes text inputs, task 'digits' has image inputs"


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "suite.yaml").write_bytes(b"name: \xff\xfe\x00")
    with pytest.raises(SuiteError, match=r"suite\.yaml: can't be read as a suite"):
        load_suite(str(tmp_path / "suite.yaml"))
    with pytest.raises(SuiteError, match=r"none\.yaml: can't be read as a suite"):
        load_suite(str(tmp_path / "none.yaml"))
    (tmp_path / "suite.yaml").write_bytes(b"name: \x01")
    assert "not valid YAML" in refused(tmp_path, "name: \x01")


def test_unknown_suite_has_the_nearest():
    with pytest.raises(
        SuiteError, match=r"unknown suite 'quik'; did you mean 'quick'\? \(shipped: cifar10, devices, fast, imagenet"
    ):
        load_suite("quik")


def test_a_path_with_another_suffix_is_a_path(tmp_path):
    path = suite_file(tmp_path)
    assert load_suite(str(path.rename(tmp_path / "suite.txt"))).name == "small"


SMALL = "name: mine\ntasks: [{task: digits}]\nalgorithms: [bnn]\n"


def test_an_optimizer_without_a_name_is_the_default_one_with_other_fields(tmp_path):
    suite = loaded(tmp_path, SMALL.replace("{task: digits}", "{task: digits, binarized: {optimizer: {lr: 0.5}}}"))
    full, binary = (run.recipe.optimizer for run in make_plan(suite))
    assert (binary.name, binary.lr) == ("adam", 0.5)
    assert full.name == "sgd"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL + "seeds: 1000000000\n", ", line 4: 'seeds' is 1000000000: Value error, expected 1 to 1000 seeds"),
        (SMALL.replace("[bnn]", "bnn"), ", line 3: 'algorithms' is 'bnn': expected a list, such as [a, b]"),
        (SMALL.replace("bnn", f"{{name: bnn, label: {'x' * 65}}}"), ", line 3: 'algorithms.0.label' is "),
        (SMALL.replace("bnn", "{name: bnn, label: FP32}"), ", line 3: two algorithms are called 'FP32'"),
        (SMALL.replace("bnn", "fp32"), ", line 3: 'fp32' is full precision"),
    ],
)
def test_values_that_make_no_sense(tmp_path, text, message):
    assert refused(tmp_path, text).startswith(message)


def test_a_suite_has_all_six_tracks_and_no_grid_by_default(tmp_path):
    suite = loaded(tmp_path, "name: x\ntasks: [{task: digits}]\nalgorithms: [bnn]\n")
    assert list(suite.tracks) == registry.names("tracks")[:6]
    assert suite.sensitivity is None
    assert suite.measure == Measuring()


def test_the_grid_of_the_paper_is_the_default(tmp_path):
    text = (
        "name: x\ntasks: [{task: digits}]\nalgorithms: [bnn]\nsensitivity: {task: digits, architecture: digits_cnn}\n"
    )
    grid = loaded(tmp_path, text).sensitivity
    recipes = grid.settings(digits.full_precision)
    assert {name: recipe.optimizer.lr for name, recipe in recipes.items()} == {
        "sgd-1x-cosine": 0.1,
        "sgd-1x-step": 0.1,
        "sgd-0.1x-cosine": 0.01,
        "sgd-0.1x-step": 0.01,
        "adam-1x-cosine": 1e-3,
        "adam-1x-step": 1e-3,
        "adam-0.1x-cosine": 1e-4,
        "adam-0.1x-step": 1e-4,
    }
    assert {recipe.optimizer.weight_decay for recipe in recipes.values()} == {1e-4}
    assert [recipe.schedule for recipe in recipes.values()] == [Cosine(), Step(milestones=(0.5, 0.75))] * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "sensitivity: {task: digits, architecture: resnet20}",
            ", line 4: 'sensitivity' is on task 'digits' with architecture 'resnet20', which the suite's tasks "
            "don't have; add it there, or choose one of digits with digits_cnn",
        ),
        (
            "sensitivity: {task: digit, architecture: digits_cnn}",
            ", line 4: unknown task 'digit'; did you mean 'digits'? (known: digits, cifar10, imagenet",
        ),
        (
            "sensitivity: {task: digits, architecture: digits_cnn, rate: [1]}",
            ", line 4: unknown key 'sensitivity.rate'; did you mean 'rates'?",
        ),
        (
            "sensitivity: {task: digits, architecture: digits_cnn, rates: [1, 1.0]}",
            ", line 4: two settings of the sensitivity grid have the same name; give each optimizer, rate and kind of "
            "schedule once",
        ),
        (
            "sensitivity: {task: digits, architecture: digits_cnn, rates: [0]}",
            ", line 4: 'sensitivity.rates.0' is 0: Input should be greater than 0",
        ),
        (
            "measure: {severities: [6]}",
            ", line 4: 'measure.severities.0' is 6: Input should be less than or equal to 5",
        ),
        (
            "measure:\n  corruptions: [fogg]",
            ", line 5: unknown corruption 'fogg'; did you mean 'fog'?",
        ),
        ("awaiting: [{track: a, task: b}]", ", line 4: 'awaiting.0.architectures' is missing"),
    ],
)
def test_what_is_wrong_with_a_grid_is_said_with_its_line(tmp_path, text, expected):
    assert refused(tmp_path, f"name: x\ntasks: [{{task: digits}}]\nalgorithms: [bnn]\n{text}\n").startswith(expected)


PARTLY = "name: x\ntasks:\n  - {task: digits}\nalgorithms: [bnn]\n"
ON_DIGITS = "task: digits, architecture: digits_cnn"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "method: partial",
            ", line 5: 'method' is 'partial': Input should be 'fine_tune', 'from_scratch' or 'partial_",
        ),
        ("share: 1.0", ", line 5: 'share' is 1.0: Input should be less than 1"),
        ("share: -0.1", ", line 5: 'share' is -0.1: Input should be greater than or equal to 0"),
        ("share: .nan", ", line 5: 'share' is nan"),
        ("shares: 0.5", ", line 5: unknown key 'shares'; did you mean 'share'?"),
        ("optimizer_state: kept", ", line 5: 'optimizer_state' is 'kept': Input should be 'reset' or 'keep'"),
        ("curves: 3", ", line 5: 'curves' is 3: expected a mapping"),
        ("curves:\n  budgets: [1, 0]", ", line 6: 'curves.budgets.1' is 0: Input should be greater than 0"),
        ("curves:\n  budgets: [-0.5]", ", line 6: 'curves.budgets.0' is -0.5: Input should be greater than 0"),
        ("curves:\n  budgets: [.inf]", ", line 6: 'curves.budgets.0' is inf: Input should be a finite number"),
        ("curves:\n  budgets: []", ", line 6: 'curves.budgets' is []: Tuple should have at least 1 item"),
        ("curves:\n  shares: [0.5, 1.0]", ", line 6: 'curves.shares.1' is 1.0: Input should be less than 1"),
        ("curves:\n  share: [0.5]", ", line 6: unknown key 'curves.share'; did you mean 'shares'?"),
        ("curves:\n  budget: [1]", ", line 6: unknown key 'curves.budget'; did you mean 'budgets'?"),
        (
            "curves:\n  methods: [scratch]",
            ", line 6: 'curves.methods.0' is 'scratch': Input should be 'full_precision', 'fine_tune', 'from_scratch' or",
        ),
        (f"splits: {{{ON_DIGITS}, full_precision: [1], binarized: [0]}}", ", line 5: 'splits.binarized.0' is 0: "),
        (f"splits: {{{ON_DIGITS}, binarized: [1]}}", ", line 5: 'splits.full_precision' is missing"),
        (
            f"splits: {{{ON_DIGITS}, full_precision: [1], binarized: [1], shares: [1]}}",
            ", line 5: unknown key 'splits.shares'",
        ),
        (
            f"splits:\n  {{{ON_DIGITS.replace('cnn', 'mlp')}, full_precision: [1], binarized: [1]}}",
            ", line 5: 'splits' is on task 'digits' with architecture 'digits_mlp', which the suite's tasks don't have; "
            "add it there, or choose one of digits with digits_cnn",
        ),
        (
            f"splits:\n  {{{ON_DIGITS.replace('cnn', 'cn')}, full_precision: [1], binarized: [1]}}",
            ", line 6: unknown architecture 'digits_cn'; did you mean 'digits_cnn'?",
        ),
    ],
)
def test_what_is_wrong_with_partial_pretraining_is_said_with_its_line(tmp_path, text, expected):
    assert refused(tmp_path, f"{PARTLY}{text}\n").startswith(expected)


SHORT = "a budget of 12 is too short for a share of 0.01 in full precision"
SIZES = (
    "partial pre-training splits one budget, so both recipes of task 'digits' need the same batch_size; full_precision "
    "has 64, binarized 8"
)
KEPT = "optimizer_state is 'keep', but task 'digits' has sgd in full precision and adam binarized; give both the same"
SGD_TOO = ("{task: digits}", "{task: digits, binarized: {optimizer: {name: sgd, lr: 0.1}}}")
SIZE = ("{task: digits}", "{task: digits, binarized: {batch_size: 8}}")
PARTIAL = "method: partial_pretraining\n"


@pytest.mark.parametrize(
    ("entry", "text", "expected"),
    [
        (None, f"{PARTIAL}share: 0.01", f", line 6: {SHORT}"),
        (SIZE, PARTIAL, f", line 3: {SIZES}"),
        (SIZE, "curves: {methods: [partial_pretraining]}", f", line 3: {SIZES}"),
        (SIZE, f"splits: {{{ON_DIGITS}, full_precision: [1], binarized: [1]}}", f", line 3: {SIZES}"),
        (SIZE, f"sensitivity: {{{ON_DIGITS}, method: partial_pretraining}}", f", line 3: {SIZES}"),
        (None, f"{PARTIAL}optimizer_state: keep", f", line 3: {KEPT}"),
        # Each setting of the grid has an optimizer of its own, and the first part the recipe's.
        (SGD_TOO, f"{PARTIAL}optimizer_state: keep\nsensitivity: {{{ON_DIGITS}}}", f", line 7: {KEPT}"),
    ],
)
def test_recipes_that_cannot_share_a_budget_or_a_state(tmp_path, entry, text, expected):
    whole = (PARTLY.replace(*entry) if entry else PARTLY) + text + "\n"
    assert refused(tmp_path, whole).startswith(expected)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (SIZE, "method: from_scratch\ncurves: {methods: [full_precision, from_scratch]}"),
        (SIZE, f"sensitivity: {{{ON_DIGITS}}}"),
        (SGD_TOO, f"{PARTIAL}optimizer_state: keep"),
        (SGD_TOO, f"{PARTIAL}optimizer_state: keep\nsensitivity: {{{ON_DIGITS}, method: fine_tune}}"),
        (SGD_TOO, f"{PARTIAL}sensitivity: {{{ON_DIGITS}}}"),
    ],
)
def test_what_asks_for_no_shared_budget_or_state_is_accepted(tmp_path, entry, text):
    assert make_plan(loaded(tmp_path, PARTLY.replace(*entry) + text + "\n"))


def test_a_budget_is_replaced_by_one_in_the_other_unit(tmp_path):
    text = SMALL.replace("{task: digits}", "{task: digits, binarized: {steps: 50}, full_precision: {epochs: 3}}")
    assert [(run.recipe.epochs, run.recipe.steps) for run in make_plan(loaded(tmp_path, text))] == [
        (3, None),
        (None, 50),
    ]
    for content, found in (
        ("epochs: 3, steps: 4", "epochs=3 and steps=4"),
        ("steps: null", "epochs=None and steps=None"),
    ):
        text = SMALL.replace("{task: digits}", f"{{task: digits, binarized: {{{content}}}}}")
        message = refused(tmp_path, text)
        assert message == f", line 2: 'tasks.0.binarized': expected either epochs or steps, found {found}"


def test_the_paper_suite_has_every_task_of_table_7():
    planned = {run.task for run in make_plan(load_suite("paper"))}
    vision = {"cifar10", "imagenet", "voc07", "coco17", "modelnet40", "shapenet"}
    assert vision | {"glue_cola", "speech_commands"} <= planned
