"""Text towers with fewer rows in their token tables embed the texts they are for as before."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import BertConfig, M2M100Config, MT5Config, RobertaConfig, XLMRobertaConfig

from built_tokenizers import (
    COVERED,
    OTHER_TEXTS,
    SIGLIP,
    SPECIAL,
    TEXT,
    TRAINING,
    VISION,
    clip_of,
    write,
)
from tinyclip_edge.errors import DataError, ModelError
from tinyclip_edge.models import create_student, inherit_student, load_clip, save_local_dir
from tinyclip_edge.models.clip import token_table
from tinyclip_edge.models.library import open_clip
from tinyclip_edge.models.vocabulary import Vocabulary
from tinyclip_export.bundle.trim_vocab import trim_vocabulary

SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
POSITIONS = {"max_position_embeddings": 40, "pad_token_id": 1, "hidden_size": 16}


def tower(name, size):
    """A small text tower of transformers in open_clip's wrapper."""
    configs = {
        "roberta-base": lambda: RobertaConfig(vocab_size=size, **SMALL, **POSITIONS),
        "xlm-roberta-base": lambda: XLMRobertaConfig(vocab_size=size, **SMALL, **POSITIONS),
        "bert": lambda: BertConfig(vocab_size=size, hidden_size=16, **SMALL),
        "google/mt5-base": lambda: MT5Config(
            vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=1
        ),
        "facebook/nllb-200-distilled-600M": lambda: M2M100Config(
            vocab_size=size,
            d_model=16,
            encoder_layers=1,
            encoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_layers=1,
            scale_embedding=True,
        ),
    }
    config = configs[name]()
    torch.manual_seed(0)
    text = open_clip.hf_model.HFTextEncoder(
        name, 16, config=config, proj_type="linear", pooler_type="mean_pooler"
    )
    if config.is_encoder_decoder:
        text.transformer = text.transformer.encoder
    return text


def from_transformers(name, kind, folder):
    _, size = write(kind, folder)
    text = {**{k: v for k, v in TEXT.items() if k != "hf_tokenizer_name"}, "vocab_size": size}
    plain = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": text}
    network = open_clip.CustomTextCLIP(**plain)
    network.text = tower(name, size)
    # open_clip's configurations name no tower of BERT's.
    listed = "roberta-base" if name == "bert" else name
    return clip_of(kind, folder, network=network.eval(), hf_model_name=listed)


@pytest.mark.parametrize("kind", list(SPECIAL))
def test_a_text_tower_of_open_clip(kind, tmp_path):
    """As SigLIP 2's: padded to its context, pooled at its last place, other words beside."""
    clip = clip_of(kind, tmp_path / "whole", **SIGLIP, tokenizer_kwargs={"clean": "whitespace"})
    result = trim_vocabulary(clip, COVERED, OTHER_TEXTS)
    small, report = result.clip, result.report
    assert report["tokens"] == small.vocabulary < report["of"]
    assert report["max_difference"] <= 1e-6
    assert report["recut"] == 0
    assert 0 < report["verification_recut"] <= len(set(OTHER_TEXTS))
    assert "verification texts need other tokens" in result.lines[1]
    theirs = clip.model.encode_text(clip.tokenizer(COVERED))
    ours = small.model.encode_text(small.tokenizer(COVERED))
    assert torch.equal(ours, theirs)
    assert int(small.tokenizer(OTHER_TEXTS).max()) < report["tokens"]


@pytest.mark.parametrize("kind", ["gemma", "unigram", "word pieces"])
def test_the_end_token_is_still_where_texts_are_pooled(kind, tmp_path):
    end = {"gemma": 1, "unigram": 2, "word pieces": 4}[kind]
    clip = clip_of(kind, tmp_path / "whole", pool_type="eos", eos_id=end)
    small = trim_vocabulary(clip, COVERED).clip
    end_token = small.config["model_cfg"]["text_cfg"]["eos_id"]
    assert small.model.text.eos_id == end_token
    assert (small.tokenizer(COVERED) == end_token).any(dim=1).all()
    folder = tmp_path / "saved"
    save_local_dir(folder, small)
    again = load_clip(str(folder))
    assert torch.equal(again.tokenizer(COVERED), small.tokenizer(COVERED))
    theirs = clip.model.encode_text(clip.tokenizer(COVERED))
    assert torch.equal(again.model.eval().encode_text(again.tokenizer(COVERED)), theirs)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("roberta-base", "byte level"),
        ("xlm-roberta-base", "unigram"),
        ("bert", "word pieces"),
        ("google/mt5-base", "unigram"),
        ("facebook/nllb-200-distilled-600M", "unigram"),
    ],
)
def test_a_text_tower_of_transformers(name, kind, tmp_path):
    """Positions count from the padding, embeddings may be scaled: neither changes."""
    clip = from_transformers(name, kind, tmp_path)
    assert clip.tokenizer.tokenizer.pad_token_id == (0 if kind == "word pieces" else 1)
    result = trim_vocabulary(clip, COVERED)
    table = token_table(result.clip.model)
    assert type(table) is type(token_table(clip.model))
    assert table.num_embeddings == len(table.weight) == result.report["tokens"]
    assert result.report["tokens"] < result.report["of"]
    assert result.clip.model.text.vocab_size == result.report["tokens"]
    assert result.report["max_difference"] == 0.0


