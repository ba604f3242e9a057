"""Detectors: what they give, what of them is binarized, and where their backbones start."""

import math

import pytest
import torch
from torch import nn
from torchvision import models

import bibench
from bibench.deploy.compare import compare
from bibench.models.detection import FrozenBatchNorm2d, faster_rcnn, faster_rcnn_fpn, ssd300, ssd300_bn
from bibench.nn import BinaryConv2d
from bibench.tasks.detection import example, loss, made_up
from bibench.training.checkpoint import holds_pretrained, load_pretrained, load_weights, save_weights

SHAPE = (3, 96, 160)
ALL = {one.name: one for one in (faster_rcnn, faster_rcnn_fpn, ssd300, ssd300_bn)}
RESNET = [f"layer{stage}.{block}.conv{number}" for stage in (1, 2, 3, 4) for block in (0, 1) for number in (1, 2)]


def built(name):
    torch.manual_seed(0)
    return ALL[name].build(SHAPE, 4)


def binarized(name, algorithm="bnn", **options):
    return bibench.binarize(built(name), algorithm, example=example(SHAPE[2]), inplace=True, **options)


@pytest.mark.parametrize("name", ALL)
def test_losses_in_training_and_objects_in_evaluation(name):
    model = built(name)
    found = loss(model, made_up(2, *SHAPE[1:]))
    assert math.isfinite(found.item())
    assert found.requires_grad
    model.eval()
    images = [torch.rand(3, 1, 1), torch.rand(3, 7, 150), torch.rand(3, 130, 50)]
    with torch.no_grad():
        objects = model(images)
    for image, one in zip(images, objects, strict=True):
        height, width = image.shape[1:]
        assert one["labels"].numel() == 0 or (one["labels"].min() >= 1 and one["labels"].max() <= 4)
        assert (one["boxes"][:, [0, 2]].clamp(0, width) == one["boxes"][:, [0, 2]]).all()
        assert (one["boxes"][:, [1, 3]].clamp(0, height) == one["boxes"][:, [1, 3]]).all()


EXPECTED = {
    "faster_rcnn": [
        f"roi_heads.box_head.{name}" if name.startswith("layer4") else f"backbone.{name}" for name in RESNET
    ],
    "faster_rcnn_fpn": [f"backbone.body.{name}" for name in RESNET],
    # conv1_2 to conv4_3, conv5_1 to conv5_3, then conv6 and conv7
    "ssd300": [f"backbone.features.{n}" for n in (2, 5, 7, 10, 12, 14, 17, 19, 21)]
    + [f"backbone.extra.0.{n}" for n in ("1", "3", "5", "7.1", "7.3")],
    "ssd300_bn": [f"backbone.features.{n}" for n in (3, 7, 10, 14, 17, 20, 24, 27, 30)]
    + [f"backbone.extra.0.{n}" for n in ("1", "4", "7", "10.1", "10.3")],
}


@pytest.mark.parametrize("name", ALL)
def test_the_backbone_is_binarized_and_the_heads_are_as_they_were(name):
    whole, binary = built(name), binarized(name)
    assert sorted(bibench.summary(binary).binarized) == sorted(EXPECTED[name])
    for head in binary.head_names:
        before, after = whole.get_submodule(head), binary.get_submodule(head)
        assert [type(module) for module in after.modules()] == [type(module) for module in before.modules()]
        assert all(row.decision == "full precision" for row in bibench.summary(binary) if row.name.startswith(head))


def test_heads_are_binarized_where_they_are_asked_for():
    binary = binarized("ssd300", heads=True)
    kept = bibench.summary(binary).full_precision
    predictors = [name for name, module in binary.head.named_modules() if isinstance(module, nn.Conv2d)]
    # Each of the 12 predictors has an output of its own, but classes and boxes come out as two tensors.
    assert set(kept) <= {"backbone.features.0"} | {f"head.{name}" for name in predictors}
    assert isinstance(binary.backbone.extra[1][0], BinaryConv2d)
    assert isinstance(binary.backbone.extra[1][1], nn.Hardtanh)


@pytest.mark.parametrize("algorithm", ["bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda", "pact"])
def test_every_algorithm_trains_the_backbone(algorithm):
    model = binarized("faster_rcnn", algorithm).train()
    loss(model, made_up(2, *SHAPE[1:])).backward()
    for name, layer in model.named_modules():
        if isinstance(layer, BinaryConv2d):
            assert layer.weight.grad is not None, name
            assert torch.isfinite(layer.weight.grad).all(), name
    assert any(layer.weight.grad.any() for layer in model.modules() if isinstance(layer, BinaryConv2d))


def test_learned_scales_of_every_position_fit_upright_and_wide_images_together():
    model = binarized("faster_rcnn", "xnorpp").eval()
    short, long = SHAPE[1:]
    with torch.no_grad():
        assert len(model([torch.rand(3, long, short), torch.rand(3, short, long)])) == 2


def test_a_list_of_images_is_scaled_and_one_tensor_is_not():
    transform = built("faster_rcnn").transform.eval()
    images = torch.rand(2, 3, 64, 128)
    scaled, _ = transform(list(images))
    assert scaled.image_sizes == [(80, 160)] * 2  # the longer side is at its most
    taken, _ = transform(images)
    assert taken.image_sizes == [(64, 128)] * 2
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(taken.tensors, (images - mean[:, None, None]) / std[:, None, None])


