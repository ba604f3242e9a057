"""binarize() and summary() on models of every origin."""

import copy
import inspect

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

import bibench
from bibench import BinarizeError, binarize, default_filter, summary
from bibench.algorithms.dorefa import dorefa
from bibench.nn import AlgorithmError, BinaryConv2d, BinaryLayer, BinaryLinear, BinaryMatmul, set_progress
from bibench.registry import UnknownName

EXAMPLE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def reasons(model: nn.Module) -> dict[str, str]:
    told = summary(model)
    return {layer.name: layer.reason for layer in told if layer.name in told.full_precision}


def linears(count: int, width: int = 8, between: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(width, width)]
    for _ in range(count - 1):
        layers += [between(), nn.Linear(width, width)]
    return nn.Sequential(*layers)


def trains(model: nn.Module, *args, **kwargs) -> None:
    """Assert that gradients reach every parameter of the binarized layers."""
    model.train()
    output = model(*args, **kwargs)
    output = output if isinstance(output, torch.Tensor) else next(iter(dict(output).values()))
    output.square().mean().backward()
    layers = [module for module in model.modules() if isinstance(module, BinaryLayer)]
    assert layers
    assert all(p.grad is not None and p.grad.isfinite().all() for layer in layers for p in layer.parameters())


# Models of others


def test_resnet18():
    model = torchvision.models.resnet18(num_classes=5)
    binary = binarize(model, "recu", example=EXAMPLE)
    assert reasons(binary) == {
        "conv1": "first layer on the example",
        "layer2.0.downsample.0": "1x1 projection shortcut",
        "layer3.0.downsample.0": "1x1 projection shortcut",
        "layer4.0.downsample.0": "1x1 projection shortcut",
        "fc": "last layer on the example",
    }
    blocks = [f"layer{i}.{j}.conv{k}" for i in (1, 2, 3, 4) for j in (0, 1) for k in (1, 2)]
    assert list(summary(binary).binarized) == blocks
    assert summary(binary).never_negative == ()
    assert not any(isinstance(module, nn.ReLU) for module in binary.modules())
    assert isinstance(binary.relu, nn.Hardtanh)
    trains(binary, EXAMPLE)
    by_name = binarize(model, "recu")
    assert summary(by_name).binarized == summary(binary).binarized
    assert reasons(by_name)["conv1"] == "first layer in registration order"
    assert len(summary(binarize(model, "recu", example=EXAMPLE, shortcuts=True)).binarized) == 19
    assert len(summary(binarize(model, "recu", shortcuts=True)).binarized) == 19


@pytest.mark.slow
def test_resnet50():
    """The last convolution of a bottleneck is 1x1 and added, and no shortcut."""
    binary = binarize(torchvision.models.resnet50(), "bnn", example=EXAMPLE[:1])
    shortcuts = {name for name, reason in reasons(binary).items() if "shortcut" in reason}
    assert shortcuts == {f"layer{i}.0.downsample.0" for i in (1, 2, 3, 4)}
    assert len(summary(binary).binarized) == 48


@pytest.mark.slow
def test_mobilenet_v2():
    """The projection of an inverted residual is on the main path."""
    binary = binarize(torchvision.models.mobilenet_v2(), "dorefa", example=EXAMPLE[:1])
    assert reasons(binary) == {
        "features.0.0": "first layer on the example",
        "classifier.1": "last layer on the example",
    }
    assert not any(isinstance(module, nn.ReLU6) for module in binary.modules())
    replaced = [layer for layer in summary(binary) if layer.decision == "replaced"]
    assert {layer.kind for layer in replaced} == {"ReLU6"}
    trains(binary, EXAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how", "first", "last"),
    [
        ("vgg11", {}, "features.0", "classifier.6"),
        ("googlenet", {"aux_logits": False, "init_weights": False}, "conv1.conv", "fc"),
        ("densenet121", {}, "features.conv0", "classifier"),
        ("squeezenet1_1", {}, "features.0", "classifier.1"),
        ("shufflenet_v2_x0_5", {}, "conv1.0", "fc"),
        ("regnet_y_400mf", {}, "stem.0", "fc"),
    ],
)
def test_torchvision(name, how, first, last):
    binary = binarize(getattr(torchvision.models, name)(**how), "bnn", example=EXAMPLE[:1], inplace=True)
    kept = {name for name, reason in reasons(binary).items() if "shortcut" not in reason}
    assert kept == {first, last}
    assert binary.eval()(EXAMPLE[:1]).shape == (1, 1000)


