"""A smaller tokenizer.json cuts the texts that it was made for into the same pieces."""

from __future__ import annotations

import json
import random

import pytest
from tokenizers import Tokenizer, models

from built_tokenizers import COVERED, KINDS, OTHER_TEXTS, TRAINING, byte_level, gemma
from tinyclip_edge.errors import ConfigError, ModelError
from tinyclip_edge.models.pieces import BYTES, read_pieces
from tinyclip_edge.models.trimmed_tokenizer import (
    base_ids,
    commonest_ids,
    required_ids,
    trimmed_json,
    trimmed_settings,
)


@pytest.fixture(params=list(KINDS), scope="module")
def tokenizer(request):
    return KINDS[request.param]()


def plain(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def cut(tokenizer, texts):
    tokenizer.no_padding()
    content = json.loads(tokenizer.to_str())
    pieces = read_pieces(content, "t")
    used = {index for text in texts for index in plain(tokenizer, text).ids}
    ids = required_ids(pieces, base_ids(content, pieces), used)
    return ids, Tokenizer.from_str(json.dumps(trimmed_json(content, pieces, ids)))


def test_covered_texts_have_the_same_pieces(tokenizer):
    ids, small = cut(tokenizer, COVERED)
    assert small.get_vocab_size() == len(ids) < tokenizer.get_vocab_size()
    for text in COVERED:
        for special in (False, True):
            old = tokenizer.encode(text, add_special_tokens=special)
            new = small.encode(text, add_special_tokens=special)
            assert new.tokens == old.tokens
            assert [ids[index] for index in new.ids] == old.ids


def test_every_token_has_its_own_place(tokenizer):
    ids, small = cut(tokenizer, COVERED)
    assert {ids[index]: piece for piece, index in small.get_vocab().items()} == {
        index: piece for piece, index in tokenizer.get_vocab().items() if index in set(ids)
    }
    added = {index: token.content for index, token in tokenizer.get_added_tokens_decoder().items()}
    assert {
        ids[index]: token.content for index, token in small.get_added_tokens_decoder().items()
    } == added


def test_any_choice_of_texts(tokenizer):
    chance = random.Random(5)
    for _ in range(12):
        texts = chance.sample(TRAINING, 3)
        ids, small = cut(tokenizer, texts)
        assert all(
            [ids[i] for i in plain(small, text).ids] == plain(tokenizer, text).ids for text in texts
        )


def test_other_texts_are_cut_smaller(tokenizer):
    """Into retained tokens, more of them; whether any is unknown depends on the kind."""
    _, small = cut(tokenizer, COVERED)
    for text in OTHER_TEXTS:
        assert len(plain(small, text).ids) > 0
    more = [len(plain(small, t).ids) - len(plain(tokenizer, t).ids) for t in OTHER_TEXTS]
    model = json.loads(small.to_str())["model"]
    if model["type"] == "BPE" and (model["byte_fallback"] or not model["unk_token"]):
        assert min(more) >= 0
        assert max(more) > 0
        for text in OTHER_TEXTS:  # nothing is lost
            full = tokenizer.decode(plain(tokenizer, text).ids)
            assert small.decode(plain(small, text).ids) == full
    elif not model.get("byte_fallback"):
        unknown = small.token_to_id(model.get("unk_token") or "<unk>")
        assert any(unknown in plain(small, text).ids for text in OTHER_TEXTS)


def test_the_commonest_tokens_fit_the_size(tokenizer):
    content = json.loads(tokenizer.to_str())
    pieces = read_pieces(content, "t")
    base = base_ids(content, pieces)
    counts = {}
    for text in TRAINING:
        for index in plain(tokenizer, text).ids:
            counts[index] = counts.get(index, 0) + 1
    size = len(base) + 20
    ids = commonest_ids(pieces, base, counts, size)
    assert len(base) <= len(ids) <= size
    first = max(counts.items(), key=lambda item: (item[1], -item[0]))[0]
    assert first in ids
    small = Tokenizer.from_str(json.dumps(trimmed_json(content, pieces, ids)))
    assert small.get_vocab_size() == len(ids)
    for text in TRAINING:
        old = plain(tokenizer, text).ids
        if set(old) <= set(ids):
            assert [ids[i] for i in plain(small, text).ids] == old
    with pytest.raises(ConfigError, match=f"are {len(base):,}$"):
        commonest_ids(pieces, base, counts, len(base) - 1)


def test_only_the_merges_in_use_are_retained():
    """A token of SentencePiece can be split in many ways, of which a text takes one."""
    tokenizer = gemma()
    tokenizer.no_padding()
    content = json.loads(tokenizer.to_str())
    pieces = read_pieces(content, "t")
    ids = content["model"]["vocab"]
    full = max((piece for piece in ids if piece not in BYTES), key=len)
    names = {pieces.names[index] for index in pieces.needs(ids[full])}
    parts = [part for part in ids if part in full]
    assert set(full) < names < set(parts)
    small = Tokenizer.from_str(
        json.dumps(
            trimmed_json(
                content,
                pieces,
                required_ids(pieces, base_ids(content, pieces), [ids[full]]),
            )
        )
    )
    assert plain(small, full).tokens == plain(tokenizer, full).tokens == [full]


def scored(*entries):
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *entries], 0))
    tokenizer.add_special_tokens(["<unk>"])
    return tokenizer


