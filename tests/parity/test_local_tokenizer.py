"""A folder's tokenizer.json, read without transformers' choice of class: the same ids."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertTokenizerFast, T5TokenizerFast, XLMRobertaTokenizerFast

from tinyclip_edge.models.library import open_clip
from tinyclip_edge.models.tokenization import LocalTokenizer
from tinyclip_edge.starter import teacher_path

TEXTS = [
    "",
    "a photo of the red dog.",
    "A PHOTO, of_a  Cat\nand <b>a dog</b> &amp; more",
    "Żółć 42 ½ 猫 🙂 [SEP] </s> <pad>",
    "word " * 30,
]


def write_bert(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "the", "##s", "dog"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)


def write_t5(folder):
    # T5's order; its class takes the third token for unknown pieces whatever a file says.
    tokenizer = unigram("<pad>", "</s>", "<unk>")
    T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0).save_pretrained(folder)


def write_roberta(folder):
    tokenizer = unigram("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    XLMRobertaTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def unigram(*special):
    words = [*special, "▁", "▁a", "▁photo", "▁dog", "a", "o", "t"]
    scores = [(word, -float(i)) for i, word in enumerate(words)]
    tokenizer = Tokenizer(models.Unigram(scores, words.index("<unk>")))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


@pytest.mark.parametrize("write", [write_bert, write_t5, write_roberta])
@pytest.mark.parametrize(
    "options",
    [{}, {"clean": "canonicalize"}, {"clean": "lower", "strip_sep_token": True}],
)
def test_ids_are_those_of_transformers_own_class(tmp_path, write, options):
    write(tmp_path)
    if options.get("strip_sep_token") and write is write_t5:
        options = {"clean": "lower"}  # has no such token
    theirs = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=12, **options)
    ours = LocalTokenizer(tmp_path / "tokenizer.json", 12, **options)
    assert ours(TEXTS).shape == (5, 12)
    assert torch.equal(ours(TEXTS), theirs(TEXTS))
    assert ours.tokenizer.pad_token_id == theirs.tokenizer.pad_token_id


def test_ids_of_the_starter_teacher():
    folder = teacher_path()
    theirs = open_clip.tokenizer.HFTokenizer(str(folder), context_length=20, strip_sep_token=True)
    ours = LocalTokenizer(folder / "tokenizer.json", 20, strip_sep_token=True)
    assert torch.equal(ours(TEXTS), theirs(TEXTS))
