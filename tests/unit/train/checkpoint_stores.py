"""A store of checkpoints with toy content."""

import torch

from tinyclip_edge.train.checkpoint import (
    Checkpoint,
    Position,
    rng_state,
)


def content(step):
    weight = torch.arange(6.0).view(2, 3)
    state = {"state": {0: {"step": torch.tensor(float(step)), "exp_avg": weight * step}},
             "param_groups": [{"lr": 0.1, "params": [0], "betas": (0.9, 0.98)}]}  # fmt: skip
    return Checkpoint(
        Position(step, 3, 1, "teacher", "data", {"seed": 0, "optim.betas": [0.9, 0.98]}),
        weights={"a": weight * step, "turned": weight.T, "scalar": torch.tensor(2.5)},
        optimizer=state,
        scaler=None,
        rng=rng_state(),
    )


def load(store):
    """Return the newest whole checkpoint and the warnings about others."""
    warnings = []
    return store.load_newest(warnings.append), warnings
