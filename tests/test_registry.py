import pytest

from bibench import registry
from bibench.algorithms import Algorithm


def test_names_of_algorithms():
    expected = ["bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda", "pact"]
    assert registry.names("algorithms")[:9] == expected


@pytest.mark.parametrize("kind", registry.KINDS)
def test_everything_listed_can_be_had_and_knows_its_name(kind):
    for name in registry.names(kind):
        found = registry.get(kind, name)
        found = found() if kind == "algorithms" else found
        assert found.name == name


def test_algorithms_are_functions_of_their_options():
    assert isinstance(registry.get("algorithms", "recu")(quantile="empirical"), Algorithm)


def test_kinds():
    assert registry.KINDS == ("algorithms", "architectures", "tasks", "tracks")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("algorithms", "reactnett", r"unknown algorithm 'reactnett'; did you mean 'reactnet'\? \(known: bnn, xnor, "),
        ("algorithms", "ReCU", r"unknown algorithm 'ReCU'; did you mean 'recu'\?"),
        ("architectures", "resnet-20", r"unknown architecture 'resnet-20'; did you mean 'resnet20'\?"),
        ("tasks", "cifar", r"unknown task 'cifar'; did you mean 'cifar10'\?"),
        ("tracks", "learning_tasks", r"unknown track 'learning_tasks'; did you mean 'learning_task'\?"),
        ("tasks", "qqqqqqqqq", r"unknown task 'qqqqqqqqq' \(known: "),
    ],
)
def test_unknown_names(kind, name, message):
    with pytest.raises(registry.UnknownName, match=message):
        registry.get(kind, name)


def test_did_you_mean():
    assert registry.did_you_mean("bmn", ["bnn", "fda"]) == "; did you mean 'bnn'?"
    assert registry.did_you_mean("something else", ["bnn", "fda"]) == ""
    assert registry.did_you_mean("bnn", []) == ""


def test_origin_of_built_in_names():
    assert registry.origin("algorithms", "bnn") == "bibench"
