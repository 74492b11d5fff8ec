"""What is measured before a run, and what is held against it."""

import json
import tarfile
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import nn

from pair_shards import toy_samples, write_shard
from tinyclip_edge.cli.doctor import doctor_table
from tinyclip_edge.config import RunConfig
from tinyclip_edge.data import Count
from tinyclip_edge.data.checks import CaptionCheck, ImageCheck, SourceCheck
from tinyclip_edge.metrics import chance_of
from tinyclip_edge.train.memory import SavedBytes
from tinyclip_edge.train.preflight.diagnosis import TeacherCheck, judge_source
from tinyclip_edge.train.preflight.doctor import examine
from tinyclip_edge.train.preflight.finding import Finding
from tinyclip_edge.train.tasks.validation import Validation
from toy_runs import STUDENT, Watcher

GOOD = {"t2i_r1": 0.5, "t2i_r5": 0.9, "i2t_r1": 0.5, "i2t_r5": 0.9, "zero_shot_100": 0.5}


def short_samples():
    """48 pictures with two captions each, of few tokens for the toy tokenizer."""
    return [
        (key, {**files, "txt": f"a cat {number}\na dog {number}".encode()})
        for number, (key, files) in enumerate(toy_samples())
    ]


@pytest.fixture
def config(tmp_path, toy_teacher_folder):
    def make(samples=None, **sections):
        train = write_shard(tmp_path / "train.tar", samples or short_samples())
        val = write_shard(tmp_path / "val.tar", toy_samples())
        values = {
            "teacher": {"model": str(toy_teacher_folder)},
            "student": {"model": STUDENT},
            "data": {"train": str(train), "val": str(val)},
            "optim": {"steps": 100, "batch_size": 8},
            "run": {"device": "cpu"},
        }
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section}
        return RunConfig.model_validate(values)

    return make


@pytest.fixture
def taught(monkeypatch):
    """Validation as a teacher would do that has learnt something."""
    sizes = {"images": 48.0, "labels": 48.0}
    monkeypatch.setattr(Validation, "measure", lambda *_: {**GOOD, **sizes})


def test_keys_of_several_shards_and_cut_ones_are_counted(config, tmp_path, taught):
    run = config(short_samples())
    write_shard(tmp_path / "again.tar", [*short_samples()[:7], ("own", short_samples()[0][1])])
    cut = write_shard(tmp_path / "cut.tar", [(f"c{n}", files) for n, (_, files) in
                                             enumerate(short_samples() * 3)])  # fmt: skip
    with tarfile.open(cut) as tar:
        end = tar.getmembers()[3 * 120].offset_data + 1  # in the picture of sample 120
    cut.write_bytes(cut.read_bytes()[:end])
    data = run.data.model_copy(update={"train": [run.data.train, str(tmp_path / "again.tar"),
                                                 str(cut)]})  # fmt: skip
    diagnosis = examine(run.model_copy(update={"data": data}))
    assert diagnosis.source.count == Count(48 + 8 + 120, exact=True)
    assert diagnosis.source.repeated_keys == 7
    warnings = [finding.text for finding in diagnosis.findings if not finding.refuses]
    assert f"shard {cut} is truncated after 120 samples; the incomplete one is skipped" in warnings
    assert any(line.startswith("7 pairs have the same key as an earlier one") for line in warnings)
    assert not diagnosis.refused


def test_pictures_without_captions_are_looked_at_with_their_labels(config, tmp_path):
    labels = ["cat", "dog", "bicycle"]
    data = {"train": None, "val": None, "images": str(tmp_path / "train.tar"),
            "texts": {"labels": labels, "templates": ["a photo of a {}"]}}  # fmt: skip
    diagnosis = examine(config(data=data))
    look = diagnosis.domain
    assert (look.images, look.labels) == (48, 3) and diagnosis.step is None
    assert look.recognition.chance == pytest.approx(3 / 259, rel=0.01)
    assert diagnosis.refused  # a random teacher
    assert diagnosis.as_dict()["domain"]["confidence"] == look.confidence
    rows = doctor_table(diagnosis)
    assert "teacher's confidence, median" in map(str, rows.columns[0].cells)
    long = [f"{'cat ' * 20}{end}" for end in ("dog", "red")]
    texts = {"labels": ["bicycle", *long], "templates": ["{}"]}
    same = examine(config(data={**data, "texts": texts}))
    assert same.refused and "are the same after truncation" in same.findings[0].text


