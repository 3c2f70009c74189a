import logging
import warnings

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from deploy_cases import NETS, OPSET, SHAPE, exported, images, logits_of, net
from torch import nn
from torch.nn.utils import prune

from madx.deploy.check import texts
from madx.deploy.export import export_onnx
from madx.errors import ExportError


@pytest.mark.parametrize("name", NETS)
def test_the_file_computes_what_the_network_computes(name):
    """ONNX's own slow interpreter is the oracle: it shares no code with the engines."""
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load_model_from_string(exported(name).payload))
    batch = images(3)
    np.testing.assert_allclose(evaluator.run(None, {"input": batch})[0], logits_of(net(name), batch), atol=1e-5)


def test_batchnorm_is_folded_and_weights_keep_their_names():
    artifact = exported("residual")
    assert "BatchNormalization" not in artifact.facts["nodes"]
    names = {tensor.name for tensor in onnx.load_model_from_string(artifact.payload).graph.initializer}
    assert {"stem.weight", "conv.weight", "head.weight"} <= names


@pytest.mark.parametrize("opset", [18, 23])
def test_the_opset_is_the_one_asked_for(opset):
    assert export_onnx(net("plain"), SHAPE, opset=opset).opset == opset


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_network_of_other_classes_than_the_data_is_refused(precision):
    with pytest.raises(ExportError, match=r"output is \['batch', 7\]; expected \[batch, 10\]"):
        export_onnx(net("plain"), SHAPE, opset=OPSET, classes=10, precision=precision)


def test_metadata_is_empty_but_the_producer_stays():
    model = onnx.load_model_from_string(exported("residual").payload)
    assert not any(texts(model))
    assert exported("residual").facts["producer"].startswith("pytorch")


def test_the_network_and_the_process_are_left_as_they_were(capfd):
    module = net("residual").train()
    module.bn.eval()  # frozen on purpose: train() over the whole network would lose it
    before = {key: value.clone() for key, value in module.state_dict().items()}
    flags = [part.training for part in module.modules()]
    random_state, filters, disabled = torch.get_rng_state(), list(warnings.filters), logging.root.manager.disable
    again = export_onnx(module, SHAPE, opset=OPSET)
    assert again.sha256 == exported("residual").sha256, "two exports of one network differ, or training mode leaked"
    assert [part.training for part in module.modules()] == flags
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert (warnings.filters, logging.root.manager.disable) == (filters, disabled)
    assert capfd.readouterr() == ("", "")


def test_a_weight_that_a_hook_computes_is_exported_as_computed():
    """torch.nn.utils.prune leaves a tensor with a history where the parameter was."""
    module = net("residual")
    prune.random_unstructured(module.conv, "weight", 0.5)
    batch = images(3)
    expected = logits_of(module, batch)
    payload = export_onnx(module, SHAPE, opset=OPSET).payload
    (given,) = onnx.reference.ReferenceEvaluator(onnx.load_model_from_string(payload)).run(None, {"input": batch})
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


def test_fp16_halves_the_weights_and_keeps_float32_at_the_border():
    full, half = exported("residual"), exported("residual", "fp16")
    assert half.precision == "fp16"
    assert half.facts["parameters"] == full.facts["parameters"]
    assert half.facts["initialiser_bytes"] < 0.6 * full.facts["initialiser_bytes"]
    graph = onnx.load_model_from_string(half.payload).graph
    assert {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}


def test_fp16_keeps_zeros_zero_and_non_zeros_non_zero():
    module = net("plain")
    with torch.no_grad():
        module[1].weight[0] = 0
        module[1].weight[1] = 1e-9
    facts = export_onnx(module, SHAPE, opset=OPSET, precision="fp16").facts
    assert facts["parameters"] - facts["nonzero_parameters"] == module[1].weight[0].numel()


class DataDependent(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else x.flatten(1) * 2


def _huge_weight() -> nn.Module:
    module = net("plain")
    with torch.no_grad():
        module[6].weight[0, 0] = 7e4
    return module


def _nan_weight() -> nn.Module:
    module = net("plain")
    with torch.no_grad():
        module[6].bias[0] = torch.nan
    return module


BAD = {
    "control flow on data": (DataDependent, "fp32", "torch.onnx cannot export DataDependent: .*data-dependent"),
    "does not fit the shape": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(5, 2)),
        "fp32",
        "cannot export Sequential",
    ),
    "no logits": (lambda: nn.Conv2d(3, 4, 3), "fp32", r"output is \['batch', 4, 6, 6\]"),
    "beyond fp16": (_huge_weight, "fp16", "reaches 70000, and float16 ends at 65504"),
    "NaN, fp16": (_nan_weight, "fp16", "reaches nan"),
    "NaN, fp32": (_nan_weight, "fp32", "1 values that are NaN"),
    "unknown precision": (lambda: net("plain"), "int4", "unknown precision 'int4'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_exported_says_why_in_one_line(case):
    make, precision, message = BAD[case]
    with pytest.raises(ExportError, match=message) as caught:
        export_onnx(make(), SHAPE, opset=OPSET, precision=precision)
    assert "\n" not in str(caught.value)
