"""A student with fewer tokens than its teacher: trained, resumed, exported, asked."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from built_tokenizers import COVERED as SENTENCES
from built_tokenizers import SIGLIP, clip_of
from pair_shards import COLOURS, draw
from tinyclip_edge import EdgeCLIP
from tinyclip_edge.errors import ConfigError, DataError, ModelError, TinyClipError
from tinyclip_edge.models import TorchEmbedder, load_clip, weights_hash
from tinyclip_edge.train import distill
from tinyclip_edge.train.preflight.dry_run import plan_run
from tinyclip_export import export_bundle
from tinyclip_export.bundle.trim_vocab import trim_vocabulary
from toy_runs import STUDENT, KilledError, Watcher, kill, losses

TEXTS = [f"a photo of the {colour} square" for colour in COLOURS]
COVERED = ["a photo of a blue square", "the red photo", "a blue photo of the blue"]
OTHER = ["bicycle", "a dog"]  # tokens of the teacher that the corpus does not need


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join([*TEXTS, *TEXTS[:2], ""]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Where the corpus of the run that the tests copy lies, and then the run."""
    return tmp_path_factory.mktemp("trained")


def with_vocab(make, vocab, **sections):
    student = {"model": STUDENT, "vocab": vocab}
    return make(student=student, **{"inherit": {"plan": "evenly"}, **sections})


def pieces(clip, texts):
    """The pieces of texts by name, without padding."""
    vocabulary = json.loads(clip.tokenizer_file.read_text())["model"]["vocab"]
    added = json.loads(clip.tokenizer_file.read_text())["added_tokens"]
    names = {i: piece for piece, i in vocabulary.items()} | {t["id"]: t["content"] for t in added}
    end = clip.tokenizer.eot_token_id
    return [[names[i] for i in row[: row.index(end) + 1]] for row in clip.tokenizer(texts).tolist()]


@pytest.fixture
def run(make, corpus, trained, tmp_path, no_report):
    """The configuration of a run, a copy of it, and what was said in it."""
    shared, messages = trained / "corpus.txt", trained / "messages.json"
    if not shared.exists():
        shared.write_bytes(corpus.read_bytes())
    config = with_vocab(make, str(shared), optim={"steps": 6}, run={"save_every": 2})
    if not messages.exists():
        watcher = Watcher()
        distill(config, trained / "run", observer=watcher)
        messages.write_text(json.dumps(watcher.messages))
    shutil.copytree(trained / "run", tmp_path / "run")
    return config, tmp_path / "run", json.loads(messages.read_text())


def test_the_student_has_the_pieces_of_its_teacher(run, toy_teacher):
    _, folder, messages = run
    student = load_clip(str(folder))
    size = student.config["model_cfg"]["text_cfg"]["vocab_size"]
    assert 512 < size < toy_teacher.config["model_cfg"]["text_cfg"]["vocab_size"]
    assert student.model.token_embedding.num_embeddings == size
    assert pieces(student, COVERED) == pieces(toy_teacher, COVERED)
    for ours, theirs in zip(pieces(student, OTHER), pieces(toy_teacher, OTHER), strict=True):
        assert len(ours) > len(theirs)
    assert not torch.equal(student.tokenizer(COVERED), toy_teacher.tokenizer(COVERED))
    line = f"the student's vocabulary: {size:,} of 546 tokens for {len(TEXTS)} different texts"
    assert line in messages


def test_rows_are_the_teachers_to_the_bit(make, corpus, tmp_path, toy_teacher, no_report):
    config = with_vocab(make, str(corpus), optim={"steps": 1, "lr": 1e-12, "weight_decay": 0.0})
    distill(config, tmp_path / "run")
    ids = json.loads((tmp_path / "run" / "vocabulary.json").read_text())["ids"]
    table = load_clip(str(tmp_path / "run")).model.token_embedding.weight
    full = toy_teacher.model.token_embedding.weight
    assert ids == sorted(ids)
    assert torch.equal(table, full[ids][:, : table.shape[1]])


def test_a_killed_run_keeps_its_vocabulary(run, tmp_path, trained):
    """Though the file has changed since, and even where it is gone."""
    config, full, _ = run
    cut = tmp_path / "cut"
    with pytest.raises(KilledError):
        distill(config, cut, observer=Watcher(4, kill))
    (trained / "corpus.txt").unlink()
    distill(config, cut, resume=True)
    assert losses(cut) == losses(full)
    assert weights_hash(load_clip(str(cut)).model) == weights_hash(load_clip(str(full)).model)
    assert (cut / "vocabulary.json").read_text() == (full / "vocabulary.json").read_text()


def test_a_run_without_its_vocabulary_is_not_resumed(run):
    config, folder, _ = run
    (folder / "vocabulary.json").unlink()
    with pytest.raises(TinyClipError, match=r"vocabulary\.json is missing"):
        distill(config, folder, resume=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"ids": [0, 1]}, "vocabulary.json is not the vocabulary of a run: vocab: Field required"),
        (
            {"vocab": "other.txt", "ids": [0]},
            "belongs to another student.vocab or another teacher's",
        ),
        ({"ids": [3, 2]}, "the ids of its vocabulary are not in order"),
        ({"ids": [0, 1, 10**6]}, "the ids of its vocabulary are not in order"),
        ({"ids": [0, 1, 2]}, "special tokens are missing in its vocabulary"),
        ({"ids": ["0"]}, "is not the vocabulary of a run: ids.0"),
    ],
)
def test_a_changed_vocabulary_is_refused(run, content, message):
    config, folder, _ = run
    path = folder / "vocabulary.json"
    table = json.loads(path.read_text())
    if content == {"ids": [0, 1]}:
        del table["vocab"]
    path.write_text(json.dumps({**table, **content}))
    with pytest.raises(ModelError) as refusal:
        distill(config, folder, resume=True)
    assert message in str(refusal.value)


