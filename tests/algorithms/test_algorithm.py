import pytest

from bibench.algorithms import Algorithm, LayerSpec, MeanScale, Sign, approx_ste, composition
from bibench.nn import resolve

COMPOSITIONS = {
    "bnn": ("sgn(w)", "sgn(a)", "none", "hard / hard"),
    "xnor": ("sgn(w)", "sgn(a)", "m_o · K", "hard / hard"),
    "dorefa": ("sgn(w)", "sgn(a)", "m_o", "hard / hard"),
    "bireal": ("sgn(w)", "sgn(a)", "m_o", "hard / approx"),
    "xnorpp": ("sgn(w)", "sgn(a)", "learned α_c · β_h · γ_w", "hard / hard"),
    "reactnet": ("sgn(w)", "sgn(a - t_c)", "m_o", "hard / approx"),
    "recu": ("sgn(recu(w))", "sgn(a)", "learned α_c", "identity in the clamp / approx of a / std"),
    "fda": (
        "sgn(w), in training + α·η(w)",
        "sgn(a), in training + α·η(a)",
        "m_o",
        "Fourier / Fourier",
    ),
    "pact": ("sgn(w)", "A·1[a > A/2]", "none", "closed hard / 1 on [0, A]"),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_composition(name):
    assert composition(resolve(name)) == COMPOSITIONS[name]
    assert resolve(name).name == name
    assert resolve(name).title
    assert resolve(name).source


def test_composition_of_ones_own():
    mine = Algorithm(
        name="mine",
        weight=lambda layer: Sign(approx_ste),
        activation=lambda layer: Sign(lambda x: x, "none"),
        scale=MeanScale,
    )
    assert composition(mine) == ("sgn(w)", "sgn(a)", "m_o", "approx_ste / none")


def test_only_pact_keeps_relu_and_only_xnorpp_needs_sizes():
    chosen = {name: resolve(name) for name in COMPOSITIONS}
    assert [name for name, algorithm in chosen.items() if algorithm.relu == "keep"] == ["pact"]
    assert [name for name, algorithm in chosen.items() if algorithm.needs_output_size] == ["xnorpp"]


def test_layer_spec_shapes():
    conv = LayerSpec(dims=2, in_features=3, out_features=4)
    assert conv.per_channel == (-1, 1, 1)
    assert conv.sample_dims == (-3, -2, -1)
    linear = LayerSpec(dims=0, in_features=3, out_features=4)
    assert linear.per_channel == (-1,)
    assert linear.sample_dims == (-1,)