@pytest.mark.parametrize("name", ["faster_rcnn", "faster_rcnn_fpn"])
def test_a_backbone_computes_what_the_classifier_does_whose_weights_it_takes_over(name, tmp_path):
    torch.manual_seed(1)
    classifier = models.resnet18(num_classes=7)
    randomise(classifier)
    path = tmp_path / "resnet18.safetensors"
    save_weights(path, classifier)
    model = built(name)
    assert holds_pretrained(path, model)
    load_pretrained(path, model)
    images = torch.rand(2, 3, 96, 96)
    seen = {}
    classifier.layer3.register_forward_hook(lambda module, args, output: seen.update(third=output))
    classifier.layer4.register_forward_hook(lambda module, args, output: seen.update(fourth=output))
    with torch.no_grad():
        classifier.eval()(images)
        model.train()  # frozen there too
        if name == "faster_rcnn":
            third = model.backbone(images)
            fourth = model.roi_heads.box_head.layer4(third)
        else:
            found = model.backbone.body(images)
            third, fourth = found["2"], found["3"]
    torch.testing.assert_close(third, seen["third"])
    torch.testing.assert_close(fourth, seen["fourth"])


def randomise(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)


@pytest.mark.parametrize(("name", "batch_norm"), [("ssd300", False), ("ssd300_bn", True)])
def test_ssd_takes_over_the_convolutions_of_vgg16(name, batch_norm, tmp_path):
    torch.manual_seed(1)
    made = models.vgg.make_layers(models.vgg.cfgs["D"], batch_norm=batch_norm)
    randomise(made)
    path = tmp_path / "vgg16.safetensors"
    save_weights(path, nn.ModuleDict({"features": made}))
    model = built(name)
    conv6 = model.backbone.extra[0][-1][1].weight.clone()
    load_pretrained(path, model)
    images = torch.rand(1, 3, 128, 128)  # where rounding up in the third pool makes no difference
    with torch.no_grad():
        model.train()
        found = model.backbone.extra[0][:-1](model.backbone.features(images))
        expected = made.eval()[:-1](images)
    torch.testing.assert_close(found, expected)
    assert torch.equal(model.backbone.extra[0][-1][1].weight, conv6)


def test_batch_norm_is_frozen_in_full_precision_and_trained_when_binarized(tmp_path):
    classifier = models.resnet18(num_classes=7)
    randomise(classifier)
    path = tmp_path / "resnet18.safetensors"
    save_weights(path, classifier)
    model = built("faster_rcnn")
    load_pretrained(path, model)
    frozen = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert len(frozen) == 20  # 16 after binarized convolutions, the stem's, 3 in shortcuts
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss(model.train(), made_up(2, *SHAPE[1:])).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    norms = {name for name in before if ".bn" in name or ".downsample.1" in name}
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in norms)
    assert not torch.equal(model.backbone.layer1[0].conv1.weight, before["backbone.layer1.0.conv1.weight"])

    weights = tmp_path / "detector.safetensors"  # as a binarized run starts from the full-precision run
    save_weights(weights, model)
    fresh = built("faster_rcnn")
    load_weights(weights, fresh)
    for start in (fresh, model):
        binary = bibench.binarize(start, "bnn", example=example(SHAPE[2]))
        kinds = {type(module) for module in binary.modules() if isinstance(module, nn.BatchNorm2d)}
        assert kinds == {nn.BatchNorm2d}
        norm = binary.backbone.layer1[0].bn1
        assert torch.equal(norm.running_mean, before["backbone.layer1.0.bn1.running_mean"])
        loss(binary.train(), made_up(2, *SHAPE[1:])).backward()
        assert norm.weight.grad is not None
        assert not torch.equal(norm.running_mean, before["backbone.layer1.0.bn1.running_mean"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("layer4.1.conv2.weight"),
            r"'layer4.1.conv2.weight' is missing: expected the weights of a Res",
        ),
        (
            lambda t: t.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}),
            r"'conv1.weight' is \(64, 3, 3, 3\), expected",
        ),
    ],
)
def test_weights_that_are_no_backbones_are_refused(change, message):
    tensors = models.resnet18().state_dict()
    change(tensors)
    with pytest.raises(ValueError, match=message):
        built("faster_rcnn").load_pretrained(tensors)


@pytest.mark.parametrize("shape", [(3, 32, 64), (1, 96, 160), (3, 160, 96)])
def test_a_shape_that_no_detector_takes_is_refused(shape):
    with pytest.raises(ValueError, match="takes colour images"):
        faster_rcnn.build(shape, 4)


def test_the_backbone_of_faster_rcnn_packs(tmp_path):
    backbone = binarized("faster_rcnn", "reactnet").backbone.eval()
    randomise(backbone)
    images = torch.rand(2, 3, 96, 160)
    path = tmp_path / "backbone.bibpack"
    bibench.export(backbone, path, to="packed", example=images[:1])
    found = compare(backbone, path, images)
    assert found.differing == 0
    assert found.difference < 1e-4
