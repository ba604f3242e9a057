"""What is in an ONNX file; and QONNX's operator by its definition, in a NumPy evaluator that is none of ours."""

import json

import numpy as np
import onnx
import pytest
import torch
from interpreted import randomised
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx_models import session

import bibench
from bibench.deploy import onnx_file
from bibench.deploy.export import export, pack
from bibench.deploy.format import PackedError
from bibench.deploy.onnx_file import ONNX, QONNX, onnx_lacks, onnx_model, write_onnx
from bibench.registry import get


def net(algorithm="reactnet"):
    model = get("architectures", "digits_cnn").build((1, 8, 8), 10)
    return randomised(bibench.binarize(model, algorithm, example=torch.randn(1, 1, 8, 8)))


def written(path, to, algorithm="reactnet", **more):
    model, x = net(algorithm), torch.randn(4, 1, 8, 8)
    done = export(model, path, to=to, example=x, **more)
    assert (done.path, done.to, done.bytes) == (path, to, path.stat().st_size)
    assert str(done) == f"{path}: {done.bytes:,} bytes\n2 binary layers"
    return model, onnx.load(path)


def test_a_plain_file(tmp_path):
    _, model = written(tmp_path / "new" / "net.onnx", "onnx", labels=["a", "b"], preprocessing={"mean": [0.5]})
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert (model.ir_version, model.producer_name, model.graph.name) == (8, "bibench", "Sequential")
    ports = [*model.graph.input, *model.graph.output]
    shapes = [[dim.dim_param or dim.dim_value for dim in port.type.tensor_type.shape.dim] for port in ports]
    assert [port.name for port in ports] == ["input", "output"]
    assert shapes == [["batch", 1, 8, 8], ["batch", 10]]
    assert {node.domain for node in model.graph.node} == {""}
    assert "conv2 + bn2 + relu2/Conv" in [node.name for node in model.graph.node]
    about = json.loads({entry.key: entry.value for entry in model.metadata_props}["bibench"])
    assert about["labels"] == ["a", "b"]
    assert about["preprocessing"] == {"mean": [0.5]}
    assert about["algorithms"] == ["reactnet"]
    assert [layer["name"] for layer in about["layers"]] == ["conv2", "conv3"]
    assert about["layers"][1]["shape"] == [64, 4, 4]


def test_the_batch_is_free(tmp_path):
    model, made = written(tmp_path / "net.onnx", "onnx")
    runner = session(made)
    for batch in (1, 3, 7):
        x = torch.randn(batch, 1, 8, 8)
        expected = model(x).detach().numpy()
        np.testing.assert_allclose(runner.run(None, {"input": x.numpy()})[0], expected, rtol=1e-5, atol=1e-5)


def test_the_same_model_gives_the_same_bytes():
    program = pack(net(), torch.randn(4, 1, 8, 8))
    for dialect in (ONNX, QONNX):
        contents = [onnx_model(program, dialect).SerializeToString(deterministic=True) for _ in range(2)]
        assert contents[0] == contents[1]


class BipolarQuant(OpRun):
    op_domain = "qonnx.custom_op.general"

    def _run(self, x, scale):
        return (np.where(x >= 0, np.ones_like(x), -np.ones_like(x)) * scale,)


@pytest.mark.parametrize("algorithm", ["bnn", "reactnet", "pact", "xnor"])
def test_a_qonnx_file(tmp_path, algorithm):
    """Every weight and activation that is binary is a BipolarQuant, and all numbers are QONNX's."""
    model, made = written(tmp_path / "net.qonnx.onnx", "qonnx", algorithm)
    onnx.checker.check_model(made, full_check=True)
    assert [(o.domain, o.version) for o in made.opset_import] == [("", 17), ("qonnx.custom_op.general", 1)]
    quantized = [node for node in made.graph.node if node.op_type == "BipolarQuant"]
    assert len(quantized) == 4  # two layers, each a weight and an activation
    assert all(len(node.input) == 2 for node in quantized)
    assert not {"Where", "Round", "GreaterOrEqual"} & {node.op_type for node in made.graph.node}
    x = torch.randn(3, 1, 8, 8)
    expected = model(x).detach().numpy()
    np.testing.assert_allclose(session(made).run(None, {"input": x.numpy()})[0], expected, rtol=1e-4, atol=1e-5)
    del made.functions[:]  # the file's own definition of the operator, for runtimes that don't know it
    answer = ReferenceEvaluator(made, new_ops=[BipolarQuant]).run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_the_operator_in_the_file_is_qonnx_own():
    _, *rest = [onnx_model(pack(net(), torch.randn(1, 1, 8, 8)), dialect).functions for dialect in (ONNX, QONNX)]
    (function,) = rest[0]
    x = np.array([0.0, -0.0, -1e-45, 3, -2], np.float32)
    node = onnx.helper.make_node("BipolarQuant", ["x", "scale"], ["y"], domain=function.domain)
    floats = [onnx.helper.make_tensor_value_info(name, 1, None) for name in ("x", "scale", "y")]
    graph = onnx.helper.make_graph([node], "one", floats[:2], floats[2:])
    model = onnx.helper.make_model(
        graph,
        functions=[function],
        ir_version=8,
        opset_imports=[onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(function.domain, 1)],
    )
    (y,) = session(model).run(None, {"x": x, "scale": np.array(0.5, np.float32)})
    assert y.tolist() == [0.5, 0.5, -0.5, 0.5, -0.5]


def test_too_large_for_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", 1000)
    with pytest.raises(PackedError, match=r"takes [\d,]+ bytes as ONNX, whose files hold 1,000 at most: export it as"):
        write_onnx(pack(net(), torch.randn(1, 1, 8, 8)), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_the_package(monkeypatch):
    assert onnx_lacks() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert onnx_lacks() == "the package onnx is missing; install it by: python -m pip install 'bibench[onnx]'"
