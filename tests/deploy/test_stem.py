"""The first layer in int8, against the same quantization written with torch."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bibench
from bibench.deploy.export import export, pack
from bibench.deploy.format import Code, PackedError, Program
from bibench.native import Engine, instruction_sets
from bibench.tasks.digits import digits
from packed_reference import run


def quantized(conv, x, low, high):
    """The layer on quantized operands, in float64, from the definition."""
    scale = (high - low) / 255
    zero = round(-low / scale)
    q_x = torch.clamp(torch.round(x.double() / scale) + zero, 0, 255) - zero
    s_o = conv.weight.detach().abs().amax(dim=tuple(range(1, conv.weight.dim())), keepdim=True).double() / 127
    q_w = torch.round(conv.weight.detach().double() / s_o)
    bias = None if conv.bias is None else conv.bias.detach().double()
    if isinstance(conv, nn.Linear):
        return F.linear(q_x * scale, q_w * s_o, bias)
    return F.conv2d(q_x * scale, q_w * s_o, bias, conv.stride, conv.padding, conv.dilation)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (7, 2, 3), (1, 1, 0), (2, 2, 0)])
def test_convolutions_equal_their_definition(channels, kernel, stride, padding):
    torch.manual_seed(channels + kernel)
    conv = nn.Conv2d(channels, 33, kernel, stride, padding)
    x = torch.randn(1, channels, 9, 11)
    program = pack(conv.eval(), x, int8_stem=True, input_range=(-2.0, 1.5))
    assert [operation.code for operation in program.operations][:2] == [Code.QUANTIZE, Code.ICONV]
    (found,) = run(program.to_bytes(), [x.numpy().reshape(-1)])
    expected = quantized(conv, x, -2.0, 1.5)
    assert torch.allclose(torch.as_tensor(found).double().reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)
    for isa in instruction_sets():
        (flat,) = Engine(program.to_bytes(), isa=isa).run([x.numpy().reshape(-1)], 1)
        assert np.allclose(flat, np.asarray(found).reshape(-1), rtol=1e-6, atol=1e-6), isa


def test_linear_layers_too():
    torch.manual_seed(0)
    linear, x = nn.Linear(30, 7), torch.rand(1, 30)
    program = pack(linear.eval(), x, int8_stem=True)
    (found,) = run(program.to_bytes(), [x.numpy().reshape(-1)])
    expected = quantized(linear, x, 0.0, float(x.max()))
    assert torch.allclose(torch.as_tensor(found).double().reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)


def test_what_follows_stays_as_it_was():
    example = digits.example()
    torch.manual_seed(0)
    model = bibench.binarize(
        nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Flatten(),
            nn.Linear(1024, 10),
        ).eval(),
        "bnn",
        example=example,
    )
    plain, fast = (pack(model, example, int8_stem=wanted) for wanted in (False, True))
    before, after = ([operation.code for operation in program.operations] for program in (plain, fast))
    assert before[:3] == [Code.COPY, Code.FCONV, Code.BCONV]
    assert after[:3] == [Code.QUANTIZE, Code.ICONV, Code.BCONV]
    assert before[3:] == after[3:]


def test_the_range_comes_from_the_preprocessing(tmp_path):
    assert digits.preprocessing is not None
    conv = nn.Conv2d(1, 4, 3).eval()
    path = tmp_path / "net.bibpack"
    export(
        conv,
        path,
        example=torch.zeros(1, 1, 8, 8),  # has no range of its own
        preprocessing=digits.preprocessing.model_dump(mode="json"),
        int8_stem=True,
    )
    low, high = digits.preprocessing.range
    quantize = Program.read(path).operations[0]
    assert quantize.floats[0] == pytest.approx(255 / (high - low))
    assert quantize.params[7] == round(-low / (high - low) * 255)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: bibench.nn.BinaryLinear(8, 8, algorithm="bnn"), "no convolution or linear layer in full precision"),
        (lambda: nn.Sequential(nn.Unflatten(1, (4, 2, 1)), nn.Conv2d(4, 4, 1, groups=2)), "has 2 groups"),
    ],
)
def test_what_has_no_such_layer_is_refused(model, message):
    with pytest.raises(PackedError, match=message):
        pack(model().eval(), torch.randn(1, 8), int8_stem=True)


def test_an_empty_range_is_refused():
    with pytest.raises(PackedError, match=r"the input's range is 0 to 0"):
        pack(nn.Linear(4, 2).eval(), torch.zeros(1, 4), int8_stem=True)
