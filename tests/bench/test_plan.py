"""The plan: which runs, in which order, and that every selection brings along what it needs."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bibench import registry
from bibench.bench import plan as planning
from bibench.bench.plan import Budget, PlanError, make_plan, parse_only, with_parents, with_partners
from bibench.bench.suite import Sensitivity, Suite, SuiteError, TaskEntry, load_suite, parse_suite, recipe_for
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


def test_an_optional_task_runs_only_where_it_is_named():
    entries = tuple(entry.model_copy(update={"optional": entry.task == "digits"}) for entry in SUITE.tasks)
    suite = SUITE.model_copy(update={"tasks": entries})
    assert {run.task for run in plan(suite=suite)} == {"cifar10"}
    assert {run.task for run in plan("task=digits", suite=suite)} == {"digits"}
    assert {run.task for run in plan("task=digits", "task=cifar10", suite=suite)} == {"digits", "cifar10"}
    assert plan("task=digits", suite=suite) == plan("task=digits")
    with pytest.raises(PlanError, match="it has: cifar10, digits"):
        plan("task=imagenet", suite=suite)


def test_tasks_are_selected_by_their_group_too():
    suite = load_suite("paper")
    names = {run.task for run in make_plan(suite, only={"task": ["glue"]})}
    parts = ("mnli_m", "mnli_mm", "qqp", "qnli", "sst2", "cola", "stsb", "mrpc", "rte")
    assert names == {f"glue_{name}" for name in parts}
    assert {run.task for run in make_plan(suite, only={"task": ["glue_wnli"]})} == {"glue_wnli"}
    both = make_plan(suite, only={"task": ["speech_commands", "speech_commands_v2_35"], "algorithm": ["bnn"]})
    assert {run.task for run in both} == {"speech_commands", "speech_commands_v2_35"}
    with pytest.raises(PlanError, match="did you mean 'glue'"):
        make_plan(suite, only={"task": ["glu"]})


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


@pytest.mark.parametrize("unit", ["epochs", "steps"])
def test_a_budget_replaces_every_recipes_own_and_makes_another_run(unit):
    short = plan(budget=Budget(**{unit: 1}))
    assert {(run.recipe.budget, run.recipe.unit) for run in short} == {(1, unit)}
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


def test_identities_of_shipped_suites_stay_as_they_are():
    """As version 0.1 had them, before budgets in steps: stored results are found by these."""
    known = {
        "quick": {
            "digits-digits_cnn-fp32-s0-8a0033f59c": (True, None, None),
            "digits-digits_cnn-recu-s0-9b3d7bb8e8": (True, None, "digits-digits_cnn-fp32-s0-8a0033f59c"),
            "digits-digits_transformer-bnn-s0-5ae79c4b4d": (
                True,
                None,
                "digits-digits_transformer-fp32-s0-caa99905de",
            ),
        },
        "paper": {
            "cifar10-resnet18-fp32-s0-5deaca0fe7": (False, "sgd-0.1x-step", None),
            "cifar10-resnet18-bnn-s0-440e69442d": (
                False,
                "sgd-0.1x-step",
                "cifar10-resnet18-fp32-s0-74f130e415",
            ),
        },
    }
    for name, expected in known.items():
        runs = {run.id: (run.main, run.setting, run.parent) for run in make_plan(load_suite(name))}
        assert {run_id: runs.get(run_id) for run_id in expected} == expected


RECIPE = {"optimizer": {"name": "sgd", "lr": 0.1}, "steps": 40}


def partly(text="", **content):
    """A suite of partial pre-training on the digits, 40 steps in all."""
    keys = {
        "name": "partly",
        "tasks": [{"task": "digits", "full_precision": RECIPE, "binarized": RECIPE}],
        "algorithms": ["bnn", "pact"],
        "method": "partial_pretraining",
    }
    return parse_suite(yaml.safe_dump(keys | content) + text, "test")


def shown(runs):
    """What a run is, without its seed: algorithm, method, budgets of its parent and its own, point, whether main."""
    by_id = {run.id: run for run in runs}
    return [
        (
            run.algorithm,
            run.method,
            run.parent and by_id[run.parent].recipe.budget,
            run.recipe.budget,
            run.point,
            run.main,
        )
        for run in runs
    ]


def test_partial_pretraining_is_two_runs_and_the_first_is_shared():
    runs = plan(suite=partly(seeds=2, share=0.25))
    assert shown(runs) == 2 * [
        ("fp32", "full_precision", None, 40, None, True),
        ("fp32", "full_precision", None, 10, None, False),
        ("bnn", "partial_pretraining", 10, 30, None, True),
        ("pact", "partial_pretraining", 10, 30, None, True),
    ]
    assert {run.share for run in runs if run.operator} == {0.25}
    assert {run.share for run in runs if not run.operator} == {None}
    assert {run.optimizer_state for run in runs} == {"reset"}
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4


def test_the_optimizers_state_is_kept_in_both_parts_and_nowhere_else():
    keep = plan(suite=partly(optimizer_state="keep"))
    assert [run.optimizer_state for run in keep] == ["reset", "keep", "keep", "keep"]
    reset = plan(suite=partly())
    assert shown(keep) == shown(reset)
    assert {run.id for run in keep} & {run.id for run in reset} == {reset[0].id}


def test_every_point_of_a_curve_is_a_training_of_its_own_and_parts_are_shared():
    runs = plan(suite=partly(curves={"budgets": [0.25, 0.5, 1.0]}))
    point = {
        (algorithm, method, first, second, f"{method}-{label}", main)
        for algorithm in ("bnn", "pact")
        for method, first, second, label, main in (
            ("from_scratch", None, 10, "10", False),
            ("from_scratch", None, 20, "20", False),
            ("from_scratch", None, 40, "40", False),
            ("partial_pretraining", 5, 5, "5+5", False),
            ("partial_pretraining", 10, 10, "10+10", False),
            ("partial_pretraining", 20, 20, "20+20", True),
        )
    }
    full = {("fp32", "full_precision", None, steps, f"full_precision-{steps}", steps == 40) for steps in (10, 20, 40)}
    assert set(shown(runs)) == point | full | {("fp32", "full_precision", None, 5, None, False)}
    assert len(runs) == 16
    by_point = {(run.algorithm, run.point): run for run in runs}
    for half, whole in ((10, "10+10"), (20, "20+20")):  # a curve of full precision costs nothing there
        assert by_point["bnn", f"partial_pretraining-{whole}"].parent == by_point["fp32", f"full_precision-{half}"].id


def test_points_in_epochs_say_so_and_shares_and_fine_tuning_have_points_too():
    epochs = {"optimizer": {"name": "sgd", "lr": 0.1}, "epochs": 8}
    suite = partly(
        tasks=[{"task": "digits", "full_precision": epochs, "binarized": epochs}],
        algorithms=["bnn"],
        method="fine_tune",
        curves={"budgets": [0.5, 2], "methods": ["partial_pretraining", "fine_tune"], "shares": [0, 0.25, 0.5]},
    )
    assert shown(plan(suite=suite)) == [
        ("fp32", "full_precision", None, 8, None, True),
        ("bnn", "fine_tune", 8, 8, None, True),
        ("bnn", "from_scratch", None, 4, "from_scratch-4ep", False),
        ("fp32", "full_precision", None, 1, None, False),
        ("bnn", "partial_pretraining", 1, 3, "partial_pretraining-1+3ep", False),
        ("fp32", "full_precision", None, 2, None, False),
        ("bnn", "partial_pretraining", 2, 2, "partial_pretraining-2+2ep", False),
        ("bnn", "fine_tune", 8, 4, "fine_tune-8+4ep", False),
        ("bnn", "from_scratch", None, 16, "from_scratch-16ep", False),
        ("fp32", "full_precision", None, 4, None, False),
        ("bnn", "partial_pretraining", 4, 12, "partial_pretraining-4+12ep", False),
        ("bnn", "partial_pretraining", 8, 8, "partial_pretraining-8+8ep", False),
        ("bnn", "fine_tune", 8, 16, "fine_tune-8+16ep", False),
    ]


SPLITS = {
    "task": "digits",
    "architecture": "digits_cnn",
    "full_precision": [0.25, 0.5],
    "binarized": [0.25, 0.5, 0.75],
}


def test_splits_are_every_length_beside_every_other():
    runs = plan(suite=partly(algorithms=["bnn"], method="from_scratch", splits=SPLITS))
    assert set(shown(runs)) == {
        ("fp32", "full_precision", None, 40, None, True),
        ("bnn", "from_scratch", None, 40, None, True),
        *(("fp32", "full_precision", None, first, None, False) for first in (10, 20)),
        *(
            ("bnn", "partial_pretraining", first, second, f"partial_pretraining-{first}+{second}", False)
            for first in (10, 20)
            for second in (10, 20, 30)
        ),
    }
    assert len(runs) == 10
    assert {run.point: run.share for run in runs if run.share is not None} == {
        "partial_pretraining-10+10": 0.5,
        "partial_pretraining-10+20": 0.3333,
        "partial_pretraining-10+30": 0.25,
        "partial_pretraining-20+10": 0.6667,
        "partial_pretraining-20+20": 0.5,
        "partial_pretraining-20+30": 0.4,
    }


def test_splits_wait_for_their_architecture_where_it_is_on_request():
    tasks = [{"task": "digits", "on_request": ["digits_mlp"], "full_precision": RECIPE, "binarized": RECIPE}]
    suite = partly(tasks=tasks, splits=SPLITS | {"architecture": "digits_mlp"})
    assert {run.point for run in plan(suite=suite)} == {None}
    assert sum(run.point is not None for run in plan("architecture=digits_mlp", suite=suite)) == 12


def test_a_run_that_is_several_things_is_once_in_the_plan_with_the_share_that_was_asked_for():
    """1/3 of 30 is 10; the split of 10 and 20 is the same run, though its share is rounded to 0.3333."""
    recipe = RECIPE | {"steps": 30}
    splits = SPLITS | {"full_precision": [1 / 3], "binarized": [2 / 3]}
    suite = partly(
        tasks=[{"task": "digits", "full_precision": recipe, "binarized": recipe}],
        algorithms=["bnn"],
        share=1 / 3,
        curves={"budgets": [1]},
        splits=splits,
    )
    (run,) = [run for run in plan(suite=suite) if run.method == "partial_pretraining"]
    assert (run.main, run.point, run.share) == (True, "partial_pretraining-10+20", 1 / 3)


METHODS = ["full_precision", "from_scratch", "partial_pretraining", "fine_tune"]


@settings(deadline=None, max_examples=60)
@given(
    steps=st.integers(8, 200),
    share=st.floats(0.2, 0.8),
    budgets=st.lists(st.sampled_from([0.5, 0.7, 1, 1.5, 2]), min_size=1, max_size=3),
    methods=st.lists(st.sampled_from(METHODS), min_size=1, max_size=4),
    shares=st.lists(st.floats(0.2, 0.8), max_size=2),
    own=st.sampled_from(METHODS[1:]),
    state=st.sampled_from(["reset", "keep"]),
)
def test_any_plan_has_parents_first_and_budgets_that_sum(steps, share, budgets, methods, shares, own, state):
    recipe = RECIPE | {"steps": steps}
    suite = partly(
        tasks=[{"task": "digits", "full_precision": recipe, "binarized": recipe}],
        method=own,
        share=share,
        optimizer_state=state,
        curves={"budgets": budgets, "methods": methods, "shares": shares},
        splits=SPLITS,
    )
    runs = plan(suite=suite)
    by_id = {run.id: run for run in runs}
    assert len(by_id) == len(runs)
    totals = {steps, *(max(1, round(part * steps)) for part in budgets)}
    cells = {max(1, round(part * steps)) for part in (0.25, 0.5, 0.75)}
    places = {run_id: place for place, run_id in enumerate(by_id)}
    for run in runs:
        if run.parent is not None:
            parent = by_id[run.parent]
            assert places[parent.id] < places[run.id]
            assert (parent.algorithm, parent.seed, parent.task) == ("fp32", run.seed, run.task)
            assert parent.optimizer_state == run.optimizer_state
        if run.method == "partial_pretraining":
            first, second = parent.recipe.steps, run.recipe.steps
            assert first + second in totals or {first, second} <= cells
            assert run.optimizer_state == state
        elif run.operator or run.main:
            assert run.recipe.steps in totals
    points = [(run.algorithm, run.point) for run in runs if run.point is not None]
    assert len(set(points)) == len(points)


def test_a_grid_of_partial_pretraining_varies_the_binarized_part():
    grid = {"task": "digits", "architecture": "digits_cnn", "seeds": [0, 7]}
    runs = plan(suite=partly(method="fine_tune", sensitivity=grid | {"method": "partial_pretraining"}, share=0.25))
    found = [run for run in runs if run.setting is not None]
    assert len(found) == 2 * 3 * 8
    by_id = {run.id: run for run in runs}
    for run in found:
        if run.operator:
            assert (run.method, run.recipe.steps, run.share) == ("partial_pretraining", 30, 0.25)
            parent = by_id[run.parent]
            assert (parent.recipe.steps, parent.recipe.optimizer) == (10, SGD(lr=0.1))
            assert (parent.seed, parent.setting, parent.main) == (run.seed, None, False)
        else:
            assert (run.method, run.recipe.steps) == ("full_precision", 40)
    # 3 main runs, 2 · 24 settings of which the full-precision one of seed 0 is a main run too, and 2 parents
    assert len(runs) == 3 + 47 + 2


def test_runs_of_a_method_or_a_point_can_be_selected():
    suite = partly(curves={"budgets": [0.5, 1]})
    assert shown(plan("method=partial_pretraining", "algorithm=bnn", suite=suite)) == [
        ("fp32", "full_precision", None, 40, "full_precision-40", True),  # which it is compared with
        ("fp32", "full_precision", None, 20, "full_precision-20", False),
        ("bnn", "partial_pretraining", 20, 20, "partial_pretraining-20+20", True),
        ("fp32", "full_precision", None, 10, None, False),
        ("bnn", "partial_pretraining", 10, 10, "partial_pretraining-10+10", False),
    ]
    assert shown(plan("point=partial_pretraining-10+10", "point=from_scratch-40", suite=suite)) == [
        ("fp32", "full_precision", None, 10, None, False),
        ("bnn", "partial_pretraining", 10, 10, "partial_pretraining-10+10", False),
        ("pact", "partial_pretraining", 10, 10, "partial_pretraining-10+10", False),
        ("bnn", "from_scratch", None, 40, "from_scratch-40", False),
        ("pact", "from_scratch", None, 40, "from_scratch-40", False),
    ]
    with pytest.raises(PlanError, match=r"--only point=from_scratch-41: not in suite 'partly'; did you mean 'from_scr"):
        plan("point=from_scratch-41", suite=suite)
    with pytest.raises(PlanError, match=r"--only method=fine_tune: not in suite 'partly' \(it has: full_precision, "):
        plan("method=fine_tune", suite=suite)


def test_a_budget_is_of_both_parts_together():
    runs = plan(suite=partly(), budget=Budget(epochs=7))
    assert [(run.recipe.budget, run.recipe.unit) for run in runs] == [(n, "epochs") for n in (7, 3, 4, 4)]
    assert [budget for *_, budget, _, _ in shown(plan(suite=partly(), budget=Budget(steps=9)))] == [9, 4, 5, 5]


TIMES = {"digits digits_cnn fp32": 0.01, "digits digits_cnn bnn": 0.02, "digits digits_cnn pact": 0.03}


def test_seconds_are_the_steps_that_fit_into_them():
    """In a second: 100 steps of full precision, 66 of half bnn, 50 of half pact; 50 of bnn and 33 of pact alone."""
    second = Budget(seconds=1, calibration=TIMES)
    assert shown(plan(suite=partly(), budget=second)) == [
        ("fp32", "full_precision", None, 100, None, True),
        ("fp32", "full_precision", None, 33, None, False),
        ("bnn", "partial_pretraining", 33, 33, None, True),
        ("fp32", "full_precision", None, 25, None, False),
        ("pact", "partial_pretraining", 25, 25, None, True),
    ]
    runs = plan(suite=partly(method="from_scratch", curves={"budgets": [0.5]}), budget=second)
    assert [(run.algorithm, run.recipe.steps) for run in runs if run.main] == [("fp32", 100), ("bnn", 50), ("pact", 33)]
    points = {run.point for run in runs if run.algorithm in ("fp32", "pact")} - {None}
    assert points == {"full_precision-50", "from_scratch-16", "partial_pretraining-12+13"}
    assert {run.recipe.unit for run in runs} == {"steps"}
    assert make_plan(partly(), budget=Budget(steps=66))[2].id == plan(suite=partly(), budget=second)[2].id


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a budget is in epochs, steps or seconds; found none"),
        ({"epochs": 2, "steps": 3}, "a budget is in epochs, steps or seconds; found epochs and steps"),
        ({"steps": 3, "seconds": 1.0}, "found steps and seconds"),
    ],
)
def test_one_budget_is_given(given, message):
    with pytest.raises(PlanError, match=message):
        Budget(**given)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            Budget(seconds=1),
            "--seconds 1: the iterations of 'digits digits_cnn fp32' were not timed",
        ),
        (
            Budget(seconds=1, calibration=TIMES | {"digits digits_cnn bnn": 3.0}),
            "--seconds 1: digits digits_cnn bnn: the budget of 1 s is shorter than one iteration, which takes 1.505 s",
        ),
        (Budget(steps=1), "digits digits_cnn: a budget of 1 is too short for a share of 0.5 in full precision"),
    ],
)
def test_budgets_that_a_suites_runs_cannot_have(budget, message):
    with pytest.raises(PlanError, match=message):
        plan(suite=partly(), budget=budget)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"method": "fine_tune", "curves": {"budgets": [1]}},
        {"method": "fine_tune", "splits": SPLITS},
    ],
)
def test_partial_pretraining_and_curves_refuse_a_users_checkpoint(content):
    with pytest.raises(PlanError, match="--checkpoint gives the weights of a whole full-precision training"):
        plan(suite=partly(**content), checkpoint="f" * 64)


@pytest.mark.parametrize(
    ("binarized", "state", "message"),
    [
        ({"batch_size": 32}, "reset", "need the same batch_size; full_precision has 64, binarized 32"),
        ({"epochs": 2}, "reset", "need the same unit of the budget; full_precision has steps, binarized epochs"),
        (
            {"optimizer": {"name": "adam", "lr": 0.1}},
            "keep",
            "optimizer_state is 'keep', but task 'digits' has sgd in full precision and adam binarized",
        ),
    ],
)
def test_recipes_that_cannot_share_one_budget(binarized, state, message):
    own = {key: value for key, value in RECIPE.items() if key != "steps" or "epochs" not in binarized} | binarized
    entry = TaskEntry(task="digits", full_precision=RECIPE, binarized=own)
    content = {"name": "x", "algorithms": ["bnn"], "method": "partial_pretraining", "optimizer_state": state}
    with pytest.raises(PlanError, match=message):
        make_plan(Suite(tasks=(entry,), **content))
    with pytest.raises(SuiteError, match=rf"test, line \d+: .*{message}"):
        partly(tasks=[entry.model_dump()], optimizer_state=state)
    # another method doesn't mind, and neither does one of them on its own
    make_plan(Suite(tasks=(entry,), **(content | {"method": "fine_tune"})))
    if state == "keep":
        make_plan(Suite(tasks=(entry,), **(content | {"optimizer_state": "reset"})))


def test_what_a_plan_computes_of_a_network_does_not_grow_with_its_runs(monkeypatch):
    """With more seeds and algorithms come more runs, and nothing else: a plan of 100,000 takes seconds."""
    made = []

    def counted(*arguments):
        made.append(arguments)
        return recipe_for(*arguments)

    monkeypatch.setattr(planning, "recipe_for", counted)
    few = plan(suite=SUITE)
    of_few = len(made)
    made.clear()
    many = plan(suite=SUITE.model_copy(update={"seeds": tuple(range(20))}))
    assert len(many) == 10 * len(few)
    assert len(made) == of_few == 2 * 3  # full precision and binarized, of three networks