def test_weights_other_than_the_table_are_shared(toy_teacher):
    vocabulary = Vocabulary(toy_teacher)
    small = vocabulary.cut(vocabulary.needed(vocabulary.read(["a red cat"], "corpus")))
    ours, theirs = dict(small.model.named_parameters()), dict(toy_teacher.model.named_parameters())
    different = [name for name in theirs if ours[name].data_ptr() != theirs[name].data_ptr()]
    assert different == ["token_embedding.weight"]
    assert toy_teacher.model.token_embedding.num_embeddings == 546
    assert toy_teacher.config["model_cfg"]["text_cfg"]["vocab_size"] == 546


def test_a_student_of_it_inherits_the_rows(toy_teacher):
    vocabulary = Vocabulary(toy_teacher)
    ids = vocabulary.needed(vocabulary.read(["a red cat"], "corpus"))
    small = vocabulary.cut(ids)
    shape = {"text_cfg": {"width": 64, "layers": 2, "vocab_size": 49408}}
    student = create_student(shape, small, own_tokens=False)
    report = inherit_student(small, student)
    table, full = student.model.token_embedding.weight, toy_teacher.model.token_embedding.weight
    assert torch.equal(table, full[ids][:, :64])
    assert not any("token embedding not inherited" in note for note in report.notes)


def test_repeated_texts_count_again(toy_teacher):
    vocabulary = Vocabulary(toy_teacher)
    corpus = vocabulary.read(["red cat", "blue cat", "red cat", ""], "corpus")
    names = json.loads(toy_teacher.tokenizer_file.read_text())["model"]["vocab"]
    assert corpus.texts == ("red cat", "blue cat", "")
    assert corpus.counts == {names["red</w>"]: 2, names["blue</w>"]: 1, names["cat</w>"]: 3}
    ids = [names["red</w>"], names["cat</w>"]]
    assert corpus.covered(ids).tolist() == [True, False, True]


def test_what_is_skipped_is_counted(toy_teacher):
    vocabulary = Vocabulary(toy_teacher)
    corpus = vocabulary.read(["red cat", "red dog", "red red"], "corpus")
    ids = vocabulary.commonest(corpus, 516)  # 514 are special or bytes
    report = vocabulary.compare(vocabulary.cut(ids), ids, corpus)
    assert report.recut == 2
    assert report.line() == (
        "516 of 546 tokens for 3 different texts, 2 of them are cut into other, smaller pieces"
    )


def test_words_outside_the_vocabulary_are_counted(tmp_path):
    clip = clip_of("word pieces", tmp_path)
    vocabulary = Vocabulary(clip)
    corpus = vocabulary.read([*COVERED, "狗"], "corpus")
    ids = vocabulary.needed(corpus)
    report = vocabulary.compare(vocabulary.cut(ids), ids, corpus)
    assert report.unknown == sum(
        row.count(2) for row in clip.tokenizer(list(corpus.texts)).tolist()
    )
    assert report.line().endswith("of their tokens are unknown to the tokenizer")


def test_a_corpus_in_another_language_is_refused(tmp_path):
    vocabulary = Vocabulary(clip_of("word pieces", tmp_path))
    with pytest.raises(DataError) as refusal:
        vocabulary.read(["狗 и 貓", "ξ ψ a"], "corpus.txt")
    assert str(refusal.value) == (
        "corpus.txt: 4 of 6 tokens are unknown to the tokenizer of toy; give texts in its languages"
    )
    with pytest.raises(DataError, match="has no texts"):
        vocabulary.read([], "corpus.txt")


def test_a_tower_without_a_table_is_named(toy_teacher):
    toy_teacher.model.token_embedding = None
    with pytest.raises(ModelError, match="text tower CLIP has no token table to make smaller"):
        Vocabulary(toy_teacher)


def test_a_table_with_too_few_rows_is_refused(tmp_path):
    clip = clip_of("unigram", tmp_path)
    table = token_table(clip.model)
    table.num_embeddings = 20
    with pytest.raises(ModelError, match="its token table only 20 rows"):
        Vocabulary(clip)


def test_rows_beyond_the_tokenizer_are_dropped(tmp_path):
    """Tables of mT5 and others are padded to a multiple."""
    _, size = write("unigram", tmp_path)
    clip = clip_of("unigram", tmp_path, vocab_size=size + 30, pool_type="last")
    vocabulary = Vocabulary(clip)
    ids = vocabulary.needed(vocabulary.read(TRAINING, "corpus"))
    assert vocabulary.size == size
    assert vocabulary.cut(ids).vocabulary == len(ids) <= size


def test_ids_that_a_student_names_are_the_smaller_tokenizers(toy_teacher):
    vocabulary = Vocabulary(toy_teacher)
    small = vocabulary.cut(vocabulary.needed(vocabulary.read(["a red cat"], "corpus")))
    shape = {"text_cfg": {"pool_type": "eos", "eos_id": 545}}
    student = create_student(shape, small, own_tokens=False)
    text = student.config["model_cfg"]["text_cfg"]
    assert text["eos_id"] == student.tokenizer.eot_token_id == small.vocabulary - 1 < 545
