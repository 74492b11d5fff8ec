"""Rules of a target's engine: which graphs keep them, and what is said of those that do not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tinyclip_export.verification.engine_rules import EngineRules
from tinyclip_export.verification.failures import StructureError
from tinyclip_export.verification.structure import check_file, structure_faults

RULES = EngineRules(
    operators={"": frozenset({"MatMul", "Relu", "QuantizeLinear", "DequantizeLinear"})},
    source="a list",
    ports=frozenset({"FLOAT"}),
    types=frozenset({"FLOAT", "INT8"}),
    constants=frozenset({"FLOAT", "INT8"}),
    opsets=(18, 22),
    rank=3,
    symmetric=True,
)


def graph_of(nodes, *, shape=(2, 4), opset=20, constants=(), output_shape=None):
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)
        for name, sizes in (("x", shape), ("y", output_shape or shape))
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], list(constants))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports)


def quantized(zero_point):
    scales = [numpy_helper.from_array(np.float32(0.5), "s")]
    zeros = [numpy_helper.from_array(np.int8(zero_point), "z")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="dequantize"),
    ]
    return graph_of(nodes, constants=[*scales, *zeros])


RELU = helper.make_node("Relu", ["x"], ["y"])


@pytest.mark.parametrize("model", [graph_of([RELU]), quantized(0)])
def test_a_graph_that_keeps_the_rules_has_no_faults(model):
    assert list(structure_faults(model, RULES)) == []


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (graph_of([helper.make_node("Erf", ["x"], ["y"])]), "operator Erf (1) is not supported"),
        (graph_of([RELU], opset=17), "opset 17 is not 18 to 22"),
        (graph_of([RELU], shape=("batch", 4)), "x has no fixed shape: [batch, 4]"),
        (graph_of([RELU], shape=(1, 1, 2, 2)), "x has rank 4, above 3"),
        (quantized(3), "QuantizeLinear quantize: zero point z is not 0"),
        (
            graph_of(
                [helper.make_node("MatMul", ["x", "w"], ["y"])],
                constants=[numpy_helper.from_array(np.zeros((4, 4), np.float64), "w")],
            ),
            "w is DOUBLE, which the engine does not support",
        ),
        (
            graph_of([helper.make_node("Relu", ["x"], ["y"], domain="com.microsoft")]),
            "operator com.microsoft:Relu (1) is not supported",
        ),
    ],
)
def test_each_broken_rule_is_named(model, fault):
    assert fault in list(structure_faults(model, RULES))


def test_scales_that_are_computed_are_refused():
    model = quantized(0)
    model.graph.node.insert(0, helper.make_node("Relu", ["s"], ["computed"]))
    model.graph.node[1].input[1] = "computed"
    faults = list(structure_faults(model, RULES))
    assert "QuantizeLinear quantize: computed is not a constant" in faults


def test_a_file_is_refused_in_one_line_that_counts_what_it_leaves_out(tmp_path):
    path = tmp_path / "tower.onnx"
    nodes = [helper.make_node(name, ["x"], [name]) for name in ("Abs", "Sin", "Cos", "Tan")]
    onnx.save_model(graph_of([*nodes, RELU]), str(path))
    with pytest.raises(StructureError) as error:
        check_file(path, "tower.onnx for npu", RULES)
    assert str(error.value) == (
        "tower.onnx for npu: operator Abs (1) is not supported; operator Sin (1) is not supported; "
        "operator Cos (1) is not supported; and 1 more"
    )
