"""What changes an embedding must change it in teacher and student alike."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

import masked_clip
from families import EVERY, families, family
from text_towers import ENDS, KINDS, make_teacher
from tinyclip_edge.models import create_student, inherit_student
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.pruned import clip_units, prune_clip
from tinyclip_edge.train.tasks.probes import ProbeResult, Response, probe_pair

SMALL = {
    "vision_cfg": {"width": 64, "layers": 2},
    "text_cfg": {"width": 64, "heads": 1, "layers": 2},
}
SAMPLE = {"text_cfg": {"hf_model_name": None, "width": 64, "heads": 2, "layers": 2}}


def disagreeing(teacher, student):
    return [probe for probe in probe_pair(teacher, student) if not probe.agrees]


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


def as_before(student):
    """The student that was built once: causal, pooled at the highest id."""
    config = deepcopy(student.config["model_cfg"])
    del config["text_cfg"]["pool_type"], config["text_cfg"]["eos_id"]
    torch.manual_seed(2)
    return assemble(config, None, name="before", tokenizer_file=student.tokenizer_file)


def test_a_student_that_is_blind_to_later_words_shows(kind, tmp_path, monkeypatch):
    teacher = make_teacher(kind, tmp_path, monkeypatch)
    student = as_before(create_student(SAMPLE, teacher))
    later = {probe.name: probe for probe in disagreeing(teacher, student)}["later words"]
    assert later.refuses and later.teacher.changed == later.cases > later.student.changed
    assert later.sentence() == (
        f"later words: appending words changes the embedding of {later.cases} of {later.cases} "
        f"in the teacher (by up to {later.teacher.largest:.2g}) and of {later.student.changed} of "
        f"{later.cases} in the student (by up to {later.student.largest:.2g}); let the student "
        f"pool at its end token (text_cfg.pool_type: eos, eos_id: {ENDS[kind]})"
    )


def test_the_student_that_is_built_now_does_not(kind, tmp_path, monkeypatch):
    teacher = make_teacher(kind, tmp_path, monkeypatch)
    assert disagreeing(teacher, create_student(SAMPLE, teacher)) == []


def test_a_student_that_reads_its_padding_is_a_warning(tmp_path, monkeypatch):
    teacher = make_teacher("xlm-roberta-base", tmp_path, monkeypatch)
    shape = {**SAMPLE["text_cfg"], "no_causal_mask": True, "pool_type": "first"}
    (padding,) = disagreeing(teacher, create_student({"text_cfg": shape}, teacher))
    assert (padding.name, padding.refuses) == ("padding", False)
    assert (padding.teacher.changed, padding.student.changed) == (0, padding.cases)
    assert "text_cfg.pool_type: eos, no_causal_mask: false" in padding.sentence()


def test_a_toy_pair_is_silent_fresh_and_inherited(toy_teacher):
    torch.manual_seed(0)
    student = create_student(SMALL, toy_teacher)
    probes = probe_pair(toy_teacher, student)
    assert [probe.name for probe in probes] == [
        "word order", "later words", "padding", "companions of a text", "companions of a picture",
    ]  # fmt: skip
    assert all(probe.agrees for probe in probes)
    inherit_student(toy_teacher, student)
    assert disagreeing(toy_teacher, student) == []


def test_a_deep_untrained_student_answers_weakly_and_is_silent(toy_teacher):
    torch.manual_seed(0)
    shape = {"text_cfg": {"width": 256, "heads": 4, "layers": 12}}
    assert disagreeing(toy_teacher, create_student(shape, toy_teacher)) == []


@pytest.mark.parametrize("name", families(EVERY))
def test_families_of_today_are_silent(name):
    teacher = family(name)
    torch.manual_seed(1)
    student = create_student({"text_cfg": {"layers": 2}}, teacher)
    assert disagreeing(teacher, student) == []


def test_a_pruned_student_is_silent(toy_tokenizer_file):
    clip = masked_clip.make_clip(toy_tokenizer_file)
    pruned = prune_clip(clip, masked_clip.random_masks(clip_units(clip), seed=3)).clip
    assert disagreeing(clip, pruned) == []


def test_a_causal_student_of_a_teacher_that_reads_padding_is_silent(toy_teacher):
    text = {**toy_teacher.config["model_cfg"]["text_cfg"]}
    text |= {"no_causal_mask": True, "pool_type": "last"}
    config = {**toy_teacher.config["model_cfg"], "text_cfg": text, "custom_text": True}
    teacher = assemble(config, None, name="t", tokenizer_file=toy_teacher.tokenizer_file)
    probes = {probe.name: probe for probe in probe_pair(teacher, toy_teacher)}
    assert probes["padding"].teacher.changed == probes["padding"].cases
    assert all(probe.agrees for probe in probes.values())


@pytest.mark.parametrize("tower", ["text", "picture"])
def test_a_tower_that_mixes_a_batch_shows(toy_teacher, tower):
    student = create_student(SMALL, toy_teacher)
    module = student.model.visual if tower == "picture" else student.model.ln_final
    module.register_forward_hook(lambda *call: call[-1] + call[-1].mean(0, keepdim=True))
    assert f"companions of a {tower}" in [p.name for p in disagreeing(toy_teacher, student)]


def test_modes_and_random_states_stay_as_they_are(toy_teacher):
    student = create_student(SMALL, toy_teacher)
    student.model.train()
    student.model.visual.eval()
    before, state = [m.training for m in student.model.modules()], torch.get_rng_state()
    weights = {key: value.clone() for key, value in student.model.state_dict().items()}
    probe_pair(toy_teacher, student)
    assert [m.training for m in student.model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, weights[k]) for k, v in student.model.state_dict().items())


def test_texts_that_do_not_fit_are_not_judged(toy_teacher):
    """A text that fills the context may be cut, and a change after the cut is no change."""
    short = create_student({"text_cfg": {**SMALL["text_cfg"], "context_length": 6}}, toy_teacher)
    assert "word order" not in [p.name for p in disagreeing(toy_teacher, short)]
    names = {probe.name: probe.cases for probe in probe_pair(toy_teacher, short)}
    assert names.get("later words", 0) < 8
    assert disagreeing(toy_teacher, short) == []


def test_who_must_answer_to_what():
    none, all_of = Response(0, 0.0), Response(4, 0.1)
    probe = ProbeResult("padding", "x", 4, all_of, none, "cure", is_invariance=True)
    assert probe.agrees  # a student may be the better one
    assert not replace(probe, teacher=none, student=all_of).agrees
    reading = replace(probe, is_invariance=False)
    assert not reading.agrees and reading.refuses
    blind_teacher = replace(reading, teacher=none, student=all_of)
    assert not blind_teacher.agrees and not blind_teacher.refuses
    assert blind_teacher.sentence().endswith(
        "4 of 4 in the student (by up to 0.1); the teacher is blind to it: check its tokenizer and "
        "text_cfg.pool_type"
    )
