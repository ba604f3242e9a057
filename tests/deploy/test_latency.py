"""Timing in turns: what is counted, what is left as it was, and other runtimes beside."""

import gc
import sys
import time

import pytest
import torch
from torch import nn

from bibench.deploy.latency import Latency, Ratio, eager, measure, one_of, onnx_runtime, ratio
from bibench.models.image import digits_cnn


def test_rounds_alternate_and_warm_ups_do_not_count():
    seen = []

    def call(name):
        return lambda: (seen.append(name), time.sleep(0.002))

    found = measure({name: call(name) for name in "abc"}, rounds=4, warm_up=3, least_seconds=0.001)
    assert {name: (len(one.seconds), one.calls) for name, one in found.items()} == dict.fromkeys("abc", (4, 1))
    assert "".join(seen) == "aaaabbbbcccc" + "abc" + "cba" + "abc" + "cba"  # three to warm up, one to count
    assert all(0.002 <= value < 0.2 for one in found.values() for value in one.seconds)


def test_short_calls_are_repeated_and_each_as_often_as_it_needs():
    found = measure({"short": lambda: None, "long": lambda: time.sleep(0.01)}, rounds=2, least_seconds=0.002)
    assert found["short"].calls > 1000
    assert found["long"].calls == 1
    assert found["short"].median < 1e-5


def test_measuring_leaves_threads_and_garbage_collection_as_they_were():
    seen = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        measure({"a": lambda: seen.append((torch.get_num_threads(), gc.isenabled()))}, rounds=1, threads=1)
        assert set(seen) == {(1, False)}
        assert (torch.get_num_threads(), gc.isenabled()) == (2, True)
        with pytest.raises(ZeroDivisionError):
            measure({"a": lambda: 1 / 0}, rounds=1, threads=1)
        assert (torch.get_num_threads(), gc.isenabled()) == (2, True)
    finally:
        torch.set_num_threads(before)


def test_numbers():
    found = Latency((0.4, 0.1, 0.2, 0.3), calls=5)
    assert (found.median, found.lowest) == (0.25, 0.1)
    assert found.quartiles == pytest.approx((0.175, 0.325))
    assert Latency((0.5,)).quartiles == (0.5, 0.5)
    assert ratio(Latency((4.0, 9.0, 2.0)), Latency((2.0, 3.0, 2.0))) == Ratio(2.0, (1.5, 2.5))
    with pytest.raises(ValueError, match="3 rounds of the reference and 1 of the other"):
        ratio(Latency((4.0, 9.0, 2.0)), Latency((2.0,)))
    for wrong in ((), (0.0,), (float("inf"),), (float("nan"),)):
        with pytest.raises(ValueError, match="expected positive seconds"):
            Latency(wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rounds": 0}, "rounds is 0"), ({"warm_up": -1}, "warm_up is -1"), ({"threads": 0}, "threads is 0")],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        measure({"a": lambda: None}, **settings)
    with pytest.raises(ValueError, match="no call to measure"):
        measure({})


def test_one_of():
    first, second = one_of((torch.arange(6).view(2, 3), torch.ones(2, 1)))
    assert first.tolist() == [[0, 1, 2]]
    assert second.shape == (1, 1)


def test_eager_and_onnx_runtime_give_the_same():
    model, image = digits_cnn.build((1, 8, 8), 10).eval(), torch.randn(1, 1, 8, 8)
    plain, other = eager(model, image), onnx_runtime(model, image)
    assert other is not None
    (found,) = other().copy_outputs_to_cpu()
    torch.testing.assert_close(torch.from_numpy(found), plain(), rtol=1e-4, atol=1e-4)
    assert not plain().requires_grad


class Dice(nn.Module):
    """Gives something else each time, which no export can keep."""

    def forward(self, value):
        return value + torch.rand(value.shape)


class Refusing(nn.Module):
    def forward(self, value):
        raise RuntimeError("not here")


def test_what_onnx_runtime_cannot_do_is_none(monkeypatch, capfd):
    assert onnx_runtime(Dice(), torch.ones(1, 3)) is None
    assert onnx_runtime(Refusing(), torch.ones(1, 3)) is None
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert onnx_runtime(nn.Identity(), torch.ones(1, 3)) is None
    assert capfd.readouterr().out == ""
