"""Small tokenizers of every kind, trained on a few hundred sentences, and models that use them."""

from __future__ import annotations

import json
import random

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre

from tinyclip_edge.models.assemble import assemble
from tinyclip_edge.models.pieces import BYTES

NOUNS = [
    "bicycle",
    "anchor",
    "lighthouse",
    "rainbow",
    "mountains",
    "strawberry",
    "keyboard",
    "violin",
]
OTHERS = [
    "Żółć",
    "straße",
    "café",
    "naïve",
    "自転車",
    "猫が好き",
    "велосипед",
    "ποδήλατο",
    "🚲",
    "½",
]
COLOURS = ["red", "blue", "greenish", "yellowish"]


def sentences(count, seed, words):
    chance = random.Random(seed)
    return [
        " ".join(chance.choices(words, k=chance.randint(1, 9)))
        + chance.choice(["", ".", " 42", "!!", "  double"])
        for _ in range(count)
    ]


TRAINING = sentences(400, 1, [*NOUNS, *COLOURS, *OTHERS, "a", "photo", "of", "the"])
COVERED = sentences(40, 2, [*NOUNS[:4], *OTHERS[:6], "a", "photo"])
OTHER_TEXTS = sentences(60, 3, [*NOUNS[4:], *OTHERS[6:], *COLOURS, "xylophone", "狗"])


def gemma():
    """Merges of characters, blanks as letters, bytes for what is unknown; all ways to merge."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=[*special, *BYTES], show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    vocabulary = model["vocab"]
    # As converted from SentencePiece: every split of a token, ordered by the token.
    model["merges"] = [
        [piece[:at], piece[at:]]
        for piece in sorted(vocabulary, key=vocabulary.get)
        for at in range(1, len(piece))
        if piece not in BYTES and piece[:at] in vocabulary and piece[at:] in vocabulary
    ]
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    end = vocabulary["<eos>"]
    tokenizer.post_processor = processors.TemplateProcessing("$A <eos>", None, [("<eos>", end)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    tokenizer.enable_padding(pad_id=0, pad_token="<pad>", length=24)
    return tokenizer


def unigram(*, byte_fallback=False):
    """XLM-R's order of special tokens, and a mask that is only added."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre.Metaspace()
    spelled = BYTES if byte_fallback else ()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=[*special, *spelled], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    content = json.loads(tokenizer.to_str())
    content["model"]["byte_fallback"] = byte_fallback
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens([AddedToken("<mask>", special=True)])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.TemplateProcessing(
                "<s> $A </s>",
                None,
                [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")],
            )
        ]
    )
    return tokenizer


def word_pieces():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre.BertPreTokenizer()
    special = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TRAINING, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    return tokenizer


def byte_level():
    """RoBERTa's: bytes as letters, a blank belongs to the word after it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def unsplit_words():
    words = sorted({word for text in TRAINING for word in text.split()})
    ids = {word: number for number, word in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre.WhitespaceSplit()
    return tokenizer


def subwords():
    """Prefixes inside a word and suffixes at its end, both at once."""
    model = models.BPE(continuing_subword_prefix="##", end_of_word_suffix="</w>", unk_token="?")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["?"],
        continuing_subword_prefix="##",
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    return tokenizer


KINDS = {
    "gemma": gemma,
    "unigram": unigram,
    "unigram with bytes": lambda: unigram(byte_fallback=True),
    "word pieces": word_pieces,
    "byte level": byte_level,
    "whole words": unsplit_words,
    "subwords": subwords,
}

SPECIAL = {
    "gemma": {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"},
    "unigram": {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>"},
    "unigram with bytes": {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>"},
    "word pieces": {"pad_token": "[PAD]", "sep_token": "[SEP]", "cls_token": "[CLS]"},
    "byte level": {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>"},
}
TEXT = {
    "context_length": 24,
    "width": 32,
    "heads": 2,
    "layers": 2,
    "hf_tokenizer_name": "owner/name",
}
SIGLIP = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
VISION = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}


def write(kind, folder):
    """Write tokenizer.json and its settings; return the file and its number of tokens."""
    folder.mkdir(exist_ok=True)
    tokenizer = KINDS[kind]()
    tokenizer.no_padding()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIAL[kind]))
    return folder / "tokenizer.json", tokenizer.get_vocab_size()


def clip_of(kind, folder, *, network=None, **text):
    file, size = write(kind, folder)
    config = {"embed_dim": 16, "custom_text": True, "vision_cfg": VISION}
    config["text_cfg"] = {**TEXT, "vocab_size": size, **text}
    torch.manual_seed(0)
    return assemble(config, None, name="toy", tokenizer_file=file, network=network)
