"""What a sample says of images, captions and tokenizer; figures counted by hand."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from toy_codec import toy_codec

from pair_shards import encoded, toy_samples, write_shard
from tinyclip_edge.data import open_source
from tinyclip_edge.data.checks import check_captions, check_source, sample_pairs

CODEC = toy_codec(16)


def checked(path, clip):
    return check_source(open_source(str(path)), CODEC, clip.tokenizer, clip.context_length)


def test_a_shard_of_toy_pairs(tmp_path, toy_teacher):
    samples = toy_samples()
    samples += [(f"again-{key}", files) for key, files in samples[:12]]
    samples.append(("plain", {"png": encoded(Image.new("RGB", (9, 9), "red")), "txt": b"red"}))
    samples.append(("bad", {"png": b"nothing", "txt": b"red"}))
    statistics = checked(write_shard(tmp_path / "a.tar", samples), toy_teacher)
    assert (statistics.sampled, statistics.count.pairs, statistics.count.exact) == (62, 62, True)
    assert statistics.undecodable == ("bad",)
    assert statistics.bad == 1 / 62
    assert (statistics.images.images, statistics.images.distinct) == (61, 49)
    assert statistics.images.repeated == pytest.approx(12 / 61)
    assert statistics.images.commonest == 2 / 61
    assert statistics.images.plain == 1 / 61
    # 48 * 2 captions, 12 * 2 again, "red" twice
    assert (statistics.captions.captions, statistics.captions.distinct) == (122, 97)
    assert statistics.captions.commonest == 2 / 122
    assert statistics.samples_per_s > 0


def test_lengths_are_of_full_captions(toy_teacher):
    # The toy tokenizer knows these words whole; start and end make two more, 16 are let through.
    captions = ["cat", "a cat", "a photo of the dog", " ".join(["dog"] * 14), "cat " * 100]
    statistics = check_captions(captions, toy_teacher.tokenizer, toy_teacher.context_length)
    assert statistics.median == 7  # of 3, 4, 7, 16, 102
    assert statistics.p95 == pytest.approx(16 + 0.8 * (102 - 16))
    assert statistics.cut == 1 / 5
    assert statistics.distinct_ids == 5
    assert statistics.pieces == 6  # a cat photo of the dog
    assert statistics.highest_id == int(toy_teacher.tokenizer(["a"]).max())


def test_a_caption_that_stands_often_weighs_as_often(toy_teacher):
    statistics = check_captions(["cat"] * 9 + ["a cat"], toy_teacher.tokenizer, 16)
    assert (statistics.commonest, statistics.commonest_text, statistics.median) == (0.9, "cat", 3)
    assert statistics.repeated == 0.8


class Deaf:
    """A tokenizer whose only word is the unknown one."""

    tokenizer = SimpleNamespace(unk_token_id=7, pad_token_id=1)

    def __call__(self, texts, context_length=8):
        ids = torch.ones(len(texts), context_length, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            words = [0, *([7] * len(text.split())), 2][:context_length]
            row[: len(words)] = torch.tensor(words)
        return ids


def test_a_tokenizer_that_knows_no_word():
    statistics = check_captions(["one", "two", "three words here"], Deaf(), 8)
    assert statistics.unknown == 1.0
    assert statistics.pieces == 1
    assert statistics.distinct_ids == 2
    assert statistics.median == 3


def test_a_sample_comes_from_many_parts(tmp_path):
    samples = toy_samples((32, 40))
    for number in range(8):
        write_shard(tmp_path / f"s-{number}.tar", samples[number * 12 : number * 12 + 12])
    source = open_source(str(tmp_path / "s-*.tar"))
    keys = [pair.key for pair in sample_pairs(source, 0, 40)]
    assert len(set(keys)) == 40
    assert {[key for key, _ in samples].index(key) // 12 for key in keys} == set(range(8))
    assert len(list(sample_pairs(source, 0))) == 96
