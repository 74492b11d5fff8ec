"""A file whose weights are exchanged is the one that the exporter would write."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from tinyclip_export.onnx_passes import exporter
from tinyclip_export.onnx_passes.exchange_weights import exchange_weights
from tinyclip_export.quantization.smoothquant import activation_peaks, smoothed
from tinyclip_export.towers.factory import text_tower


def graph_of(path):
    """Nodes as they are, and constants by name."""
    graph = onnx.load(path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [node.SerializeToString() for node in graph.node], constants


def test_it_is_what_a_new_export_gives(exported, tmp_path):
    tower = text_tower(exported.clip.model)
    other = smoothed(tower, activation_peaks(tower, [torch.arange(2, 16)[None]]), 0.5)
    source = exported.folder / "onnx" / "text_model.onnx"
    assert exchange_weights(source, tmp_path / "exchanged.onnx", tower, other)
    exporter.export_text_tower(other, tmp_path / "new.onnx")
    (nodes, constants), (new_nodes, new_constants) = (
        graph_of(tmp_path / f"{name}.onnx") for name in ("exchanged", "new")
    )
    assert nodes == new_nodes
    assert constants.keys() == new_constants.keys()
    for name, values in constants.items():
        np.testing.assert_array_equal(values, new_constants[name], err_msg=name)
    before = graph_of(source)[1]
    # the file of before had other values where the tower had
    moved = [name for name in before if not np.array_equal(before[name], constants[name])]
    assert len(moved) == sum(
        not torch.equal(value, other.state_dict()[key]) for key, value in tower.state_dict().items()
    )


class Folded(nn.Module):
    """Two matrices, which an exporter may have folded into one."""

    def __init__(self):
        super().__init__()
        self.one, self.two = (nn.Parameter(torch.full((3, 3), value)) for value in (1.0, 2.0))


def changed(module):
    other = Folded()
    with torch.no_grad():
        other.load_state_dict(module.state_dict())
        other.one.mul_(3)
    return other


@pytest.mark.parametrize("constants", [{"folded": 3.0}, {"a": 1.0, "b": 1.0}], ids=["none", "two"])
def test_a_weight_in_no_certain_place_is_refused(tmp_path, constants):
    tensors = [
        numpy_helper.from_array(np.full((3, 3), value, np.float32), name)
        for name, value in constants.items()
    ]
    graph = onnx.helper.make_graph([], "tower", [], [], initializer=tensors)
    onnx.save_model(onnx.helper.make_model(graph), tmp_path / "tower.onnx")
    module, target = Folded(), tmp_path / "exchanged.onnx"
    assert not exchange_weights(tmp_path / "tower.onnx", target, module, changed(module))
    assert not target.exists()