@pytest.mark.slow
def test_the_bundle_embeds_covered_texts(run, tmp_path, towers_exported_once):
    _, folder, _ = run
    images = [draw(colour, "square", "big") for colour in COLOURS]
    clip = load_clip(str(folder))
    export_bundle(clip, tmp_path / "bundle", precisions=("fp32", "int8"), pairs=(images, TEXTS))
    ours = TorchEmbedder(clip).encode_text(COVERED)
    edge = EdgeCLIP.load(tmp_path / "bundle", precision="fp32")
    assert np.abs(edge.encode_text(COVERED) - ours).max() < 1e-5
    small = EdgeCLIP.load(tmp_path / "bundle", precision="int8").encode_text(COVERED)
    assert (small * ours).sum(axis=1).min() > 0.98


def test_the_commonest_tokens_of_the_captions(make, tmp_path, no_report):
    watcher = Watcher()
    config = with_vocab(make, 530, optim={"steps": 2})
    distill(config, tmp_path / "run", observer=watcher)
    student = load_clip(str(tmp_path / "run"))
    assert student.model.token_embedding.num_embeddings <= 530
    line = next(text for text in watcher.messages if text.startswith("the student's vocabulary"))
    assert "of them are cut into other, smaller pieces" in line


@pytest.mark.slow
def test_stages_and_masks_keep_the_vocabulary(make, corpus, tmp_path, no_report):
    config = make(
        student={"vocab": str(corpus)},
        stages=[{"student": {"vision_cfg": {"layers": 3}}, "steps": 3}, {"keep": 0.6, "steps": 9}],
        inherit={"method": "masks", "plan": "evenly"},
        masks={"lr": 2.0, "lambda_lr": 2.0, "warmup": 0.2, "prune": 0.5, "tolerance": 0.3},
        run={"save_every": 2},
    )
    distill(config, tmp_path / "whole")
    with pytest.raises(KilledError):
        distill(config, tmp_path / "cut", observer=Watcher(6, kill))
    distill(config, tmp_path / "cut", resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    student = load_clip(str(tmp_path / "whole"))
    assert 512 < student.model.token_embedding.num_embeddings < 546


def test_a_shape_that_names_the_teachers_size_has_the_smaller_one(
    make, corpus, tmp_path, no_report
):
    shape = {**STUDENT, "text_cfg": {**STUDENT["text_cfg"], "vocab_size": 546}}
    config = make(
        student={"model": shape, "vocab": str(corpus)},
        optim={"steps": 1},
        inherit={"method": "none"},
    )
    distill(config, tmp_path / "run")
    assert load_clip(str(tmp_path / "run")).model.token_embedding.num_embeddings < 546


def test_a_plan_counts_the_smaller_table(make, corpus):
    full = plan_run(make(inherit={"plan": "evenly"})).stages[0]
    by_file = plan_run(with_vocab(make, str(corpus))).stages[0]
    by_number = plan_run(with_vocab(make, 530)).stages[0]
    assert by_number.student_bytes == full.student_bytes - 16 * 64 * 16
    assert by_file.student_bytes < full.student_bytes
    assert by_file.text_parameters == full.text_parameters


@pytest.mark.parametrize(
    ("vocab", "error", "message"),
    [
        (547, ConfigError, "a vocabulary of 547 tokens is larger than the 546 of"),
        (100, ConfigError, "100 tokens is too small: special tokens and single characters or"),
        ("nowhere.txt", DataError, "nowhere.txt"),
        ("tokenizer.json", ConfigError, "must be a text file with one text per line, not JSON"),
    ],
)
def test_bad_input_is_one_line(make, tmp_path, vocab, error, message):
    with pytest.raises(error) as refusal:
        distill(with_vocab(make, vocab), tmp_path / "run")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_a_student_of_another_tokenizer_has_nothing_to_select_from(make, corpus, tmp_path):
    shape = {**STUDENT, "text_cfg": {**STUDENT["text_cfg"], "vocab_size": 49408}}
    config = make(student={"model": shape, "vocab": str(corpus)})
    with pytest.raises(ConfigError, match=r"student\.vocab selects tokens of toy-teacher"):
        distill(config, tmp_path / "run")


@pytest.mark.parametrize(
    "kind",
    ["gemma", *(pytest.param(k, marks=pytest.mark.slow) for k in ("unigram", "word pieces"))],
)
def test_a_trimmed_bundle_of_another_tokenizer(kind, tmp_path, towers_exported_once):
    """In the runtime, covered texts are embedded as by the whole model."""
    clip = clip_of(kind, tmp_path / "whole", **SIGLIP, tokenizer_kwargs={"clean": "whitespace"})
    small = trim_vocabulary(clip, SENTENCES).clip
    images = [draw(colour, "square", "big") for colour in COLOURS]
    texts = list(dict.fromkeys(SENTENCES))[: len(images)]
    out = tmp_path / "bundle"
    export_bundle(
        small, out, precisions=("fp32", "int8", "q4"), pairs=(images, texts), max_drop=100.0
    )
    theirs = TorchEmbedder(clip).encode_text(SENTENCES)
    assert np.abs(EdgeCLIP.load(out, precision="fp32").encode_text(SENTENCES) - theirs).max() < 1e-5
    for precision in ("int8", "q4"):
        ours = EdgeCLIP.load(out, precision=precision).encode_text(SENTENCES)
        assert (ours * theirs).sum(axis=1).min() > 0.9
