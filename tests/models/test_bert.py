"""BERT: the same function and names as Hugging Face's, pretrained weights, what of it is binarized, and how it
packs."""

import numpy as np
import pytest
import torch
from torch import nn

import bibench
from bibench import registry
from bibench.deploy.compare import compare
from bibench.deploy.export import pack
from bibench.models.bert import Attention, Bert, bert_base, bert_tiny4, bert_tiny6
from bibench.nn.attention import BiAttention
from bibench.nn.layers import BinaryLinear
from bibench.tasks.classification import loss
from needed_tools import ENGINE
from packed_reference import run

ALGORITHMS = ("bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda", "pact")
SMALL = {"width": 24, "layers": 2, "heads": 2, "inner": 48, "vocabulary": 100, "positions": 32}


def _tokens(count=4, length=9):
    """Sentences of two halves, the second one with padding."""
    generator = torch.Generator().manual_seed(2)
    words = torch.randint(1, 100, (count, length), generator=generator)
    segments = (torch.arange(length) >= 4).long().expand(count, -1).clone()
    present = torch.ones_like(words)
    words[1, 6:], segments[1, 6:], present[1, 6:] = 0, 0, 0
    return torch.stack((words, segments, present), dim=1)


def _hugging_face(outputs=3, **more):
    import transformers

    config = transformers.BertConfig(
        vocab_size=100,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
        num_labels=outputs,
        **more,
    )
    model = transformers.BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # so that every one of them matters
    return model.eval()


def test_it_is_hugging_face_s_function_with_the_same_names():
    theirs = _hugging_face()
    ours = Bert(3, **SMALL).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    tokens = _tokens()
    words, segments, present = tokens.unbind(1)
    with torch.no_grad():
        expected = theirs(input_ids=words, token_type_ids=segments, attention_mask=present).logits
        torch.testing.assert_close(ours(tokens), expected, rtol=1e-5, atol=1e-5)


def test_initialisation_is_that_of_hugging_face():
    torch.manual_seed(0)
    model = bert_tiny4.build((3, 64), 2)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)) and module.weight.numel() > 1_000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
        if isinstance(module, nn.Linear):
            assert not module.bias.any()
    assert not model.bert.embeddings.word_embeddings.weight[0].any()


@pytest.mark.parametrize(
    ("architecture", "layers", "width", "inner"),
    [(bert_tiny4, 4, 312, 1200), (bert_tiny6, 6, 768, 3072), (bert_base, 12, 768, 3072)],
)
def test_sizes(architecture, layers, width, inner):
    assert registry.get("architectures", architecture.name) is architecture
    with torch.device("meta"):
        model = architecture.build((3, 128), 3)
    embeddings = (30_522 + 512 + 2 + 2) * width
    layer = 4 * (width + 1) * width + 2 * 2 * width + (width + 1) * inner + (inner + 1) * width
    parameters = embeddings + layers * layer + (width + 1) * width + (width + 1) * 3
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert {module.features for module in model.modules() if isinstance(module, Attention)} == {width // 12}


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("old_norms", [False, True])
def test_pretrained_weights_load_by_name(prefix, old_norms):
    theirs = _hugging_face()
    tensors = {f"{prefix}{name}": value for name, value in theirs.bert.state_dict().items()}
    if old_norms:
        tensors = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in tensors.items()
        }
    tensors |= {"cls.predictions.bias": torch.zeros(100), f"{prefix}embeddings.position_ids": torch.arange(32)[None]}
    model = Bert(2, **SMALL)
    head = model.classifier.weight.clone()
    model.load_pretrained(tensors)
    assert torch.equal(model.classifier.weight, head)
    for name, value in theirs.bert.state_dict().items():
        assert torch.equal(model.bert.state_dict()[name], value)


@pytest.mark.parametrize("end", ["gamma", "beta"])
def test_a_norm_under_both_names_is_refused(end):
    model = Bert(2, **SMALL)
    tensors = model.state_dict() | {f"bert.embeddings.LayerNorm.{end}": torch.zeros(24)}
    assert model.own_names(tensors) == tensors
    with pytest.raises(ValueError, match=rf"not in the network: embeddings\.LayerNorm\.{end}"):
        model.load_pretrained(tensors)


def test_a_file_without_pooler_leaves_it_as_it_is():
    tensors = {name: value for name, value in Bert(2, **SMALL).bert.state_dict().items() if "pooler" not in name}
    model = Bert(2, **SMALL)
    before = model.bert.pooler["dense"].weight.clone()
    model.load_pretrained(tensors)
    assert torch.equal(model.bert.pooler["dense"].weight, before)