def source(images=None, captions=None, **values):
    image_values = {"images": 100, "distinct": 100, "commonest": 0.01, "plain": 0.0}
    texts = {"captions": 100, "distinct": 100, "commonest": 0.01, "commonest_text": "x",
             "median": 5.0, "p95": 9.0, "cut": 0.0, "context_length": 16, "distinct_ids": 100,
             "pieces": 50, "unknown": 0.0, "highest_id": 99}  # fmt: skip
    about = {"source": "s", "count": Count(100, exact=True), "sampled": 100, "undecodable": (),
             "samples_per_s": 9.0, **values}  # fmt: skip
    return SourceCheck(
        images=ImageCheck(**{**image_values, **(images or {})}),
        captions=CaptionCheck(**{**texts, **(captions or {})}),
        **about,
    )


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (source(), None),
        (source(undecodable=("k",)), None),  # one per cent is let through
        (source(undecodable=("k", "l")), "2 of 100 sampled images cannot be decoded"),
        (source(captions={"commonest": 0.9, "commonest_text": "a photo"}), "90% of the captions "
                                                                           "are identical: "
                                                                           "'a photo'"),
        (source(captions={"distinct_ids": 1}), "all 100 different captions to the same ids"),
        (source(captions={"pieces": 1}), "100% of the captions' words to unknown"),
        (source(captions={"unknown": 0.6}), "60% of the captions' words to unknown"),
        (source(captions={"highest_id": 100}), "id 100, but the teacher has 100 tokens"),
        (source(images={"commonest": 0.95}), "sampled images are identical"),
        (source(images={"plain": 1.0}), "single colour"),
    ],
)  # fmt: skip
def test_what_a_sample_says_against_a_run(check, message):
    findings = judge_source(check, 100)
    if message is None:
        assert findings == []
    else:
        assert [message in one.text and one.refuses for one in findings] == [True]


@pytest.mark.parametrize(
    ("hits", "message"),
    [
        (19, "the teacher is at chance level on data.val"),
        (20, "the teacher's accuracy on data.val is low"),
        (59, "the teacher's accuracy on data.val is low"),
        (60, None),
    ],
)
def test_a_teacher_must_stand_well_above_chance(hits, message):
    # Refused up to 0.01 + 3 * sqrt(0.01 * 0.99 / 1000) = 0.01944; a warning up to
    # 0.01 + 0.05 * 0.99 = 0.0595.
    share = {**dict.fromkeys(GOOD, 0.0), "zero_shot_100": hits / 1000}
    check = TeacherCheck(1000, 1000, share, chance_of(1000), 1.0)
    finding = check.judge()
    if message is None:
        assert finding is None
        return
    assert finding.refuses == (hits == 19)
    assert finding.text.startswith(message) and "chance 1.0 %" in finding.text


def test_a_teacher_of_one_per_cent_among_three_hundred_labels_is_a_warning():
    share = {**dict.fromkeys(GOOD, 0.013), "zero_shot_100": 0.025}
    finding = TeacherCheck(10_000, 300, share, chance_of(300), 1.0).judge()
    assert not finding.refuses
    assert "t2i_r1 1.3 % (chance 0.3 %)" in finding.text and "loss.contrastive=1" in finding.text


def test_two_labels_judge_no_teacher():
    check = TeacherCheck(4, 2, dict.fromkeys(GOOD, 0.5), chance_of(2), 1.0)
    finding = check.judge()
    assert finding is not None and not finding.refuses


def test_bytes_saved_for_the_backward_pass():
    # float32: the input [5, 4] and the output of relu [5, 8]; the weight is a parameter.
    linear = nn.Linear(4, 8)
    saved = SavedBytes(list(linear.parameters()))
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        F.relu(linear(torch.ones(5, 4))).sum().backward()
    assert saved.peak == 4 * (5 * 4 + 5 * 8)
    assert linear.weight.grad is not None


def test_parts_that_follow_each_other_are_in_memory_one_at_a_time():
    linear = nn.Linear(4, 8)
    saved = SavedBytes(list(linear.parameters()))
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        for rows in (2, 5, 3):
            F.relu(linear(torch.ones(rows, 4))).sum().backward()
    assert saved.peak == 4 * (5 * 4 + 5 * 8)


def test_a_random_teacher_is_refused(config):
    diagnosis = examine(config())
    assert diagnosis.refused
    assert [one.text[:24] for one in diagnosis.findings if one.refuses] == [
        "the teacher is at chance"
    ]
    assert diagnosis.accuracy.chance["i2t_r1"] == 1 / 48