def test_vision_transformer():
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    binary = binarize(model, "bireal", example=EXAMPLE[:, :, :32, :32])
    assert set(summary(binary).binarized) == {
        f"encoder.layers.encoder_layer_{i}.mlp.{j}" for i in (0, 1) for j in (0, 3)
    }
    kept = reasons(binary)
    assert kept["conv_proj"] == "first layer on the example"
    assert kept["heads.head"] == "last layer on the example"
    assert "MultiheadAttention" in kept["encoder.layers.encoder_layer_0.self_attention.out_proj"]
    binary.eval()
    with torch.no_grad():
        there = binary(EXAMPLE[:, :, :32, :32])
    torch.testing.assert_close(there, binary(EXAMPLE[:, :, :32, :32]))
    trains(binary, EXAMPLE[:, :, :32, :32])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "first", "last", "shortcuts"),
    [
        ("resnet18d", 64, "conv1.0", "fc", {f"layer{i}.0.downsample.1" for i in (2, 3, 4)}),
        ("convnext_atto", 64, "stem.0", "head.fc", set()),
        ("vit_tiny_patch16_224", 32, "patch_embed.proj", "head", set()),
        ("mixer_s32_224", 64, "stem.proj", "head", set()),
    ],
)
def test_timm(name, size, first, last, shortcuts):
    import timm

    how = {"img_size": size} if name.startswith(("vit", "mixer")) else {}
    model = timm.create_model(name, pretrained=False, num_classes=7, **how)
    x = EXAMPLE[:1, :, :size, :size]
    binary = binarize(model, "xnorpp", example=x, inplace=True)
    assert reasons(binary) == {
        first: "first layer on the example",
        last: "last layer on the example",
        **dict.fromkeys(shortcuts, "1x1 projection shortcut"),
    }
    assert binary.eval()(x).shape == (1, 7)


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["dict", "BatchEncoding"])
def test_transformers(mapping):
    import transformers

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config)
    example = {"input_ids": torch.randint(0, 50, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    if mapping == "BatchEncoding":
        example = transformers.BatchEncoding(example)
    binary = binarize(model, "reactnet", example=example)
    kept = reasons(binary)
    assert set(kept) == {"bert.encoder.layer.0.attention.self.query", "classifier"}
    assert kept["classifier"] == "last layer on the example"
    assert len(summary(binary).binarized) == 2 * 6 - 1 + 1  # six a layer, less the first, and the pooler
    trains(binary, **example)


# Models of one's own


def test_reads_a_net_with_two_inputs_and_two_heads():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.audio, self.image = linears(2), linears(2)
            self.body = nn.Linear(16, 8)
            self.one, self.other = nn.Linear(8, 2), nn.Linear(8, 3)

        def forward(self, audio, image):
            x = self.body(torch.cat([self.audio(audio), self.image(image)], -1))
            return self.one(x), self.other(x)

    binary = binarize(Net(), "bnn", example=(torch.randn(2, 8), torch.randn(2, 8)))
    assert summary(binary).binarized == ("audio.2", "image.2", "body")
    assert summary(binary).full_precision == ("audio.0", "image.0", "one", "other")


class Skip(nn.Module):
    """A residual block whose projection bears no telling name."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
        )
        self.match = nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head((self.body(x) + self.match(x)).mean((2, 3)))


class WithHead(nn.Module):
    """A backbone and a part that the model names as its head."""

    head_names = ("predictor",)

    def __init__(self):
        super().__init__()
        self.backbone = linears(3)
        self.predictor = linears(3)
        self.predictors = linears(2)  # a name that only begins like the head's

    def forward(self, x):
        return self.predictors(self.predictor(self.backbone(x)))


@pytest.mark.parametrize("example", [None, torch.randn(2, 8)])
def test_heads_stay_as_they_are_unless_they_are_asked_for(example):
    binary = binarize(WithHead(), "bnn", example=example)
    assert summary(binary).binarized == ("backbone.2", "backbone.4", "predictors.0")
    assert reasons(binary)["predictor.2"] == "in 'predictor', one of the model's heads"
    assert [type(layer) for layer in binary.predictor] == [type(layer) for layer in WithHead().predictor]
    assert isinstance(binary.predictors[1], nn.Hardtanh)
    whole = binarize(WithHead(), "bnn", example=example, heads=True)
    assert summary(whole).full_precision == ("backbone.0", "predictors.2")
    assert isinstance(whole.predictor[1], nn.Hardtanh)
    usual = default_filter(WithHead(), example, heads=True)
    assert usual("predictor.2", whole.predictor[2])
    assert not default_filter(WithHead(), example)("predictor.2", whole.predictor[2])


def test_shortcuts_by_flow_and_by_name():
    binary = binarize(Skip(), "bnn", example=EXAMPLE)
    assert reasons(binary)["match"] == "1x1 projection shortcut"
    assert "match" in summary(binarize(Skip(), "bnn")).binarized  # without an example, only names can tell
    assert "match" in summary(binarize(Skip(), "bnn", example=EXAMPLE, shortcuts=True)).binarized
    named = nn.Sequential(linears(2), nn.ModuleDict({"shortcut": nn.Sequential(nn.Conv2d(2, 2, 1))}), linears(2))
    assert reasons(binarize(named, "bnn"))["1.shortcut.0"] == "1x1 projection shortcut"


def test_modules_registered_twice():
    net = linears(4)
    shared = nn.Sequential(net, net, nn.ModuleDict({"again": net[2], "own": nn.Linear(8, 8), "tail": nn.Linear(8, 8)}))
    binary = binarize(shared, "bnn")
    assert binary[0] is binary[1]
    assert isinstance(binary[0][2], BinaryLinear)
    assert binary[2]["again"] is binary[0][2]
    assert summary(binary).binarized == ("0.2", "0.4", "0.6", "2.own")


def test_a_layer_that_runs_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            return self.c(self.b(self.b(self.a(self.a(x)))))

    assert summary(binarize(Twice(), "recu", example=torch.randn(2, 8))).binarized == ("b",)


def test_tied_weights_stay_tied():
    net = linears(4)
    net[4].weight = net[2].weight
    for inplace in (False, True):
        binary = binarize(net, "dorefa", inplace=inplace)
        assert binary[2].weight is binary[4].weight
        assert isinstance(binary[2], BinaryLinear)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


def test_functional_relu_is_told():
    binary = binarize(Functional(), "bnn", example=torch.randn(16, 8))
    assert summary(binary).never_negative == ("b",)
    text = str(summary(binary))
    assert "[! input never negative: every sign is +1]" in text
    assert "b was never negative on the example, for instance behind a functional ReLU, a sigmoid or a max-pool" in text
    assert "or by chance on this example" in text
    assert "replace it by torch.nn.Hardtanh in the model's code" in text
    assert summary(binarize(Functional(), "bnn")).never_negative == ()
    assert summary(binarize(Functional(), "pact", example=torch.randn(16, 8))).never_negative == ()


def test_a_constant_operand_is_told():
    x = torch.randn(64, 8)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))
    told = summary(binarize(net, "pact", example=x))  # its threshold is 1.5, above all that tanh gives
    assert (told.constant, told.never_negative) == (("2",), ())
    assert "[! binarized input constant]" in str(told)
    assert "The binarized input of 2 was constant on the example" in str(told)
    assert summary(binarize(net, "bnn", example=x)).constant == ()
    both = summary(binarize(Functional(), "bnn", example=x))
    assert both.constant == both.never_negative == ("b",)
    assert "constant" not in str(both), "said once"


def test_layers_without_a_binarized_counterpart_are_told():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.body, self.lstm = nn.Embedding(10, 8), linears(3), nn.LSTM(8, 8)
            self.up, self.attention = nn.ConvTranspose1d(2, 3, 4), nn.MultiheadAttention(8, 2)
            self.token = nn.Parameter(torch.zeros(1, 8))
            parametrizations.weight_norm(self.body[0])
            self.body[4].weight = nn.Parameter(torch.zeros(8, 8))
            self.tied = nn.Embedding(8, 8)
            self.tied.weight = self.body[4].weight

    net = Net()
    for told in (summary(net), summary(binarize(net, "recu", filter=lambda name, layer: name == "body.2"))):
        others = {layer.name: layer.weights for layer in told if layer.reason == "no binarized counterpart"}
        assert others == {"": 8, "embedding": 80, "lstm": 512, "up": 24, "attention": 192, "tied": 0}
        assert {layer.decision for layer in told if layer.name in others} == {"full precision"}
        assert not set(told.full_precision) & set(others)
    total = 8 + 80 + 512 + 24 + 192 + 4 * 64
    assert f"1 of 4 convolutions and linear layers binarized: 64 of {total:,} weights" in str(told)
    assert len(summary(BinaryLinear(70, 2, algorithm="fda"))) == 1, "its parts are no layers"


def test_lazy_layers():
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.LazyLinear(8), nn.Linear(8, 8))
    binary = binarize(net, "bnn")
    assert reasons(binary)["4"] == "lazy: run the model once first"
    assert summary(binary).binarized == ("2",)
    assert binary(torch.randn(2, 3)).shape == (2, 8)
    net(torch.randn(2, 3))
    assert summary(binarize(net, "bnn")).binarized == ("2", "4")
    assert "weights" in str(summary(binary))


def test_parametrized_weights_are_left():
    net = linears(5)
    parametrizations.weight_norm(net[2])
    parametrizations.spectral_norm(net[4])
    binary = binarize(net, "bnn")
    assert summary(binary).binarized == ("6",)
    assert reasons(binary)["2"] == reasons(binary)["4"] == "its weight is computed from other parameters (parametrized)"
    assert binary(torch.randn(2, 8)).shape == (2, 8)


@pytest.mark.parametrize("kind", ["forward", "forward pre", "backward"])
def test_layers_with_hooks_are_left(kind):
    net = linears(4)
    if kind == "forward":
        net[2].register_forward_hook(lambda *args: None)
    elif kind == "forward pre":
        net[2].register_forward_pre_hook(lambda *args: None)
    else:
        net[2].register_full_backward_hook(lambda *args: None)
    binary = binarize(net, "bnn")
    assert reasons(binary)["2"] == "has hooks, which a replacement would lose"
    assert summary(binary).binarized == ("4",)


def test_subclasses():
    class Own(nn.Linear):
        def forward(self, input):
            return super().forward(input) + 1

    class OwnConv(nn.Conv2d):
        def _conv_forward(self, input, weight, bias):
            return super()._conv_forward(input, 2 * weight, bias)

    class Same(nn.Linear):
        """Only a name."""

    net = nn.Sequential(nn.Linear(8, 8), Own(8, 8), Same(8, 8), OwnConv(8, 8, 1), nn.Linear(8, 8))
    binary = binarize(net, "bnn")
    assert reasons(binary)["1"] == "a Linear with a forward of its own"
    assert reasons(binary)["3"] == "a Conv2d with a forward of its own"
    assert summary(binary).binarized == ("2",)


def test_multihead_attention():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.attention = nn.Linear(8, 8), nn.MultiheadAttention(8, 2, batch_first=True)
            self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = self.stem(x)
            return self.head(self.body(self.attention(x, x, x)[0]))

    for example in (None, torch.randn(2, 3, 8)):
        binary = binarize(Net(), "bnn", example=example)
        assert summary(binary).binarized == ("body",)
        assert type(binary.attention) is nn.MultiheadAttention
        kept = reasons(binary)["attention.out_proj"]
        assert kept == "torch.nn.MultiheadAttention uses its weight without calling it"
    net = nn.Sequential(*linears(3), nn.MultiheadAttention(8, 2))
    chosen = binarize(net, "bnn", filter=lambda name, layer: True)  # a filter can't override it either
    assert summary(chosen).full_precision == ("5.out_proj",)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_encoders_fast_path_does_not_bypass_binarized_layers(activation, depth):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=activation, batch_first=True)
    net = nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoder(layer, depth), nn.Linear(8, 8))
    x = torch.randn(2, 5, 8)
    for example in (None, x):
        binary = binarize(net, "bireal", example=example)
        assert len(summary(binary).binarized) == 2 * depth
        trained = binary.train()(x)
        binary.eval()
        with torch.no_grad():
            torch.testing.assert_close(binary(x), trained)
        with torch.inference_mode():
            torch.testing.assert_close(binary(x), trained)


def test_padding_mask_of_an_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1)
    binary = binarize(encoder, "bnn", filter=lambda name, module: "linear" in name).eval()
    x, mask = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        fast = binary(x, src_key_padding_mask=mask)
    torch.testing.assert_close(fast[~mask], binary.train()(x, src_key_padding_mask=mask)[~mask])


def test_a_single_layer_is_first_and_last():
    for example in (None, torch.randn(2, 4)):
        with pytest.raises(BinarizeError, match=r"\(model\) \(Linear\): first and last layer"):
            binarize(nn.Linear(4, 4), "bnn", example=example)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_single_layer_by_filter(inplace):
    linear = nn.Linear(4, 4)
    binary = binarize(linear, "bnn", filter=lambda name, layer: True, inplace=inplace)
    assert isinstance(binary, BinaryLinear)
    assert (binary.weight is linear.weight) == (binary.bias is linear.bias) == inplace
    assert type(linear) is nn.Linear
    assert summary(binary).binarized == ("",)
    assert "(model)" in str(summary(binary))


# Activation functions


def test_relu_is_replaced_only_around_binarized_layers():
    net = nn.Sequential(linears(2), nn.ReLU(), nn.Sequential(linears(3), nn.ReLU6(), nn.GELU(), nn.PReLU()), linears(2))
    binary = binarize(net, "bnn", filter=lambda name, layer: name.startswith("2."))
    kinds = {name: type(module) for name, module in binary.named_modules()}
    assert kinds["0.1"] is kinds["1"] is kinds["3.1"] is nn.ReLU
    assert kinds["2.0.1"] is kinds["2.0.3"] is nn.Hardtanh
    assert kinds["2.1"] is nn.ReLU6, "outside the smallest part that holds all binarized layers"
    wider = binarize(net, "bnn", filter=lambda name, layer: name.startswith(("2.", "3.0")))
    kinds = {name: type(module) for name, module in wider.named_modules()}
    assert kinds["1"] is kinds["2.1"] is nn.Hardtanh
    assert kinds["2.2"] is nn.GELU
    assert kinds["2.3"] is nn.PReLU


def test_the_smallest_part_is_not_a_prefix_of_letters():
    net = nn.ModuleDict({"a": linears(2), "ab": linears(2)})
    binary = binarize(net, "bnn", filter=lambda name, layer: name.startswith("a."))
    assert isinstance(binary["a"][1], nn.Hardtanh)
    assert isinstance(binary["ab"][1], nn.ReLU)


def test_pact_keeps_relu():
    binary = binarize(linears(4), "pact")
    assert [type(module) for module in binary] == [
        nn.Linear,
        nn.ReLU,
        BinaryLinear,
        nn.ReLU,
        BinaryLinear,
        nn.ReLU,
        nn.Linear,
    ]
    assert not any(layer.decision == "replaced" for layer in summary(binary))


def test_hardtanh_keeps_what_relu_was():
    binary = binarize(linears(4), "bnn")
    assert (binary[1].min_val, binary[1].max_val) == (-1, 1)
    told = {layer.name: (layer.kind, layer.reason) for layer in summary(binary) if layer.decision == "replaced"}
    assert told == dict.fromkeys(("1", "3", "5"), ("ReLU", "became Hardtanh, so that signs differ"))


# Filters


def test_filter_replaces_the_default():
    seen = []

    def choose(name, layer):
        seen.append((name, type(layer)))
        return name in ("0", "6")

    binary = binarize(linears(4), "bnn", filter=choose, example=torch.randn(2, 8))
    assert summary(binary).binarized == ("0", "6")
    assert seen == [(name, nn.Linear) for name in ("0", "2", "4", "6")]
    assert reasons(binary) == dict.fromkeys(("2", "4"), "left out by the filter")
    assert "BNN, chosen by the filter" in {layer.reason for layer in summary(binary)}


def test_default_filter():
    model = Skip()
    usual = default_filter(model, EXAMPLE)
    chosen = binarize(model, "bnn", filter=usual)
    assert summary(chosen).binarized == summary(binarize(model, "bnn", example=EXAMPLE)).binarized
    assert default_filter(model)("match", model.match)
    assert not usual("match", model.match)
    assert default_filter(model, EXAMPLE, shortcuts=True)("match", model.match)
    assert not usual("no.such.layer", model.match)


def test_layers_that_do_not_run():
    net = Functional()
    net.unused = nn.Linear(8, 8)
    binary = binarize(net, "bnn", example=torch.randn(2, 8))
    assert reasons(binary)["unused"] == "not run on the example"
    net.forward = lambda x: net.c(net.b(net.a(nn.functional.linear(x, net.unused.weight))))
    for choose in (None, lambda name, layer: name in ("b", "unused")):
        binary = binarize(net, "bnn", example=torch.randn(2, 8), filter=choose, inplace=True)
        assert summary(binary).binarized == ("b",)
        net.b = nn.Linear(8, 8)
    assert reasons(binary)["unused"] == "not run on the example"


# In place or not


def test_a_copy_shares_nothing():
    net = linears(4)
    before = copy.deepcopy(net.state_dict())
    binary = binarize(net, "recu")
    assert [type(module) for module in net] == [nn.Linear, nn.ReLU] * 3 + [nn.Linear]
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in binary.parameters()}
    assert all(torch.equal(value, binary.state_dict()[name]) for name, value in before.items())
    assert len(summary(net).binarized) == 0


def test_in_place_shares_everything():
    net = linears(4)
    parameters = dict(net.named_parameters())
    binary = binarize(net, "recu", inplace=True)
    assert binary is net
    assert isinstance(net[2], BinaryLinear)
    assert all(dict(net.named_parameters())[name] is p for name, p in parameters.items())
    assert summary(net).binarized == ("2", "4")


@pytest.mark.parametrize(
    ("algorithm", "how"),
    [
        ("xnorpp", {}),
        ("recu", {"filter": lambda name, layer: True}),  # a filter of one weight, after others that are fine
        ("bnn", {"example": torch.randn(2, 5)}),
        ("bnn", {"filter": lambda name, layer: False}),
        ("nothing", {}),
        ("bnn", {"padding_value": 3}),
    ],
)
def test_a_refusal_leaves_the_model_unchanged(algorithm, how):
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=4))
    net.eval()
    text, state = repr(net), {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises((ValueError, RuntimeError)):
        binarize(net, algorithm, inplace=True, **how)
    assert repr(net) == text
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(module.training or module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(layer.reason == "not binarized" for layer in summary(net))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("algorithm", ["fda", "pact", "recu"])
def test_modes_stay(training, algorithm):
    net = torchvision.models.resnet18(num_classes=2).train(training)
    net.layer1.train(not training)
    for example in (None, EXAMPLE):
        binary = binarize(net, algorithm, example=example)
        assert all(module.training != training for module in binary.layer1.modules())
        assert all(module.training == training for module in binary.layer2.modules())
        assert binary.training == training


def test_an_example_changes_no_statistics_and_no_random_numbers():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    before = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    binary = binarize(net, "bnn", example=EXAMPLE, inplace=True)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, binary.state_dict()[name]) for name, value in before.items())
    assert all(p.grad is None for p in binary.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("algorithm", ["bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda", "pact"])
def test_dtypes(dtype, algorithm):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).to(dtype)
    x = EXAMPLE[:, :, :8, :8].to(dtype)
    binary = binarize(net, algorithm, example=x)
    assert {p.dtype for p in binary.parameters()} == {dtype}
    set_progress(binary, 1, 3)
    y = binary(x)
    assert y.dtype == dtype
    assert y.isfinite().all()
    y.mean().backward()
    assert all(p.grad.isfinite().all() for p in binary.parameters())


def test_frozen_weights_stay_frozen():
    net = linears(4)
    net[2].requires_grad_(False)
    assert not binarize(net, "dorefa")[2].weight.requires_grad


# Algorithms and options


def test_ways_to_give_an_algorithm():
    for algorithm in ("dorefa", dorefa, dorefa(granularity="layer"), lambda: dorefa(scale_in_gradient=False)):
        assert binarize(linears(3), algorithm)[2].algorithm == "dorefa"
    assert binarize(linears(3), dorefa(granularity="layer"))[2].scale.granularity == "layer"


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("reactnett", r"unknown algorithm 'reactnett'; did you mean 'reactnet'\?"),
        ("fp32", r"'fp32' is full precision: there is nothing to binarize"),
        (nn.Identity, r"returned Identity, expected bibench.algorithms.Algorithm"),
    ],
)
def test_unusable_algorithms(algorithm, message):
    with pytest.raises(ValueError, match=message):
        binarize(linears(3), algorithm)


def test_nothing_to_binarize():
    with pytest.raises(
        BinarizeError, match=r"nothing to binarize in ReLU: it has no torch.nn.Conv1d, Conv2d, Conv3d or Linear"
    ):
        binarize(nn.ReLU(), "bnn")
    with pytest.raises(BinarizeError) as caught:
        binarize(linears(2), "bnn")
    assert str(caught.value).splitlines() == [
        "nothing to binarize in Sequential: every layer stays in full precision; choose some with filter=",
        "  0 (Linear): first layer in registration order",
        "  2 (Linear): last layer in registration order",
    ]
    with pytest.raises(BinarizeError, match="and 5 more"):
        binarize(linears(15), "bnn", filter=lambda name, layer: False)


def test_unusable_arguments():
    for algorithm in (3, None):
        with pytest.raises(AlgorithmError, match=f"algorithm {algorithm} is of type .*, expected a name, a bibench"):
            binarize(linears(3), algorithm)
    for algorithm in ("fp32", nn.Identity, lambda: dorefa(granularity="x"), lambda wrong: dorefa()):
        with pytest.raises(AlgorithmError):
            binarize(linears(3), algorithm)
    with pytest.raises(UnknownName):
        binarize(linears(3), lambda: bibench.nn.resolve("reactnett"))
    with pytest.raises(BinarizeError, match=r"filter=\['0'\]: expected a function"):
        binarize(linears(3), "bnn", filter=["0"])
    with pytest.raises(BinarizeError, match=r"the model is of type dict, expected torch.nn.Module"):
        binarize({}, "bnn")
    with pytest.raises(BinarizeError, match=r"padding_value=3: expected -1, 0 or 1"):
        binarize(linears(3), "bnn", padding_value=3)


def test_unusable_examples():
    with pytest.raises(
        BinarizeError, match=r"doesn't run on the example: .*mat1 and mat2 .* a mapping of keyword"
    ) as caught:
        binarize(linears(3), "bnn", example=torch.randn(2, 7))
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(BinarizeError, match=r"the example is a str; give example= what the model takes: a tensor"):
        binarize(linears(3), "bnn", example="x")


def test_padding_value_reaches_the_layers():
    net = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)))
    binary = binarize(net, "bnn", padding_value=-1)
    assert binary[1].padding_value == -1
    assert binarize(net, "bnn")[1].padding_value == 0
    assert not torch.equal(binary(EXAMPLE), binarize(net, "bnn")(EXAMPLE))


def test_geometry_survives():
    conv = nn.Conv2d(
        4, 8, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, bias=False, padding_mode="circular"
    )
    net = nn.Sequential(nn.Conv2d(3, 4, 3), conv, nn.Conv2d(8, 2, 1))
    binary = binarize(net, "bnn")
    assert binary(EXAMPLE).shape == net(EXAMPLE).shape
    for name in (
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
        "in_channels",
        "out_channels",
        "kernel_size",
    ):
        assert getattr(binary[1], name) == getattr(conv, name)
    assert binary[1].bias is None
    parameters = list(inspect.signature(nn.Conv2d).parameters)[:9]
    assert list(inspect.signature(BinaryConv2d).parameters)[:9] == parameters


class TestXnorpp:
    def net(self):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1))

    def test_needs_an_example(self):
        with pytest.raises(BinarizeError, match=r"layer '1' \(Conv2d\): xnorpp .* give binarize\(..., example=x\)"):
            binarize(self.net(), "xnorpp")
        assert summary(binarize(linears(3), "xnorpp")).binarized == ("2",)  # no positions, nothing to know

    def test_takes_its_sizes_from_it(self):
        binary = binarize(self.net(), "xnorpp", example=torch.randn(1, 3, 32, 24))
        assert [len(vector) for vector in binary[1].scale.positions] == [14, 10]
        assert [len(vector) for vector in binary[2].scale.positions] == [12, 8]

    def test_smaller_inputs_use_the_beginning(self):
        binary = binarize(self.net(), "xnorpp", example=torch.randn(1, 3, 32, 24))
        for vector in binary[1].scale.positions:
            vector.data[5:] = float("nan")
        assert binary[1](torch.randn(1, 4, 11, 11)).isfinite().all()
        assert binary(torch.randn(2, 3, 13, 13)).isfinite().all()

    def test_larger_inputs_are_refused(self):
        binary = binarize(self.net(), "xnorpp", example=torch.randn(1, 3, 32, 24))
        with pytest.raises(ValueError, match=r"xnorpp: the output is \(14, 14\), larger than the \(14, 10\)"):
            binary(torch.randn(1, 3, 32, 32))

    def test_a_layer_that_did_not_run(self):
        net = self.net()
        net.extra = nn.Conv2d(2, 2, 1)
        net.forward = lambda x: net[3](net[2](net[1](net[0](x))))
        binary = binarize(net, "xnorpp", example=EXAMPLE, filter=lambda name, layer: True, inplace=True)
        assert reasons(binary) == {"extra": "not run on the example"}


# Twice


def test_two_algorithms_in_one_model():
    net = linears(5)
    once = binarize(net, "recu", filter=lambda name, layer: name == "2")
    twice = binarize(once, "fda", filter=lambda name, layer: name in ("2", "4"))
    assert [twice[i].algorithm for i in (2, 4)] == ["recu", "fda"]
    told = summary(twice)
    assert told.binarized == ("2", "4")
    assert told.full_precision == ("0", "6", "8")
    assert [layer.reason for layer in told if layer.name == "2"] == ["already binarized by recu"]
    assert twice(torch.randn(2, 8)).isfinite().all()


def test_nothing_is_left_to_binarize():
    once = binarize(linears(4), "recu")
    with pytest.raises(
        BinarizeError, match=r"nothing more to binarize in Sequential: the other(.|\n)*already binarized by"
    ):
        binarize(once, "bnn")
    with pytest.raises(
        BinarizeError, match="nothing more to binarize in BinaryLinear: every layer is binarized already"
    ):
        binarize(once[2], "bnn")


# The summary


def test_summary_of_a_small_net_printed():
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, bias=False), nn.Flatten(), nn.Linear(64, 10)
    )
    printed = str(summary(binarize(net, "recu", example=torch.randn(1, 3, 6, 6))))
    assert printed.splitlines() == [
        "layer  kind    weights  precision  reason",
        "-----  ------  -------  ---------  ----------------------------------------",
        "0      Conv2d      432  full       first layer on the example",
        "1      ReLU                        became Hardtanh, so that signs differ",
        "2      Conv2d    2,304  1 bit      ReCU",
        "4      Linear      640  full       last layer on the example",
        "",
        "1 of 3 convolutions and linear layers binarized: 2,304 of 3,376 weights (68.2 %) are 1 bit.",
    ]


def test_summary_of_models_that_were_never_binarized():
    told = summary(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), BinaryLinear(2, 2, algorithm="fda")))
    assert [(layer.name, layer.decision, layer.reason) for layer in told] == [
        ("0", "full precision", "not binarized"),
        ("2", "binarized", "fda"),
    ]
    assert len(summary(nn.ReLU())) == 0
    assert "0 of 0" in str(summary(nn.ReLU()))


def test_summary_travels_with_copies_and_leaves_no_trace_in_files():
    binary = binarize(linears(4), "bnn")
    assert summary(copy.deepcopy(binary)) == summary(binary)
    assert set(binary.state_dict()) == set(linears(4).state_dict())


def test_summary_of_models_that_hold_binarized_ones():
    binary = binarize(linears(4), "bnn")
    inside = [layer.name for layer in summary(binary)]
    whole = nn.Sequential(binary[2], nn.Linear(8, 8), binary)
    told = summary(whole)
    assert [layer.name for layer in told] == ["1", *(f"2.{name}" for name in inside)]
    assert told.binarized == ("2.2", "2.4")
    assert reasons(whole)["1"] == "not binarized"
    assert reasons(whole)["2.0"] == "first layer in registration order"
    assert [layer.name for layer in summary(nn.DataParallel(binary))] == [f"module.{name}" for name in inside]
    compiled = torch.compile(binary)
    assert [layer.name for layer in summary(compiled)] == [f"_orig_mod.{name}" for name in inside]
    net = torch.compile(linears(4))
    assert summary(binarize(net, "bnn", inplace=True)).binarized == ("_orig_mod.2", "_orig_mod.4")


def test_every_layer_is_told_once():
    told = summary(binarize(torchvision.models.resnet18(), "bnn"))
    names = [layer.name for layer in told if layer.decision != "replaced"]
    assert len(names) == len(set(names)) == 21
    assert set(names) == set(told.binarized) | set(told.full_precision)


def test_public_names():
    assert bibench.binarize is binarize
    assert bibench.nn.BinaryMatmul is BinaryMatmul
    assert list(inspect.signature(binarize).parameters)[:5] == ["model", "algorithm", "filter", "example", "inplace"]


class _Softmax(nn.Module):
    """An activation that names its own counterpart, which holds a layer of the module that it replaces."""

    def __init__(self, refuse=False):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.refuse = refuse

    def forward(self, x):
        return self.inner(x).softmax(-1)

    def binarized_counterpart(self, algorithm):
        if self.refuse:
            raise ValueError("not with this algorithm")
        return nn.Sequential(self.inner, nn.Hardtanh())


def test_a_module_can_name_its_counterpart():
    model = nn.Sequential(nn.Linear(8, 8), _Softmax(), nn.Linear(8, 8), nn.Linear(8, 2)).eval()
    binary = bibench.binarize(model, "bnn")
    assert isinstance(binary[1], nn.Sequential)
    assert isinstance(binary[1][0], BinaryLinear)  # the layer inside is binarized as well
    assert not binary[1].training
    decisions = {layer.name: layer for layer in bibench.summary(binary)}
    assert decisions["1"].decision == "replaced"
    assert decisions["1.0"].decision == "binarized"
    assert "Sequential" in decisions["1"].reason
    assert isinstance(model[1], _Softmax)


def test_a_counterpart_that_refuses_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(8, 8), _Softmax(refuse=True), nn.Linear(8, 8), nn.Linear(8, 2))
    with pytest.raises(bibench.nn.BinarizeError, match=r"module '1' .*not with this algorithm"):
        bibench.binarize(model, "bnn", inplace=True)
    assert not any(isinstance(module, BinaryLinear) for module in model.modules())
