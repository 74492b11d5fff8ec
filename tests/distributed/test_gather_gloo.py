"""Two gloo processes must train exactly as one process with the whole batch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn

from tinyclip_edge.losses import affinity_loss, contrastive_loss, feature_loss, gather_with_grad

WORLD = 2
ROWS = 5  # of each process


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.image = nn.Parameter(torch.randn(12, 6, generator=generator) / 4)
        self.text = nn.Parameter(torch.randn(12, 6, generator=generator) / 4)
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        features = (x[0] @ self.image, x[1] @ self.text)
        return (*(nn.functional.normalize(f, dim=-1) for f in features), self.scale.exp())


def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, WORLD * ROWS, 12, generator=generator)
    return x[:2], nn.functional.normalize(x[2:], dim=-1)


def objective(image, text, scale, teacher):
    image, text = gather_with_grad(image), gather_with_grad(text)
    terms = affinity_loss(
        image, text, *teacher, student_scale=scale, teacher_scale=50.0, i2t=0.8, t2i=0.3
    )
    towers = zip((image, text), teacher, strict=True)
    feature = sum(feature_loss(ours, theirs[:, :6], kind="mse") for ours, theirs in towers)
    return terms.loss + 0.3 * contrastive_loss(image, text, scale=scale) + 2.0 * feature


def train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    model = nn.parallel.DistributedDataParallel(Towers())
    x, teacher = batch()
    mine = slice(rank * ROWS, (rank + 1) * ROWS)
    loss = objective(*model(x[:, mine]), [gather_with_grad(t[mine]) for t in teacher])
    loss.backward()
    grads = {name: p.grad for name, p in model.module.named_parameters()}
    torch.save({"loss": loss.detach(), **grads}, f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path):
    model = Towers()
    x, teacher = batch()
    loss = objective(*model(x), teacher)
    loss.backward()
    expected = {"loss": loss.detach(), **{n: p.grad for n, p in model.named_parameters()}}

    multiprocessing.spawn(train, args=(str(tmp_path),), nprocs=WORLD)

    for rank in range(WORLD):
        seen = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert seen.keys() == expected.keys()
        for name, value in expected.items():
            off = (seen[name] - value).norm() / value.norm()
            assert off < 1e-6, name
