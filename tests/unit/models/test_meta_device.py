"""Networks on the meta device have the shapes of others, and draw no values."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tinyclip_edge.families.siblings import SIBLINGS
from tinyclip_edge.models.build import build_model
from tinyclip_edge.models.meta_device import on_meta_device


class Draws(TorchDispatchMode):
    """Counts the operations that fill a tensor with random values."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket._qualified_op_name.split("::")[1] in (
            "normal_", "uniform_", "erfinv_",
        )  # fmt: skip
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["ViT", "EVA02", "MobileCLIP 2"])
def test_shapes_are_those_of_another_device(name):
    with on_meta_device(), Draws() as draws:
        model = build_model(SIBLINGS[name], name)
    state = build_model(SIBLINGS[name], name).state_dict()
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == {
        key: tensor.shape for key, tensor in state.items()
    }
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert draws.count == 0


def test_other_tensors_are_filled_as_ever():
    ones = torch.ones(2, 2)
    with on_meta_device():
        ones.uniform_(2, 3)
        torch.nn.init.normal_(torch.empty(3))
    assert bool((ones >= 2).all())
