import pytest
import torch
from torch import nn

from bibench.nn import BinarizeError, BinaryConv2d, BinaryLinear
from bibench.nn.trace import is_pointwise, observe_inputs, trace


def traced(model, example):
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    return trace(model, example, {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)})


def conv(inputs, outputs, size=3, **how):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **how)


class Residual(nn.Module):
    """A block whose projection has no telling name; ``how`` adds it in different ways."""

    def __init__(self, how="plus"):
        super().__init__()
        self.stem, self.a, self.b, self.proj = conv(3, 4), conv(4, 8), conv(8, 8), conv(4, 8, 1)
        self.bn = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 2)
        self.how = how

    def forward(self, x):
        x = self.stem(x)
        y = self.b(torch.relu(self.a(x)))
        skip = self.bn(self.proj(x))
        if self.how == "plus":
            y = y + skip
        elif self.how == "reverse":
            y = skip + y
        elif self.how == "in place":
            y += skip
        elif self.how == "function":
            y = torch.add(y, skip)
        elif self.how == "scaled":
            y = y + 0.5 * skip
        elif self.how == "concatenated":
            y = torch.cat([y[:, :4], skip[:, 4:]], dim=1)
        elif self.how == "product":
            y = y * skip
        return self.head(torch.relu(y).mean((2, 3)))


@pytest.mark.parametrize("how", ["plus", "reverse", "in place", "function", "scaled"])
def test_a_projection_that_is_added_is_a_shortcut(how):
    found = traced(Residual(how), torch.randn(1, 3, 6, 6))
    assert found.order == ("stem", "a", "b", "proj", "head")
    assert found.first == {"stem"}
    assert found.last == {"head"}
    assert found.shortcuts == {"proj"}


@pytest.mark.parametrize("how", ["concatenated", "product"])
def test_a_projection_that_is_not_added_is_none(how):
    assert traced(Residual(how), torch.randn(1, 3, 6, 6)).shortcuts == set()


def test_a_wider_convolution_on_the_skip_is_none():
    model = Residual()
    model.proj = conv(4, 8, 3)
    assert traced(model, torch.randn(1, 3, 6, 6)).shortcuts == set()


class Bottleneck(nn.Module):
    """The last 1x1 convolution of a bottleneck is on the main path; its sum with the identity is no shortcut."""

    def __init__(self):
        super().__init__()
        self.stem, self.reduce, self.middle, self.expand = conv(3, 8), conv(8, 2, 1), conv(2, 2), conv(2, 8, 1)
        self.again = nn.Sequential(conv(8, 2, 1), conv(2, 8, 1))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.expand(self.middle(self.reduce(x)))
        x = self.again(x) + x
        return self.head(x)


def test_the_main_path_of_a_bottleneck():
    found = traced(Bottleneck(), torch.randn(1, 3, 6, 6))
    assert found.shortcuts == set()
    assert found.first == {"stem"}
    assert found.last == {"head"}


def test_fusing_two_branches_is_no_shortcut():
    class Fusion(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Sequential(conv(3, 4), conv(4, 4, 1)), nn.Sequential(conv(3, 4), conv(4, 4))
            self.head = conv(4, 2)

        def forward(self, image, depth):
            return self.head(self.one(image) + self.other(depth))

    found = traced(Fusion(), (torch.randn(1, 3, 5, 5), torch.randn(1, 3, 5, 5)))
    assert found.shortcuts == set()
    assert found.first == {"one.0", "other.0"}


def test_execution_order_not_registration_order():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.middle, self.first = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(3, 4)

        def forward(self, x):
            return self.last(self.middle(self.first(x)))

    found = traced(Backwards(), torch.randn(2, 3))
    assert found.order == ("first", "middle", "last")
    assert (found.first, found.last) == ({"first"}, {"last"})


class TwoBranches(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4), nn.ReLU())
        self.text = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.both = nn.Linear(8, 8)
        self.label = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        self.box = nn.Linear(8, 4)

    def forward(self, image, text):
        both = torch.cat([self.image(image).mean((2, 3)), self.text(text).mean(1)], 1)
        both = self.both(both).relu()
        return {"label": self.label(both), "box": self.box(both).sigmoid()}


