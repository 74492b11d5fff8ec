"""A student whose vocabulary is not its teacher's has its own tokenizer and token table."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from tinyclip_edge.errors import InheritanceError, ModelError
from tinyclip_edge.models import create_student, inherit_student, load_clip, save_local_dir
from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.tokenization import LocalTokenizer

VOCABULARY = 49408  # of CLIP
LARGE = 50_000
OWN = {"text_cfg": {"vocab_size": VOCABULARY, "context_length": 16, "width": 64, "layers": 2}}
TEXTS = ["a photo of a cat", "Żółć, 42 — ½ & 猫"]


def clip_ids(length):
    return open_clip.SimpleTokenizer(context_length=length)(TEXTS)


@pytest.fixture
def large_teacher(tmp_path, toy_teacher):
    """Words of another family's tokenizer, ids up to 49,999, the last place pooled as SigLIP's."""
    words = {f"word{number}": number for number in range(LARGE - 3)}
    words.update({"<pad>": LARGE - 3, "cat": LARGE - 2, "<unk>": LARGE - 1})
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    text = {"vocab_size": LARGE, "hf_tokenizer_name": "owner/siglip", "pool_type": "last"}
    text |= {"no_causal_mask": True, "tokenizer_kwargs": {"clean": "canonicalize"}}
    toy = toy_teacher.config["model_cfg"]
    config = {**toy, "custom_text": True, "init_logit_bias": -10}
    config["text_cfg"] = {**toy["text_cfg"], **text}
    return assemble(config, None, name="large", tokenizer_file=path)


def test_a_published_student_of_a_larger_vocabulary_is_an_ordinary_clip(large_teacher):
    assert int(large_teacher.tokenizer(TEXTS).max()) >= VOCABULARY
    student = create_student("TinyCLIP-ViT-8M-16-Text-3M", large_teacher)
    assert torch.equal(student.tokenizer(TEXTS), clip_ids(77))
    assert student.tokenizer_file is None
    assert student.logit_bias is None
    assert set(student.config["model_cfg"]["text_cfg"]) == {
        "context_length", "vocab_size", "width", "heads", "layers",
    }  # fmt: skip
    assert student.model.encode_text(student.tokenizer(TEXTS)).shape == (2, 512)
    assert large_teacher.model.encode_text(large_teacher.tokenizer(TEXTS)).shape == (2, 64)


def test_the_saved_student_keeps_its_tokenizer(toy_teacher, tmp_path):
    student = create_student(OWN, toy_teacher)
    save_local_dir(tmp_path / "student", student)
    assert not (tmp_path / "student" / "tokenizer.json").exists()
    again = load_clip(str(tmp_path / "student"))
    assert torch.equal(again.tokenizer(TEXTS), clip_ids(16))


def test_a_student_of_that_student_has_its_tokenizer(toy_teacher):
    """As the next stage of a run is made."""
    first = create_student(OWN, toy_teacher)
    second = create_student({"text_cfg": {"width": 64, "layers": 1}}, first)
    assert torch.equal(second.tokenizer(TEXTS), clip_ids(16))
    report = inherit_student(first, second)
    assert report.fresh_parameters == 1  # the scale
    assert report.notes == ()


def test_a_padded_table_has_the_teachers_tokenizer(toy_teacher):
    """640 rows are neither the teacher's count nor CLIP's."""
    student = create_student({"text_cfg": {"vocab_size": 640}}, toy_teacher)
    assert torch.equal(student.tokenizer(TEXTS), toy_teacher.tokenizer(TEXTS))
    with pytest.raises(InheritanceError, match="vocabulary 640 is more than"):
        inherit_student(toy_teacher, student)


@pytest.mark.parametrize("plan", ["published", "evenly", "importance"])
def test_the_token_table_is_not_inherited(toy_teacher, plan):
    torch.manual_seed(3)
    student = create_student(OWN, toy_teacher)
    table = student.model.token_embedding.weight.detach().clone()
    pairs = (torch.randn(4, 3, 32, 32), toy_teacher.tokenizer(["a cat", "a dog", "red", "blue"]))
    report = inherit_student(
        toy_teacher, student, plan=plan, calibration=pairs if plan == "importance" else None
    )
    assert torch.equal(student.model.token_embedding.weight, table)
    assert report.lines()[-1] == (
        "token embedding not inherited: the student has another tokenizer"
    )
    assert report.fresh_parameters == VOCABULARY * 64 + 1
    assert report.text.tensors["fresh"] == 1
    if plan == "evenly":
        ours, theirs = student.model.state_dict(), toy_teacher.model.state_dict()
        assert torch.equal(ours["positional_embedding"], theirs["positional_embedding"][:, :64])
        key = "transformer.resblocks.{}.ln_1.weight"
        assert torch.equal(ours[key.format(1)], theirs[key.format(2)][:64])


def test_ends_of_text_that_are_pooled_by_number_or_by_size_agree(toy_teacher):
    """The teacher names its end token, the student's is the highest id: both pool at the end."""
    toy_teacher.config["model_cfg"]["text_cfg"].update(pool_type="eos", eos_id=599)
    student = create_student(OWN, toy_teacher)
    assert "pool_type" not in student.config["model_cfg"]["text_cfg"]
    assert inherit_student(toy_teacher, student).image.tensors["fresh"] == 0


def test_pooling_at_the_end_token_finds_its_id_in_the_teachers_tokenizer(toy_teacher):
    """open_clip's default is token 2, without which all texts have one embedding."""
    student = create_student({"text_cfg": {"pool_type": "eos"}}, toy_teacher)
    ids = student.tokenizer(["a cat", "a red dog"])
    end = student.config["model_cfg"]["text_cfg"]["eos_id"]
    assert (ids == end).sum(dim=1).tolist() == [1, 1]
    cat, dog = student.model.eval().encode_text(ids)
    assert not torch.allclose(cat, dog)


def test_ids_beyond_the_table_are_refused_when_the_model_is_opened(large_teacher):
    config = {**large_teacher.config["model_cfg"]}
    config["text_cfg"] = {**config["text_cfg"], "vocab_size": VOCABULARY}
    with pytest.raises(ModelError, match=r"gives id 49999, text_cfg\.vocab_size is 49408"):
        assemble(config, None, name="mixed", tokenizer_file=large_teacher.tokenizer_file)


def test_a_tokenizer_in_torch_that_fails_on_a_text_is_named(tmp_path):
    """Its model names an unknown token that it does not have."""
    path = tmp_path / "tokenizer.json"
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "cat": 2}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    special = [
        {"id": i, "content": text, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for text, i in list(vocabulary.items())[:2]
    ]  # fmt: skip
    words = {"type": "Whitespace"}
    table = {"version": "1.0", "added_tokens": special, "pre_tokenizer": words, "model": model}
    path.write_text(json.dumps(table))
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<|endoftext|>"}')
    tokenizer = LocalTokenizer(path, 4)
    assert tokenizer(["cat"]).tolist() == [[2, 1, 1, 1]]
    with pytest.raises(ModelError, match=r"\[UNK\]"):
        tokenizer(["zebra"])