def test_a_run_that_can_work(config, taught, tmp_path):
    watcher = Watcher()
    before = sorted(tmp_path.iterdir())
    diagnosis = examine(config(), watcher)
    assert sorted(tmp_path.iterdir()) == [*before, tmp_path / "train.tar", tmp_path / "val.tar"]
    assert diagnosis.findings == ()
    assert (diagnosis.streamed, diagnosis.source.count) == (False, Count(48, exact=True))
    # two sets of 48 pictures of 32 x 32, three bytes a pixel; 48 + 96 rows of 64 halves
    assert diagnosis.memory.pictures == 2 * 48 * 3 * 32 * 32
    assert diagnosis.memory.features == (48 + 96) * 64 * 2
    assert diagnosis.memory.activations > 0
    assert diagnosis.step.finite and diagnosis.step.pairs == 8
    # 96 captions are 12 batches of 8
    expected = 12 * diagnosis.step.seconds + 88 * diagnosis.step.cached_seconds
    assert diagnosis.seconds == pytest.approx(expected + 2 * diagnosis.accuracy.seconds)
    assert json.loads(json.dumps(diagnosis.as_dict()))["refused"] is False


def test_a_streamed_run_is_timed_with_a_live_teacher(config, taught):
    diagnosis = examine(config(data={"memory_gb": 0.0, "cache_teacher": True}))
    assert diagnosis.streamed and diagnosis.step.cached_seconds is None
    assert diagnosis.step.loader_per_s == diagnosis.source.samples_per_s
    starving = diagnosis.source.samples_per_s < diagnosis.step.pairs / diagnosis.step.seconds
    assert any("the loader provides" in one.text for one in diagnosis.findings) == starving
    assert not diagnosis.refused


def test_a_student_that_is_blind_to_later_words_is_refused(config, taught):
    shape = {**STUDENT, "text_cfg": {**STUDENT["text_cfg"], "pool_type": "first"}}
    diagnosis = examine(config(student={"model": shape}, inherit={"method": "none"}))
    refused = [one.text for one in diagnosis.findings if one.refuses]
    assert [text.partition(":")[0] for text in refused] == ["word order", "later words"]
    assert "and of 0 of 4 in the student (by up to 0)" in refused[1]
    assert "text_cfg.pool_type: eos, eos_id: " in refused[1]
    table = {probe["name"]: probe for probe in diagnosis.as_dict()["probes"]}
    assert table["later words"]["student"] == {"changed": 0, "largest": 0.0}
    assert table["padding"]["student"]["changed"] == 0


def test_what_a_run_would_stop_at_is_a_finding(config, taught):
    diagnosis = examine(config(optim={"batch_size": 64}))
    assert "batch_size 64 exceeds the 48" in diagnosis.stopped
    assert [one.text for one in diagnosis.findings if one.refuses] == [diagnosis.stopped]


def test_without_validation_pairs_the_teacher_is_not_judged(config):
    diagnosis = examine(config(data={"val": None}))
    assert not diagnosis.refused
    assert [one.text for one in diagnosis.findings] == ["teacher not measured: data.val is null"]


def test_a_run_of_masks(config, taught):
    diagnosis = examine(
        config(student={"model": None, "keep": 0.6}, inherit={"method": "masks"},
               optim={"steps": 1000}, masks={"lr": 0.1})
    )  # fmt: skip
    assert diagnosis.findings == ()
    assert diagnosis.steps == 1000


def test_the_command_shows_a_table_and_then_a_line_a_finding(config, tmp_path, command_line):
    samples = [(key, {**files, "txt": b"a photo"}) for key, files in toy_samples()]
    path = tmp_path / "run.yaml"
    path.write_text(config(samples).model_dump_json())
    code, out, err = command_line("doctor", path)
    assert code == 2
    assert "repeated captions" in out and "97.9 %" in out  # 47 of 48
    refused = [line for line in err.splitlines() if line.startswith("refused: ")]
    assert refused == ["refused: 100% of the captions are identical: 'a photo'"]
    code, out, _ = command_line("doctor", path, "--json")
    assert code == 2
    printed = json.loads(out)
    assert printed["findings"][0]["level"] == "refused"
    assert printed["source"]["captions"]["distinct"] == 1


def test_the_command_passes_a_run_that_can_work(config, taught, tmp_path, command_line):
    path = tmp_path / "run.yaml"
    path.write_text(config().model_dump_json())
    code, out, err = command_line("doctor", path, "optim.steps=200")
    assert code == 0
    assert "time of 200 steps, about" in out and max(map(len, out.splitlines())) <= 80
    assert "later words: changed of 4" in out and "teacher 4, student 4" in out
    assert "no problems found" in err
    # Of 48 labels, the zero-shot accuracy and that of 100 labels are the same.
    assert out.count("teacher, zero-shot top-1") == 1


def test_a_warning_is_not_called_no_problem(command_line, monkeypatch):
    found = SimpleNamespace(findings=(Finding(False, "odd pairs"),), refused=False)
    monkeypatch.setattr("tinyclip_edge.train.preflight.doctor.examine", lambda *_: found)
    monkeypatch.setattr("tinyclip_edge.cli.doctor.doctor_table", lambda _: Table())
    code, _, err = command_line("doctor", "starter")
    assert (code, err) == (0, "warning: odd pairs\nthe run can start; see the warnings\n")
