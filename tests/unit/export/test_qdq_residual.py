"""Which convolutional towers stay in integers, and means of neighbours as convolutions."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tinyclip_export.quantization.qdq_residual import (
    is_integer_throughout,
    outside_convolutions,
    rectified_sums,
)
from tinyclip_export.towers.resnet import pool_as_convolution

WEIGHT = numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w")
BIAS = numpy_helper.from_array(np.ones(4, np.float32), "bias")


def model_of(*nodes):
    node_list = [
        helper.make_node(kind, inputs.split(), [output], f"node_{output}")
        for kind, inputs, output in nodes
    ]
    graph = helper.make_graph(
        node_list,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [WEIGHT, BIAS],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


BLOCK = [
    ("Conv", "x w", "a"),
    ("Relu", "a", "b"),
    ("Conv", "b w", "c"),
    ("Add", "c b", "d"),
    ("Relu", "d", "e"),
    ("Conv", "e w", "f"),
]
POOL = [("MatMul", "f w", "g"), ("Add", "g bias", "h"), ("Relu", "h", "y")]


def test_the_sum_of_a_block_is_in_integers_and_a_bias_is_not():
    model = model_of(*BLOCK, *POOL)
    assert rectified_sums(model) == {"node_d"}
    assert is_integer_throughout(model)
    assert outside_convolutions(model) == ["node_h", "node_y"]


@pytest.mark.parametrize(
    "between",
    [
        [("Add", "c b", "d"), ("Gelu", "d", "e")],  # nothing cuts its range off
        [("Add", "c b", "d"), ("Relu", "d", "r"), ("Softmax", "r", "e")],
        [("Mul", "c b", "d"), ("Relu", "d", "e")],
    ],
)
def test_a_tower_with_anything_else_between_convolutions_does_not_stay(between):
    assert not is_integer_throughout(model_of(*BLOCK[:3], *between, BLOCK[-1], *POOL))


@pytest.mark.parametrize("side", [2, 3])
def test_means_of_neighbours_equal_an_average_pool(side):
    x = torch.randn(2, 5, 12, 12)
    pool = pool_as_convolution(torch.nn.AvgPool2d(side), 5)
    torch.testing.assert_close(pool(x), torch.nn.functional.avg_pool2d(x, side))


def test_a_pool_of_one_is_nothing():
    assert isinstance(pool_as_convolution(torch.nn.AvgPool2d(1), 5), torch.nn.Identity)
    assert isinstance(pool_as_convolution(torch.nn.Identity(), 5), torch.nn.Identity)
