"""The plan: which runs, in which order, and that every selection brings along what it needs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bibench import registry
from bibench.bench.plan import PlanError, make_plan, parse_only, with_parents, with_partners
from bibench.bench.suite import Sensitivity, load_suite, parse_suite
from bibench.recipes import SGD, Adam, Step
from bibench.tasks.digits import digits

SUITE = parse_suite(
    """
name: mixed
tasks:
  - {task: digits, architectures: [digits_cnn]}
  - {task: cifar10, architectures: [resnet20, vgg_small], on_request: [resnet18]}
algorithms: [bnn, {name: recu, label: recu-q, options: {quantile: empirical}}, fda]
on_request: [pact]
seeds: [0, 5]
""",
    "test",
)
NAMES = {
    "task": ("digits", "cifar10"),
    "architecture": ("digits_cnn", "resnet20", "vgg_small", "resnet18"),
    "algorithm": ("fp32", "bnn", "recu-q", "fda", "pact"),
    "seed": ("0", "5"),
}


def plan(*items, **settings):
    return make_plan(settings.pop("suite", SUITE), only=parse_only(items), **settings)


def labels(runs):
    return [(run.seed, run.architecture, run.algorithm) for run in runs]


def test_every_algorithm_on_every_network_for_every_seed_parents_first():
    runs = plan()
    expected = [
        (seed, architecture, algorithm)
        for seed in (0, 5)
        for architecture in ("digits_cnn", "resnet20", "vgg_small")
        for algorithm in ("fp32", "bnn", "recu-q", "fda")
    ]
    assert labels(runs) == expected
    seen = set()
    for run in runs:
        if run.algorithm == "fp32":
            assert (run.method, run.parent, run.operator) == ("full_precision", None, None)
        else:
            assert run.method == "fine_tune"
            assert run.parent in seen
        seen.add(run.id)
    assert len(seen) == len(runs)
    chosen = [run for run in runs if run.algorithm == "fda" and run.seed == 5]
    assert with_parents(chosen, runs) == with_partners(chosen, runs)
    assert labels(with_parents(chosen, runs)) == [
        (5, architecture, algorithm)
        for architecture in ("digits_cnn", "resnet20", "vgg_small")
        for algorithm in ("fp32", "fda")
    ]


def test_a_parent_is_of_the_same_task_architecture_and_seed():
    runs = {run.id: run for run in plan()}
    for run in runs.values():
        if run.parent:
            parent = runs[run.parent]
            assert (parent.task, parent.architecture, parent.seed, parent.algorithm) == (
                run.task,
                run.architecture,
                run.seed,
                "fp32",
            )


def test_from_scratch_needs_no_parent():
    runs = plan(suite=SUITE.model_copy(update={"method": "from_scratch"}))
    assert {run.parent for run in runs} == {None}
    assert {run.method for run in runs} == {"full_precision", "from_scratch"}


def test_values_of_one_key_widen_and_keys_narrow():
    runs = plan("algorithm=bnn", "algorithm=fda", "architecture=resnet20", "seed=5")
    assert labels(runs) == [(5, "resnet20", name) for name in ("fp32", "bnn", "fda")]
    assert labels(plan("algorithm=fp32", "task=digits")) == [(0, "digits_cnn", "fp32"), (5, "digits_cnn", "fp32")]


def test_on_request_only():
    assert "pact" not in {run.algorithm for run in plan()}
    assert {run.algorithm for run in plan("algorithm=pact")} == {"fp32", "pact"}
    assert {run.architecture for run in plan("architecture=resnet18")} == {"resnet18"}
    assert {run.architecture for run in plan("task=cifar10")} == {"resnet20", "vgg_small"}


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["algorithm=rec-q"], r"--only algorithm=rec-q: not in suite 'mixed'; did you mean 'recu-q'\?"),
        (["seed=3"], r"--only seed=3: not in suite 'mixed'.*\(it has: 0, 5\)"),
        (["architecture=resnet81"], r"did you mean 'resnet18'\?"),
        (["task=imagenet"], r"it has: digits, cifar10"),
        (["task=digits", "architecture=resnet20"], "no run of suite 'mixed' has all of these"),
        (["arch=resnet20"], r"unknown key 'arch'; did you mean 'architecture'\?"),
        (["resnet20"], "expected KEY=VALUE"),
        (["task="], "expected KEY=VALUE"),
    ],
)
def test_selections_of_nothing(items, message):
    with pytest.raises(PlanError, match=message):
        plan(*items)


def test_epochs_replace_every_recipes_own_and_make_another_run():
    short = plan(epochs=1)
    assert {run.recipe.epochs for run in short} == {1}
    assert not {run.id for run in short} & {run.id for run in plan()}


def test_a_users_checkpoint_takes_the_place_of_full_precision_training():
    runs = plan("architecture=resnet20", checkpoint="f" * 64)
    assert {(run.method, run.checkpoint) for run in runs if run.algorithm == "fp32"} == {("checkpoint", "f" * 64)}
    assert {run.parent for run in runs if run.algorithm != "fp32"} == {r.id for r in runs if r.algorithm == "fp32"}


def test_identities_do_not_depend_on_the_rest_of_the_suite():
    alone = SUITE.model_copy(update={"algorithms": SUITE.algorithms[:1], "seeds": (5,)})
    assert {run.id for run in make_plan(alone)} < {run.id for run in plan()}


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional={key: st.lists(st.sampled_from(v), min_size=1) for key, v in NAMES.items()}))
def test_any_selection_is_closed_under_parents_and_partners(only):
    try:
        runs = make_plan(SUITE, only=only)
    except PlanError as error:
        if "has all of these" not in str(error):
            raise
        return
    ids = [run.id for run in runs]
    assert len(set(ids)) == len(ids)
    full = {(run.task, run.architecture, run.seed) for run in runs if run.algorithm == "fp32"}
    for place, run in enumerate(runs):
        assert run.parent is None or run.parent in ids[:place]
        assert (run.task, run.architecture, run.seed) in full
        # Nothing but what was asked for and the full precision that it is compared with.
        chosen = all(str(getattr(run, key)) in values for key, values in only.items())
        assert chosen or run.algorithm == "fp32"


def test_batches_that_devices_cannot_share_evenly_are_refused_before_anything_runs():
    with pytest.raises(PlanError, match=r"--devices 3: the batches of task 'digits' have 64 samples"):
        make_plan(load_suite("quick"), devices=3)
    assert {run.devices for run in make_plan(load_suite("quick"), devices=2)} == {2}


GRID = SUITE.model_copy(update={"sensitivity": Sensitivity(task="digits", architecture="digits_cnn", seeds=(0, 7))})
SETTINGS = [
    f"{optimizer}-{rate}x-{schedule}"
    for optimizer in ("sgd", "adam")
    for rate in ("1", "0.1")
    for schedule in ("cosine", "step")
]


def test_a_grid_adds_every_setting_for_every_algorithm_and_its_own_seeds():
    runs = plan(suite=GRID)
    grid = [run for run in runs if run.setting is not None]
    assert {(run.algorithm, run.seed, run.setting) for run in grid} == {
        (name, seed, setting) for seed in (0, 7) for name in ("fp32", "bnn", "recu-q", "fda") for setting in SETTINGS
    }
    assert len({run.id for run in runs}) == len(runs)
    assert {(run.task, run.architecture) for run in grid} == {("digits", "digits_cnn")}
    recipes = {(run.algorithm, run.setting): run.recipe for run in grid}
    low = recipes["bnn", "sgd-0.1x-step"]
    assert (low.optimizer, low.schedule) == (SGD(lr=0.01, momentum=0.9), Step(milestones=(0.5, 0.75)))
    assert recipes["fp32", "adam-1x-cosine"].optimizer == Adam(lr=1e-3, weight_decay=1e-4)
    assert {recipe.epochs for recipe in recipes.values()} == {12}


def test_the_setting_that_is_the_main_recipe_is_trained_once():
    runs = plan(suite=GRID)
    both = [(run.algorithm, run.seed, run.setting) for run in runs if run.main and run.setting is not None]
    assert both == [
        ("fp32", 0, "sgd-1x-cosine"),
        ("bnn", 0, "adam-1x-cosine"),
        ("recu-q", 0, "adam-1x-cosine"),
        ("fda", 0, "adam-1x-cosine"),
    ]
    assert [run for run in runs if run.main] == [
        run.model_copy(update={"setting": found.setting})
        for run, found in zip(plan(), [run for run in runs if run.main], strict=True)
    ]


def test_runs_of_a_grid_start_from_the_full_precision_run_of_their_seed():
    runs = {run.id: run for run in plan(suite=GRID)}
    places = {run_id: place for place, run_id in enumerate(runs)}
    for run in runs.values():
        if run.parent is not None:
            parent = runs[run.parent]
            assert (parent.algorithm, parent.seed) == ("fp32", run.seed)
            assert parent.recipe == registry.get("tasks", run.task).full_precision
            assert places[parent.id] < places[run.id]
    scratch = GRID.model_copy(update={"sensitivity": GRID.sensitivity.model_copy(update={"method": "from_scratch"})})
    own = [run for run in plan(suite=scratch) if run.setting is not None and not run.main and run.operator]
    assert {(run.method, run.parent) for run in own} == {("from_scratch", None)}
    reduced = GRID.sensitivity.model_copy(update={"optimizers": (Adam(lr=1e-3),)})
    alone = plan(suite=GRID.model_copy(update={"sensitivity": reduced}))
    parents = [run for run in alone if not run.main and run.setting is None]
    assert [(run.algorithm, run.seed, run.method) for run in parents] == [("fp32", 7, "full_precision")]


def test_a_setting_can_be_selected_and_brings_full_precision_along():
    runs = plan("setting=sgd-0.1x-step", "algorithm=bnn", suite=GRID)
    assert [(run.seed, run.algorithm, run.setting) for run in runs] == [
        (0, "fp32", "sgd-1x-cosine"),
        (0, "fp32", "sgd-0.1x-step"),
        (0, "bnn", "sgd-0.1x-step"),
        (7, "fp32", "sgd-1x-cosine"),
        (7, "fp32", "sgd-0.1x-step"),
        (7, "bnn", "sgd-0.1x-step"),
    ]
    with pytest.raises(PlanError, match=r"not in suite 'mixed'; did you mean 'sgd-0\.1x-step'"):
        plan("setting=sgd-0.1x-stepp", suite=GRID)


def test_the_release_has_no_momentum_with_a_step_schedule():
    grid = GRID.sensitivity.model_copy(update={"release_momentum": True})
    recipes = grid.settings(digits.binarized)
    assert {name: recipe.optimizer.momentum for name, recipe in recipes.items() if name.startswith("sgd")} == {
        "sgd-1x-cosine": 0.9,
        "sgd-1x-step": 0.0,
        "sgd-0.1x-cosine": 0.9,
        "sgd-0.1x-step": 0.0,
    }
