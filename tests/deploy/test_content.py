"""A file that was spelt otherwise is the same engine; one that computes something else is not."""

import numpy as np
import onnx
import pytest
from deploy_cases import exported
from onnx import helper, numpy_helper

from madx.artifacts import sha256_bytes
from madx.deploy.content import content_sha256

KEPT = ("input", "logits", "")
PAYLOAD = exported("residual").payload


def changed(change):
    model = onnx.load_model_from_string(PAYLOAD)
    change(model)
    return model.SerializeToString()


def renamed(model):
    new = {}
    for node in model.graph.node:
        node.name = f"other-{node.name}"
        for names in (node.input, node.output):
            names[:] = [
                name if name in ("input", "logits", "") else new.setdefault(name, f"t{len(new)}") for name in names
            ]
    for tensor in model.graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    del model.graph.value_info[:]


def another_order_of_constants(model):
    tensors = list(model.graph.initializer)[::-1]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)


SAME = {
    "doc string": lambda model: setattr(model, "doc_string", "a second try"),
    "doc string of a node": lambda model: setattr(model.graph.node[0], "doc_string", "a second try"),
    "metadata": lambda model: model.metadata_props.add(key="try", value="2"),
    "producer": lambda model: setattr(model, "producer_name", "someone"),
    "name of the graph": lambda model: setattr(model.graph, "name", "other"),
    "all names": renamed,
    "order of the constants": another_order_of_constants,
}


@pytest.mark.parametrize("name", SAME)
def test_spelling_makes_no_other_engine(name):
    other = changed(SAME[name])
    assert other != PAYLOAD
    assert content_sha256(other) == content_sha256(PAYLOAD)


def weight(model):
    tensor = model.graph.initializer[0]
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] = np.nextafter(array.flat[0], np.float32(9))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def node(model):
    last = model.graph.node[-1]
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Neg", ["before"], ["logits"]))


def attribute(model):
    convolution = next(one for one in model.graph.node if one.op_type == "Conv")
    next(one for one in convolution.attribute if one.name == "dilations").ints[:] = [2, 2]


OTHER = {"a weight": weight, "one more node": node, "an attribute": attribute}


@pytest.mark.parametrize("name", OTHER)
def test_what_computes_something_else_is_another_engine(name):
    assert content_sha256(changed(OTHER[name])) != content_sha256(PAYLOAD)


def test_what_is_no_onnx_file_counts_with_its_bytes():
    assert content_sha256(b"a plan") == sha256_bytes(b"a plan")


def test_a_name_that_is_no_text_has_a_content_too():
    """Damaged files reach this before anything is said of them."""
    model = onnx.load_model_from_string(PAYLOAD)
    model.opset_import.append(helper.make_opsetid("zz", 1))
    assert len(content_sha256(model.SerializeToString().replace(b"zz", b"\xff\xfe"))) == 64