@pytest.mark.parametrize("kind", ["sequence", "mapping"])
def test_two_inputs_and_two_heads(kind):
    image, text = torch.randn(2, 3, 5, 5), torch.randint(0, 10, (2, 6))
    example = (image, text) if kind == "sequence" else {"text": text, "image": image}
    found = traced(TwoBranches(), example)
    assert found.first == {"image.0", "text.1"}
    assert found.last == {"label.2", "box"}


def test_a_head_inside_the_network():
    """An auxiliary output is the end of a branch; features that are also given out are not."""

    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.aux = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            x = self.a(x)
            middle = self.b(x)
            return self.c(middle), self.aux(middle), middle

    found = traced(Auxiliary(), torch.randn(2, 4))
    assert found.last == {"c", "aux"}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        for layer in (self.first, self.inner, self.last):
            for _ in range(3):
                x = layer(x)
        return x


def test_layers_that_feed_themselves():
    found = traced(Recurrent(), torch.randn(2, 4))
    assert found.order == ("first", "inner", "last")
    assert (found.first, found.last) == ({"first"}, {"last"})


def test_siamese():
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.body, self.head = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, a, b):
            return self.head(self.body(self.embed(a)) * self.body(self.embed(b)))

    found = traced(Siamese(), (torch.randn(2, 4), torch.randn(2, 4)))
    assert (found.first, found.last) == ({"embed"}, {"head"})


def test_largest_output_size():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv(3, 3)
            self.audio = nn.Conv1d(3, 2, 3, stride=2)

        def forward(self, x):
            small, wide = self.conv(x[..., ::2, :]), self.conv(x[..., ::2])
            return small.sum() + wide.sum() + self.audio(x[:, :, 0]).sum()

    found = traced(Pyramid(), torch.randn(1, 3, 8, 6))
    assert found.output_size == {"conv": (8, 6), "audio": (2,)}


def test_layers_that_do_not_run():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x)

    found = traced(Unused(), torch.randn(1, 4))
    assert found.order == ("a",)


def test_the_model_is_left_as_it_was():
    class Noise(nn.Module):
        """Random at evaluation too."""

        def forward(self, x):
            return x + torch.randn_like(x)

    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), Noise(), BinaryConv2d(4, 4, 3, algorithm="fda"))
    model[1].eval()
    modes = [module.training for module in model.modules()]
    statistics = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    x = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    traced(model, x)
    observe_inputs(model, x, {"3": model[3]})
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, statistics[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_a_failing_example_leaves_no_hooks():
    model = nn.Sequential(conv(3, 4), nn.Linear(7, 7)).train()
    with pytest.raises(BinarizeError):
        traced(model, torch.randn(1, 3, 5, 5))
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(module.training for module in model.modules())


def test_inputs_given_by_name():
    class ByName(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), BinaryLinear(4, 4, algorithm="bnn")

        def forward(self, x):
            return self.b(input=self.a(input=x).relu())

    model = ByName()
    found = traced(model, torch.randn(1, 4))
    assert (found.first, found.last) == ({"a"}, {"b"})
    assert observe_inputs(model, torch.randn(1, 4), {"b": model.b}) == ({"b"}, {"b"})


def test_observed_inputs():
    model = nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), BinaryLinear(4, 4, algorithm="bnn"), BinaryLinear(4, 4, algorithm="pact")
    )
    nn.init.zeros_(model[3].activation_rule.A)
    layers = {name: model[int(name)] for name in ("2", "3")}
    model[2].bias.data = torch.tensor([-9.0, 9.0, -9.0, 9.0])
    assert observe_inputs(model, torch.randn(8, 4), layers) == ({"2"}, {"2"})


def test_pointwise():
    assert is_pointwise(nn.Conv2d(3, 4, 1))
    assert is_pointwise(nn.Conv1d(3, 4, 1, stride=2))
    assert not is_pointwise(nn.Conv2d(3, 4, (1, 3)))
    assert not is_pointwise(nn.Linear(3, 4))