def test_the_price_of_the_unknown_token_does_not_change():
    """Without the lowest score, unknown letters would be cheaper than a long rare piece."""
    tokenizer = scored(("a", -1.0), ("b", -30.0), ("ab", -25.0), ("c", -2.0), ("rare", -40.0))
    ids, small = cut(tokenizer, ["abc"])
    assert plain(tokenizer, "abc").tokens == ["ab", "c"]
    assert plain(small, "abc").tokens == ["ab", "c"]
    assert small.get_vocab().keys() == {"<unk>", "a", "b", "ab", "c", "rare"}
    assert ids == [0, 1, 2, 3, 4, 5]
    assert plain(small, "bz").tokens == plain(tokenizer, "bz").tokens


def test_letters_of_a_piece_remain_in_the_vocabulary():
    """A letter without a piece of its own would be tried as unknown."""
    tokenizer = scored(("a", -1.0), ("b", -60.0), ("ab", -58.0), ("lowest", -61.0), ("x", -3.0))
    ids, small = cut(tokenizer, ["ab"])
    assert [tokenizer.id_to_token(index) for index in ids] == ["<unk>", "a", "b", "ab", "lowest"]
    assert plain(small, "ab").tokens == ["ab"]
    assert plain(small, "ba").tokens == plain(tokenizer, "ba").tokens == ["b", "a"]


def test_words_that_are_looked_up_unsplit():
    """As in Llama's: a word of the vocabulary is not merged, and need not be mergeable."""
    ids = {piece: number for number, piece in enumerate(["a", "b", "c", "ab", "abc"])}
    tokenizer = Tokenizer(models.BPE(ids, [("a", "b")], ignore_merges=True))
    retained, small = cut(tokenizer, ["abc"])
    assert plain(small, "abc").tokens == ["abc"]
    assert [tokenizer.id_to_token(index) for index in retained] == ["a", "b", "c", "abc"]
    assert plain(small, "ab").tokens == ["a", "b"]


def test_merges_of_older_files_are_strings():
    content = json.loads(byte_level().to_str())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    del content["model"]["type"]
    content["model"].pop("ignore_merges", None)
    pieces = read_pieces(content, "t")
    index = content["model"]["vocab"]["Ġphoto"]
    small = trimmed_json(content, pieces, required_ids(pieces, base_ids(content, pieces), [index]))
    assert small["model"]["merges"] == [
        ["h", "o"], ["p", "ho"], ["t", "o"], ["pho", "to"], ["Ġ", "photo"],
    ]  # fmt: skip


def test_ids_of_settings_move_along():
    table = {"pad_token": "<pad>", "added_tokens_decoder": {"0": {"content": "a"}, "7": {}}}
    assert trimmed_settings(table, [0, 3, 7]) == {
        "pad_token": "<pad>",
        "added_tokens_decoder": {"0": {"content": "a"}, "2": {}},
    }
    assert trimmed_settings({"x": 1}, [0]) == {"x": 1}


def test_an_unknown_kind_is_named():
    with pytest.raises(ModelError, match=r"^m: the vocabulary of a Magic tok"):
        read_pieces({"model": {"type": "Magic", "vocab": {}}}, "m")


def test_an_unknown_processor_is_named():
    content = json.loads(byte_level().to_str())
    pieces = read_pieces(content, "m")
    content["post_processor"] = {"type": "Magic"}
    with pytest.raises(ModelError, match="post_processor Magic"):
        trimmed_json(content, pieces, range(300))
