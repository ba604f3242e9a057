"""Where networks were timed: pairs by place, means over seeds, and the published rows with their computing power."""

import statistics

import pytest
import torch
from made_records import figure, measured_record, ok_record, run_config
from scipy.stats import kendalltau

import bibench
from bibench import registry
from bibench.nn import complexity
from bibench.records import Figure, Results
from bibench.tracks import places as module
from bibench.tracks.places import Place, places, published_places

PI = {"device": "pi", "threads": "4", "library": "larq"}
DESK = PI | {"device": "desk", "threads": "1"}


def pair(own: float, full: float, place: dict[str, str] = PI, unit: str = "ms") -> list[Figure]:
    return [figure("latency", own, unit, place), figure("full_precision_latency", full, "ms", place)]


def made(*figures: list[Figure], algorithm: str = "bnn") -> Results:
    """A run for each list of figures, with seeds from 0."""
    records = [
        measured_record(run_config("t", "a", algorithm, seed), 80.0, "hardware_inference", *own)
        for seed, own in enumerate(figures)
    ]
    return Results(plan=[record.run for record in records], records=records)


def test_means_over_seeds_by_hand() -> None:
    more = [figure("operations", 6e6, "count"), figure("cores", 2, "count", PI)]
    found = places(made([*pair(2.0, 10.0), *more], [*pair(1.0, 14.0), *pair(5.0, 5.0, DESK)]))
    assert found == [
        Place(
            task="t",
            architecture="a",
            algorithm="bnn",
            device="pi",
            threads="4",
            library="larq",
            cores=2,
            latency=1.5,
            full_precision=12.0,
            speedup=9.5,  # the mean of 5 and 14, not 12/1.5
            seeds=2,
            rate=5e8,  # 6e6 in 12 ms
        ),
        Place(
            task="t",
            architecture="a",
            algorithm="bnn",
            device="desk",
            threads="1",
            library="larq",
            cores=None,
            latency=5.0,
            full_precision=5.0,
            speedup=1.0,
            seeds=1,
            rate=None,
        ),
    ]


@pytest.mark.parametrize(
    "figures",
    [
        pair(2.0, 10.0)[:1],
        pair(2.0, 10.0)[1:],
        pair(0.0, 10.0),
        pair(-1.0, 10.0),
        pair(2.0, 0.0),
        pair(1e-99, 1e99),
        pair(2.0, 10.0, unit="s"),
        [figure("latency", 2.0, "ms"), figure("full_precision_latency", 10.0, "ms")],
    ],
)
def test_what_is_no_pair_is_no_place(figures: list[Figure]) -> None:
    assert places(made(figures)) == []


def test_only_main_runs_that_are_ok_count() -> None:
    runs = [run_config("t", "a", "bnn", 0, main=False), run_config("t", "a", "bnn", 1)]
    records = [measured_record(runs[0], 80.0, "hardware_inference", *pair(2.0, 10.0))]
    assert places(Results(plan=runs, records=records)) == []
    failed = ok_record(runs[1], 80.0, status="failed", reason="why", figures=tuple(pair(2.0, 10.0)))
    assert places(Results(plan=runs, records=[failed])) == []


def test_the_published_networks_have_the_operations_that_are_counted_here() -> None:
    for name, count in module._OPERATIONS.items():
        side, outputs = (32, 10) if name == "vgg_small" else (224, 1000)
        model = registry.get("architectures", name).build((3, side, side), outputs)
        example = torch.randn(1, 3, side, side)
        assert complexity(bibench.binarize(model, "bnn", example=example), example).operations == count


def test_the_inferred_sizes_make_networks_agree_on_how_fast_a_device_is() -> None:
    rows = {
        (place.architecture, place.device, place.threads, place.library): place.rate
        for place in published_places()
        if place.algorithm == "bnn"
    }
    ratios = [
        rate / small
        for (name, *at), rate in rows.items()
        if name == "resnet18" and (small := rows.get(("vgg_small", *at))) is not None
    ]
    assert len(ratios) > 50
    assert statistics.median(ratios) == pytest.approx(1, abs=0.02)


def test_published_devices_with_less_power_gain_more() -> None:
    """What BiBench's Figure 3 says, from the published rows."""
    devices: dict[str, list[tuple[float, float]]] = {}
    for place in published_places():
        assert place.rate is not None
        devices.setdefault(place.device, []).append((place.rate, place.speedup))
    assert len(devices) == 14
    power = [statistics.geometric_mean(rate for rate, _ in rows) for rows in devices.values()]
    speedup = [statistics.fmean(value for _, value in rows) for rows in devices.values()]
    found = kendalltau(power, speedup)
    assert found.statistic < -0.4
    assert found.pvalue < 0.05
