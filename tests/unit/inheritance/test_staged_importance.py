"""Scores of a FastViT's units against finite differences, each unit's output times a gate."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
import torch.nn.functional as F

from families import family
from tinyclip_edge.inheritance.probe import fisher_direction
from tinyclip_edge.inheritance.staged_probe import StagedProbe


@pytest.fixture(scope="module")
def probed():
    """Scores of one draw over the image tower in float64, and what they should be."""
    model = family("MobileCLIP 2").model.double()
    trunk = model.visual.trunk
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 64, 64, generator=generator, dtype=torch.float64)
    others = F.normalize(torch.randn(5, 48, generator=generator, dtype=torch.float64), dim=-1)

    def logits():
        return 20 * F.normalize(model.encode_image(images), dim=-1) @ others.T

    with StagedProbe(trunk, 32) as probe:
        first = logits()
        probe.add(first, 1, torch.Generator().manual_seed(2))
    p = first.detach().softmax(dim=-1)
    direction = fisher_direction(p, torch.Generator().manual_seed(2))

    def expected(kind, stage, at):
        step, values = 1e-5, []
        for gate in (1 + step, 1 - step):
            with ExitStack() as stack, torch.no_grad():
                for hook in gates(trunk, kind, stage, at, gate):
                    stack.callback(hook.remove)
                values.append(logits())
        slope = ((values[0] - values[1]) / (2 * step) * direction).sum(dim=1)
        return float(slope.square().mean())

    return probe.scores(), expected


def gates(trunk, kind, stage, at, gate):
    """Hooks by which a unit's output, or all that writes a channel, is times ``gate``."""
    if kind != "channels":
        block, unit = at
        units = slice(32 * unit, 32 * unit + 32) if kind == "heads" else slice(unit, unit + 1)
        layers = trunk.stages[stage].blocks[block]
        layer = layers.token_mixer.proj if kind == "heads" else layers.mlp.fc2
        axis = 2 if kind == "heads" else 1
        yield layer.register_forward_pre_hook(lambda _, args: (times(args[0], axis, units, gate),))
        return
    for number in range(stage, 4):
        growth = 2 ** (number - stage)  # of the sibling's widths
        channels = slice(at * growth, at * growth + growth)
        yield from writers(trunk.stages[number].blocks, channels, gate)
    last = slice(at * 2 ** (4 - stage), (at + 1) * 2 ** (4 - stage))
    yield trunk.final_conv.register_forward_hook(lambda _, __, out: times(out, 1, last, gate))


def writers(blocks, channels, gate):
    yield blocks[0].register_forward_pre_hook(lambda _, args: (times(args[0], 1, channels, gate),))

    def scaled(_, __, out):
        return times(out, 1, channels, gate)

    def mixed(_, args, out):
        return args[0] + times(out - args[0], 1, channels, gate)

    for block in blocks:
        if hasattr(block, "drop_path1"):
            yield block.drop_path1.register_forward_hook(scaled)
            yield block.drop_path2.register_forward_hook(scaled)
        else:
            yield block.token_mixer.register_forward_hook(mixed)
            yield block.drop_path.register_forward_hook(scaled)


def times(x, axis, units, gate):
    x = x.clone()
    x.narrow(axis, units.start, units.stop - units.start).mul_(gate)
    return x


@pytest.mark.parametrize(
    ("kind", "stage", "at"),
    [("heads", 3, (1, 2)), ("neurons", 0, (1, 7)), ("neurons", 3, (0, 380)),
     ("channels", 0, 5), ("channels", 2, 63), ("channels", 3, 0)],
)  # fmt: skip
def test_scores_are_those_of_finite_differences(probed, kind, stage, at):
    scores, expected = probed
    reference = expected(kind, stage, at)
    assert reference > 1e-9
    assert float(getattr(scores, kind)[stage][at]) == pytest.approx(reference, rel=1e-5)


def test_the_last_channels_and_stages_without_attention(probed):
    scores = probed[0]
    assert scores.final.shape == (256,) and bool((scores.final > 0).any())
    assert [heads.shape[1] for heads in scores.heads] == [0, 0, 0, 4]
