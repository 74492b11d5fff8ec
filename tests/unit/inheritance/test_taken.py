"""The compact account of what a plan takes, counted by hand."""

from __future__ import annotations

from tinyclip_edge.inheritance import ClipShape, InheritedUnits, TowerShape, plan_uniform
from tinyclip_edge.inheritance.taken import Share

TEXT = TowerShape(
    "open_clip text transformer",
    width=64,
    layers=4,
    heads=1,
    head_width=64,
    neurons=256,
    positions=16,
)
SMALL = TowerShape(
    "open_clip text transformer",
    width=64,
    layers=2,
    heads=1,
    head_width=64,
    neurons=128,
    positions=16,
)


def resnet(width, stages):
    return TowerShape("ResNet", "", width, sum(stages), 4 * width // 8, 64, 0, 50, stages)


def test_shares_are_of_equal_parts_front_to_back():
    assert Share.count((0, 1, 5), 6) == Share(6, 3, (1, 1, 0, 0, 0, 1))
    wide = Share.count(tuple(range(24)), 128)  # 4 a part
    assert (wide.taken, wide.bins) == (24, (1,) * 6 + (0,) * 26)
    assert Share.count((0, 2, 3), 128).bins[0] == 0.75
    odd = Share.count(tuple(range(100)), 100)  # parts of 3 and 4
    assert odd.bins == (1,) * 32
    assert Share.count((), 0) == Share(0, 0, ())  # the embedding, where no tower inherits


def test_a_resnet_names_stage_and_block():
    teacher = ClipShape(resnet(64, (3, 4, 6, 3)), TEXT, embed_dim=32, vocabulary=9, patch=0)
    student = ClipShape(resnet(32, (1, 2, 6, 3)), SMALL, embed_dim=16, vocabulary=9, patch=0)
    inherited = InheritedUnits.by(plan_uniform(teacher, student), teacher)
    places = {layer.name: layer.student for layer in inherited.image.layers}
    # every (teacher // student)-th block of a stage, from its first one
    assert places == {
        "1.0": 0, "1.1": None, "1.2": None,
        "2.0": 1, "2.1": None, "2.2": 2, "2.3": None,
        **{f"3.{block}": 3 + block for block in range(6)},
        **{f"4.{block}": 9 + block for block in range(3)},
    }  # fmt: skip
    last = inherited.image.layers[-1].units
    assert (last["inner channels"].taken, last["inner channels"].of) == (256, 512)
    assert (last["outer channels"].taken, last["outer channels"].of) == (1024, 2048)
    assert (inherited.embedding.taken, inherited.embedding.of) == (16, 32)
    assert [layer.student for layer in inherited.text.layers] == [0, None, 1, None]
    assert inherited.text.layers[2].units["neurons"].bins == (1,) * 16 + (0,) * 16
