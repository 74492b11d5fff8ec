"""What fits into memory, and what is told of images that do not decode."""

from types import SimpleNamespace

import pytest
import torch

from pair_shards import toy_samples, write_shard
from tinyclip_edge.config import RunConfig, load_config
from tinyclip_edge.data import PairMemory, StreamingPairs, open_source
from tinyclip_edge.errors import ConfigError, DataError
from tinyclip_edge.train.accelerator import make_accelerator
from tinyclip_edge.train.builder import prepare
from tinyclip_edge.train.tasks.encoders import picture_bytes


class Messages(list):
    def on_message(self, text):
        self.append(text)


@pytest.fixture
def config(tmp_path, toy_teacher_folder):
    def make(samples, **data):
        train = write_shard(tmp_path / "train.tar", toy_samples())
        val = write_shard(tmp_path / "val.tar", samples)
        return RunConfig.model_validate(
            {
                "teacher": {"model": str(toy_teacher_folder)},
                "student": {"model": {"vision_cfg": {"width": 64, "layers": 2},
                                      "text_cfg": {"width": 64, "heads": 1, "layers": 2}}},
                "data": {"train": str(train), "val": str(val), **data},
                "optim": {"steps": 2, "batch_size": 8},
                "run": {"device": "cpu"},
            }
        )  # fmt: skip

    return make


@pytest.mark.parametrize(("size", "expected"), [(224, 150_528), ((64, 32), 6_144)])
def test_a_decoded_picture_takes_three_bytes_a_pixel(size, expected):
    assert picture_bytes(SimpleNamespace(config={"preprocess_cfg": {"size": size}})) == expected


def test_a_source_fits_by_its_number_of_pairs(tmp_path):
    for number in range(2):
        write_shard(tmp_path / f"s-{number}.tar", toy_samples())
    source = open_source(str(tmp_path / "s-*.tar"))
    assert source.fits(96)
    assert not source.fits(95)
    assert not source.fits(0)


# 48 pictures of 32 x 32 are 48 * 3 * 1024 = 147,456 bytes.
@pytest.mark.parametrize(
    ("memory_gb", "kind"),
    [(147_456e-9, PairMemory), (147_455e-9, StreamingPairs), (0, StreamingPairs)],
)
def test_the_bound_is_bytes_of_decoded_pictures(config, memory_gb, kind):
    watcher = Messages()
    setup, _ = prepare(config(toy_samples(), memory_gb=memory_gb), watcher)
    assert isinstance(setup.pairs, kind)
    assert any("is streamed" in line for line in watcher) == (kind is StreamingPairs)


def test_the_shipped_runs_bound_memory_in_gigabytes():
    assert load_config("starter").data.memory_gb == 4.0


def test_skipped_validation_images_are_reported(config):
    samples = toy_samples((32, 36, 40))
    samples[7][1]["png"] = b"nothing"
    watcher = Messages()
    prepare(config(samples), watcher)
    line = f"skipped 1 of 144 images that cannot be decoded: {samples[7][0]}"
    assert any(message.endswith(line) for message in watcher)


def test_a_run_without_validation_pairs_says_so_before_its_first_step(config):
    watcher = Messages()
    prepare(config(toy_samples(), val=None), watcher)
    assert "data.val is null: teacher and student are not evaluated during the run" in watcher


@pytest.mark.parametrize("memory_gb", [1, 0])
def test_faulty_rows_and_skipped_files_are_reported(config, tmp_path, memory_gb):
    run = config(toy_samples())
    (tmp_path / "img").mkdir()
    for number in range(120):
        (tmp_path / "img" / f"{number}.png").write_bytes(toy_samples()[number % 48][1]["png"])
        if number != 7:
            (tmp_path / "img" / f"{number}.txt").write_text("cat")
    (tmp_path / "img" / "a.svg").write_text("<svg/>")
    data = run.data.model_copy(update={"train": str(tmp_path / "img"), "batch_distinct": False,
                                        "memory_gb": memory_gb})  # fmt: skip
    watcher = Messages()
    prepare(run.model_copy(update={"data": data}), watcher)
    assert any(
        f"skipped 1 faulty sample: {tmp_path}/img/7.png has no caption" in line for line in watcher
    )
    assert any(
        line.endswith("skipped files that do not belong to a pair: 1 .svg") for line in watcher
    )


@pytest.mark.parametrize(
    "form", ["table", *(pytest.param(name, marks=pytest.mark.slow) for name in ("folder", "pipe"))]
)
def test_every_form_of_pairs_reaches_the_run(config, tmp_path, form):
    rows = ["image,caption"]
    for key, files in toy_samples():
        image = tmp_path / "img" / f"{key}.png"
        image.parent.mkdir(exist_ok=True)
        image.write_bytes(files["png"])
        image.with_suffix(".txt").write_bytes(files["txt"])
        rows.append(f"img/{image.name},{key}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    run = config(toy_samples())
    shard = run.data.train
    train = {"table": str(tmp_path / "pairs.csv"), "folder": str(tmp_path / "img"),
             "pipe": f"pipe:cat {shard}"}[form]  # fmt: skip
    data = run.data.model_copy(update={"train": train})
    run = run.model_copy(update={"data": data})
    if form == "pipe":
        with pytest.raises(DataError, match=r"data\.allow_pipes=true"):
            prepare(run, Messages())
        run = run.model_copy(update={"data": data.model_copy(update={"allow_pipes": True})})
    setup, _ = prepare(run, Messages())
    assert isinstance(setup.pairs, StreamingPairs if form == "pipe" else PairMemory)
    keys = {key for key, _ in toy_samples()}
    batches = setup.pairs.batches(0, 16, seed=0)
    batch_keys = [key for _ in range(3) for key in next(batches).keys]
    assert {key.removeprefix("img/").removesuffix(".png") for key in batch_keys} == keys
    # what a resumed run compares
    assert prepare(run, Messages())[0].data_hash == setup.data_hash


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")],
)
def test_a_launcher_that_would_cut_the_model_up_is_refused(config, monkeypatch, name, kind):
    monkeypatch.setenv(name, "true")
    with pytest.raises(ConfigError, match=rf"^{kind} is not supported: .*run\.micro_batch"):
        make_accelerator(config(toy_samples()).run)


@pytest.mark.parametrize(("precision", "fused"), [("bf16", False), ("fp32", True)])
def test_a_cpu_takes_the_attention_that_is_quick_in_its_precision(config, precision, fused):
    run = config(toy_samples()).run.model_copy(update={"device": "cpu", "precision": precision})
    try:
        make_accelerator(run)
        assert torch.backends.cuda.flash_sdp_enabled() is fused
    finally:
        torch.backends.cuda.enable_flash_sdp(True)
