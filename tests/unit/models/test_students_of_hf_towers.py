"""A student of a teacher with a text tower of transformers reads a text up to its end."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from text_towers import CONTEXT, ENDS, KINDS, WORDS, make_teacher
from tinyclip_edge.errors import ModelError
from tinyclip_edge.models import count_parameters, create_student, load_clip, save_local_dir
from tinyclip_edge.models.describe import describe
from tinyclip_edge.models.tokenization import end_token_id

# Without the None it would have a tower of transformers, like its teacher.
STUDENT = {"text_cfg": {"hf_model_name": None, "width": 64, "heads": 2, "layers": 2}}
TEXTS = ["a cat", "a red cat in the snow", "the dog at night"]


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture
def teacher(kind, tmp_path, monkeypatch):
    return make_teacher(kind, tmp_path, monkeypatch)


def encode(clip, texts):
    with torch.no_grad():
        return F.normalize(clip.model.encode_text(clip.tokenizer(texts)), dim=-1)


def test_it_pools_at_the_end_token_of_its_tokenizer(kind, teacher):
    torch.manual_seed(1)
    student = create_student(STUDENT, teacher)
    text = student.config["model_cfg"]["text_cfg"]
    assert (text["pool_type"], text["eos_id"]) == ("eos", ENDS[kind])
    assert text["vocab_size"] == teacher.vocabulary
    assert torch.equal(student.tokenizer(TEXTS), teacher.tokenizer(TEXTS))
    assert student.context_length == CONTEXT


def test_each_later_word_changes_its_embedding(teacher):
    torch.manual_seed(1)
    student = create_student(STUDENT, teacher)
    words = [word for word in WORDS if word != "a"]
    plain = encode(student, ["a"]).expand(len(words), -1)
    longer = encode(student, [f"a {word}" for word in words])
    assert (plain - longer).norm(dim=-1).min() > 1e-3
    assert (encode(student, ["a cat and dog"]) - encode(student, ["a dog and cat"])).norm() > 1e-3


def test_padding_does_not_change_its_embedding(teacher):
    """What stands after the end token, here another token in each place, is not read."""
    torch.manual_seed(1)
    student = create_student(STUDENT, teacher)
    ids = student.tokenizer(TEXTS)
    end = ids.eq(student.config["model_cfg"]["text_cfg"]["eos_id"]).int().argmax(dim=1)
    other = torch.where(torch.arange(CONTEXT) > end[:, None], 7, ids)
    assert not torch.equal(other, ids)
    with torch.no_grad():
        assert torch.allclose(student.model.encode_text(ids), student.model.encode_text(other))


def test_the_saved_student_is_the_same(teacher, tmp_path):
    torch.manual_seed(1)
    student = create_student(STUDENT, teacher)
    save_local_dir(tmp_path / "student", student)
    assert torch.equal(encode(load_clip(str(tmp_path / "student")), TEXTS), encode(student, TEXTS))


def test_a_student_of_that_student_reads_as_it_does(kind, teacher):
    """As the next stage of a run is made."""
    first = create_student(STUDENT, teacher)
    text = create_student({"text_cfg": {"layers": 1}}, first).config["model_cfg"]["text_cfg"]
    assert (text["pool_type"], text["eos_id"]) == ("eos", ENDS[kind])


def test_clips_own_vocabulary_stays_an_ordinary_clip(teacher):
    student = create_student({"text_cfg": {**STUDENT["text_cfg"], "vocab_size": 49408}}, teacher)
    assert not {"pool_type", "eos_id"} & set(student.config["model_cfg"]["text_cfg"])


def test_a_pooling_that_misses_the_end_is_refused(tmp_path, monkeypatch):
    teacher = make_teacher("xlm-roberta-base", tmp_path, monkeypatch)
    argmax = {"text_cfg": {**STUDENT["text_cfg"], "pool_type": "argmax"}}
    with pytest.raises(ModelError, match=r"pools at the highest id.*set text_cfg\.pool_type: eos"):
        create_student(argmax, teacher)
    both_ways = {"text_cfg": {**argmax["text_cfg"], "pool_type": "first", "no_causal_mask": True}}
    student = create_student(both_ways, teacher)
    assert student.config["model_cfg"]["text_cfg"]["pool_type"] == "first"


def test_a_tokenizer_without_an_end_is_refused(tmp_path, monkeypatch):
    teacher = make_teacher("xlm-roberta-base", tmp_path, monkeypatch)
    teacher.tokenizer.tokenizer.backend_tokenizer.post_processor = None
    assert end_token_id(teacher.tokenizer) is None
    with pytest.raises(ModelError, match="its tokenizer has no token that ends texts only"):
        create_student(STUDENT, teacher)


def test_the_token_table_is_not_counted_with_the_encoder(kind, teacher):
    table = teacher.vocabulary * 64
    count = count_parameters(teacher.model)
    assert count.token_embedding == table
    assert count.total == sum(p.numel() for p in teacher.model.parameters())
    others = sum(p.numel() for n, p in teacher.model.named_parameters() if n.startswith("text."))
    assert count.text == others - table
    assert f"vocabulary {teacher.vocabulary};" in describe(teacher)
