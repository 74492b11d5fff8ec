"""Bad pairs as ``tinyclip-edge distill`` meets them: one line and exit code 2, or used and told."""

from __future__ import annotations

import json

import pytest
import yaml

from pair_shards import draw, encoded, toy_samples, write_shard
from tinyclip_edge.models import save_local_dir
from tinyclip_edge.runtime.bundle import file_sha256
from toy_runs import STUDENT, losses

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture
def distil(tmp_path, toy_teacher_folder, command_line, monkeypatch):
    """Write shards, run the command; return its exit code, its error lines and all of stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words, samples=None, teacher=toy_teacher_folder, cut=0, **data):
        if samples is not None:
            path = write_shard(tmp_path / "a.tar", samples)
            path.write_bytes(path.read_bytes()[: -cut or None])
        config = {
            "teacher": {"model": str(teacher)},
            "student": {"model": STUDENT},
            "data": {"train": str(tmp_path / "a.tar"), **data},
            "optim": {"steps": 4, "batch_size": 8},
            "run": {"device": "cpu", "save_every": 2},
        }
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        where = () if "--resume" in words else ("--out", "run")
        code, _, err = command_line("distill", tmp_path / "run.yaml", *words, *where)
        assert "Traceback" not in err
        return code, [line for line in err.splitlines() if line.startswith("error: ")], err

    return run


def one_bad(**files):
    """Pairs of which the sixth has other files."""
    samples = toy_samples()
    samples[5][1].update(files)
    return samples


@pytest.mark.parametrize("memory_gb", [4.0, 0.0], ids=["in memory", "streamed"])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"txt": b" \n"}, "has no caption (KEY.txt, or KEY.json 'caption')"),
        ({"txt": b"caf\xe9"}, "cannot be read ("),
        ({"json": b"{"}, "cannot be read ("),
    ],
)
def test_captions_that_are_none(distil, tmp_path, memory_gb, files, message):
    code, lines, _ = distil(samples=one_bad(**files), memory_gb=memory_gb)
    assert (code, len(lines)) == (2, 1)
    assert str(tmp_path / "a.tar") in lines[0]
    assert "'big-red-circle-32'" not in lines[0] and toy_samples()[5][0] in lines[0]
    assert message in lines[0]
    assert not (tmp_path / "run").exists() or memory_gb == 0.0


@pytest.mark.parametrize("memory_gb", [4.0, 0.0], ids=["in memory", "streamed"])
def test_a_key_that_stands_twice(distil, tmp_path, memory_gb):
    samples = [*toy_samples(), toy_samples()[2]]
    code, lines, _ = distil(samples=samples, memory_gb=memory_gb)
    key = samples[2][0]
    message = (
        f"error: shard {tmp_path / 'a.tar'}: key '{key}' appears twice; give each sample its own"
    )
    assert (code, lines) == (2, [message])


def test_odd_pairs_are_learnt_from(distil, tmp_path):
    samples = toy_samples()
    samples[0][1]["txt"] = b"word " * 2000  # 10,000 characters
    samples[1][1]["png"] = encoded(draw("red", "bar", "big").resize((1, 1)))
    samples[2][1]["png"] = encoded(draw("red", "bar", "big").convert("LA"))
    del samples[3][1]["png"]
    samples[3][1]["jpg"] = encoded(draw("red", "bar", "big").convert("CMYK"), "JPEG")
    code, lines, err = distil(samples=samples)
    assert (code, lines) == (0, []), err
    assert max(losses(tmp_path / "run")) == 4
    assert "skipped" not in err


@pytest.mark.parametrize("memory_gb", [4.0, 0.0], ids=["in memory", "streamed"])
def test_a_cut_shard_is_reported_and_used(distil, tmp_path, memory_gb):
    many = [(f"{n}-{key}", files) for n in range(4) for key, files in toy_samples()]
    # The end of an archive is 10,240 bytes at most; a sample has 6 blocks of 512.
    code, lines, err = distil(samples=many, cut=20 * 3072, memory_gb=memory_gb)
    assert (code, lines) == (0, []), err
    assert f"shard {tmp_path / 'a.tar'} is truncated after " in err.replace("\n", " ")


@pytest.fixture
def trained(distil):
    """A run of four steps."""
    code, _, err = distil(samples=toy_samples())
    assert code == 0, err


def test_a_resume_that_would_be_another_run_is_refused(
    distil, trained, tmp_path, toy_teacher_of, toy_teacher_folder
):
    save_local_dir(tmp_path / "other", toy_teacher_of(7))
    checkpoint = tmp_path / "run" / "checkpoints" / "00000004"
    before = {path.name: file_sha256(path) for path in checkpoint.iterdir()}
    write_shard(tmp_path / "b.tar", toy_samples((40,)))
    cases = [
        (["seed=1"], {}, "seed (was 0, is 1)"),
        (["optim.batch_size=16"], {}, "optim.batch_size (was 8, is 16)"),
        (
            [f"data.train={tmp_path / 'b.tar'}"],
            {},
            "the pairs of data.train are not those with which the run started",
        ),
        (
            [],
            {"teacher": tmp_path / "other"},
            "the weights of teacher other are not those with which the run started",
        ),
    ]
    for words, options, message in cases:
        code, lines, _ = distil("--resume", "run", *words, **options)
        assert (code, len(lines)) == (2, 1)
        assert message in lines[0], lines[0]
        assert {path.name: file_sha256(path) for path in checkpoint.iterdir()} == before
    code, lines, err = distil("--resume", "run", "run.save_every=3")
    assert (code, lines) == (0, []), err
    assert json.loads((checkpoint / "checkpoint.json").read_text())["step"] == 4