def test_pretrained_weights_that_do_not_fit_are_refused():
    model = Bert(2, **SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = Bert(2, **SMALL | {"vocabulary": 90}).bert.state_dict()
    with pytest.raises(ValueError, match=r"vocabulary of 90 word pieces, the tokenizer and the network have 100"):
        model.load_pretrained(tensors)
    with pytest.raises(ValueError, match=r"not in the network: encoder\.layer\.2\.attention"):
        model.load_pretrained(Bert(2, **SMALL | {"layers": 3}).bert.state_dict())
    with pytest.raises(ValueError, match=r"missing: encoder\.layer\.1\.attention"):
        model.load_pretrained(Bert(2, **SMALL | {"layers": 1}).bert.state_dict())
    with pytest.raises(ValueError, match=r"intermediate\.dense\.weight is \(40, 24\), expected \(48, 24\)"):
        model.load_pretrained(Bert(2, **SMALL | {"inner": 40}).bert.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_padding_changes_nothing():
    model = Bert(2, **SMALL).eval()
    short = _tokens(length=9)
    padded = torch.cat((short, torch.zeros(4, 3, 7, dtype=torch.int64)), dim=2)
    for network in (model, bibench.binarize(model, "reactnet", example=short).eval()):
        with torch.no_grad():
            torch.testing.assert_close(network(short), network(padded), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_binarizes_it_and_takes_a_step(algorithm):
    model = Bert(2, **SMALL)
    for name, parameter in model.named_parameters():
        if "dense.weight" in name or "self" in name:
            nn.init.normal_(parameter, std=0.4)  # else all of PACT's operands would be 0, and its gradients
    tokens, labels = _tokens(), torch.tensor([0, 1, 1, 0])
    binary = bibench.binarize(model, algorithm, example=tokens).train()
    bibench.set_progress(binary, 0, 2)
    optimizer = torch.optim.Adam(binary.parameters(), lr=1e-2)
    before = {name: parameter.detach().clone() for name, parameter in binary.named_parameters()}
    loss(binary, (tokens, labels)).backward()
    optimizer.step()
    changed = {name for name, parameter in binary.named_parameters() if not torch.equal(parameter, before[name])}
    for part in ("query", "key", "value"):
        assert f"bert.encoder.layer.1.attention.self.{part}.weight" in changed
    binary.eval()
    with torch.no_grad():
        assert binary(tokens).shape == (4, 2)
        for layer in binary.modules():
            if isinstance(layer, BinaryLinear):
                assert layer.binary_weight().abs().unique().tolist() == [1]


def test_what_is_binarized():
    binary = bibench.binarize(Bert(2, **SMALL), "bnn", example=_tokens())
    summary = bibench.summary(binary)
    assert summary.full_precision == ("bert.encoder.layer.0.attention.self.query", "classifier")
    assert len(summary.binarized) == 12
    assert "bert.pooler.dense" in summary.binarized
    kinds = [type(module) for module in binary.modules()]
    assert (kinds.count(BiAttention), kinds.count(Attention), kinds.count(nn.GELU)) == (2, 0, 2)
    assert binary.bert.encoder["layer"][0].attention["self"].attention.dropout.p == 0.1


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "fp32"])
def test_it_packs_and_agrees_with_pytorch(algorithm):
    torch.manual_seed(4)
    model = Bert(3, **SMALL).eval()
    tokens = _tokens()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if "LayerNorm.weight" not in name else 0.1))
            if "LayerNorm.weight" in name:
                parameter.add_(1)
    if algorithm != "fp32":
        model = bibench.binarize(model, algorithm, example=tokens).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("threshold"):
                nn.init.normal_(parameter, std=0.3)
    program = pack(model, tokens)
    codes = [operation.code.name for operation in program.operations]
    assert codes.count("BMATMUL") == (0 if algorithm == "fp32" else 4)
    with torch.no_grad():
        expected = model(tokens).numpy()
    # Without a scale, sums are far from 0, and GELU of -12 is -0 in float32, which counts as +1; the engine does as
    # PyTorch does, and the independent interpreter, in float64, finds a negative number.
    independent = algorithm not in ("bnn", "xnorpp", "recu")
    for sample, outputs in zip(tokens if independent else [], expected if independent else [], strict=True):
        np.testing.assert_allclose(run(program.to_bytes(), [sample.numpy()])[0], outputs, rtol=1e-4, atol=1e-4)
    if ENGINE:
        found = compare(model, program, tokens)
        assert found.same_top1 == found.samples == 4
        assert found.differing == 0


@pytest.mark.parametrize("ge", [False, True])
def test_scores_of_0_are_attended_to_where_asked_for(ge):
    binary = bibench.binarize(Bert(2, **SMALL, ge=ge), "bnn", example=_tokens())
    attentions = [module for module in binary.modules() if isinstance(module, BiAttention)]
    assert [attention.context.left_rule.ge for attention in attentions] == [ge, ge]


def test_unusable_sizes_are_explained():
    with pytest.raises(ValueError, match=r"bert_tiny4 takes three rows .* got input_shape=\(3, 32, 32\)"):
        bert_tiny4.build((3, 32, 32), 10)
    with pytest.raises(ValueError, match="up to 512 tokens"):
        bert_tiny4.build((3, 513), 10)
    with pytest.raises(ValueError, match=r"outputs=\(2, 3\)"):
        bert_tiny4.build((3, 64), (2, 3))
    with pytest.raises(ValueError, match="that the heads divide"):
        Bert(2, **SMALL | {"heads": 5})
