"""Two gloo processes must train exactly as one process with the whole batch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn

from tinyclip_edge.losses import (
    HardPairs,
    PairEmbeddings,
    affinity_loss,
    contrastive_loss,
    feature_loss,
    gather_with_grad,
    interactive_loss,
    sigmoid_affinity_loss,
    sigmoid_loss,
)
from tinyclip_edge.losses.sigmoid import Affine

WORLD = 2
ROWS = 5  # of each process


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.image = nn.Parameter(torch.randn(12, 6, generator=generator) / 4)
        self.text = nn.Parameter(torch.randn(12, 6, generator=generator) / 4)
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def forward(self, x):
        features = (x[0] @ self.image, x[1] @ self.text)
        return (
            *(nn.functional.normalize(f, dim=-1) for f in features),
            self.scale.exp(),
            1 * self.bias,
        )


def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, WORLD * ROWS, 12, generator=generator)
    return x[:2], nn.functional.normalize(x[2:], dim=-1)


def objective(image, text, scale, bias, teacher, rows=slice(None)):
    image, text = gather_with_grad(image), gather_with_grad(text)
    terms = affinity_loss(
        image, text, *teacher, student_scale=scale, teacher_scale=50.0, i2t=0.8, t2i=0.3
    )
    towers = zip((image, text), teacher, strict=True)
    feature = sum(feature_loss(ours, theirs[:, :6], kind="mse") for ours, theirs in towers)
    pairs = PairEmbeddings(image, text)
    common = {"rows": rows, "chunk_pairs": 2 * WORLD * ROWS}  # in chunks of two anchors
    sigmoid = sigmoid_loss(image, text, scale=scale, bias=bias, **common)
    pairwise = sigmoid_affinity_loss(
        pairs,
        PairEmbeddings(*teacher),
        student_logits=Affine(scale, bias),
        teacher_logits=Affine(30.0, -5.0),
        hard_pairs=HardPairs(4.0, 2.0, 0.5),
        **common,
    )
    return {
        "loss": terms.loss + 0.3 * contrastive_loss(image, text, scale=scale) + 2.0 * feature,
        "sigmoid": sigmoid,
        "pairwise": pairwise.loss,
        "interactive": interactive_loss(
            pairs, PairEmbeddings(*(x[:, :6] for x in teacher)), scale=scale
        ),
        "entropy": pairwise.teacher_entropy,
    }


def measured(model, terms):
    """Each term, and the gradients of their sum."""
    sum(terms.values()).backward()
    values = {name: term.detach() for name, term in terms.items()}
    return {**values, **{name: p.grad for name, p in model.named_parameters()}}


def train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    model = nn.parallel.DistributedDataParallel(Towers())
    x, teacher = batch()
    mine = slice(rank * ROWS, (rank + 1) * ROWS)
    gathered = [gather_with_grad(t[mine]) for t in teacher]
    terms = objective(*model(x[:, mine]), gathered, mine)
    torch.save(measured(model.module, terms), f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path):
    model = Towers()
    x, teacher = batch()
    expected = measured(model, objective(*model(x), teacher))

    multiprocessing.spawn(train, args=(str(tmp_path),), nprocs=WORLD)

    for rank in range(WORLD):
        gathered = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert gathered.keys() == expected.keys()
        for name, value in expected.items():
            off = (gathered[name] - value).norm() / value.norm()
            assert off < 1e-6, name
