"""ONNX models in ONNX Runtime, and against PyTorch."""

import numpy as np
import onnx
import onnxruntime
import torch

from bibench.deploy.export import pack
from bibench.deploy.onnx_file import ONNX, onnx_model


def session(model, taps=()):
    """A session whose outputs are the model's and then other tensors of the graph."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in taps)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])


def inputs_of(x):
    """The tensors of an example, as arrays."""
    given = x.values() if isinstance(x, dict) else x if isinstance(x, (tuple, list)) else [x]
    return [tensor.numpy() for tensor in given]


def called(model, x):
    """The model's outputs for an example, as arrays."""
    given = [torch.from_numpy(array).clone() for array in inputs_of(x)]
    with torch.no_grad():
        found = model(**dict(zip(x, given, strict=True))) if isinstance(x, dict) else model(*given)
    return [found] if isinstance(found, torch.Tensor) else list(found.values() if isinstance(found, dict) else found)


def check_onnx(model, x, dialect=ONNX, *, rtol=1e-5, atol=1e-5):
    """Write a model as ONNX, check it, and compare its outputs for the whole batch with the model's; the ONNX model."""
    made = onnx_model(pack(model.eval(), x), dialect)
    onnx.checker.check_model(made, full_check=True)
    runner = session(made)
    given = {port.name: array for port, array in zip(runner.get_inputs(), inputs_of(x), strict=True)}
    for got, want in zip(runner.run(None, given), called(model, x), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=rtol, atol=atol)
    return made
