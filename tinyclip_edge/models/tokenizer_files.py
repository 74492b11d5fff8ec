"""Tokenizer files in the layout of Hugging Face's CLIPTokenizerFast."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyclip_edge.errors import ModelError
from tinyclip_edge.json_text import read_json_table
from tinyclip_edge.limits import MERGES_BYTES, PIECES_BYTES, TOKENIZER_BYTES, TOKENIZER_VALUES
from tinyclip_edge.models.tokenization import TOKENIZER_CONFIG, read_tokenizer_config
from tinyclip_edge.paths import read_bounded

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tinyclip_edge.models.clip import LoadedClip

_BERT_MARKS = {
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
}
START, END = "<|startoftext|>", "<|endoftext|>"
_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
        {"type": "Lowercase"},
    ],
}
WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the start and end tokens."""

    start: int
    end: int
    plain: Mapping[str, Any] = field(default_factory=dict)  # of tokenizers other than CLIP's


def write_tokenizer(clip: LoadedClip, folder: Path) -> SpecialTokens:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``: the model's own, or open_clip's BPE.

    The model's own file is copied, and completed only if it does not add start and end tokens.

    Raises ModelError for a tokenizer that has no tokenizer.json form.
    """
    from tinyclip_edge.runtime.tokenizer import ClipTokenizer

    target = folder / "tokenizer.json"
    if hasattr(clip.tokenizer, "clean_fn") and hasattr(clip.tokenizer, "strip_sep_token"):
        return _from_transformers(clip, folder)
    config: dict[str, Any] = {}
    if clip.tokenizer_file is not None:
        shutil.copyfile(clip.tokenizer_file, target)
        config_file = clip.tokenizer_file.with_name(TOKENIZER_CONFIG)
        config = read_tokenizer_config(config_file) if config_file.is_file() else {}
    else:
        _from_byte_pairs(clip, target)
    special = ClipTokenizer.from_file(target, clip.context_length)
    names = _names(target)
    _add_start_and_end(target, names, special.sot_token_id, special.eot_token_id)
    config = {**_config(names), **config, "model_max_length": clip.context_length}
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / TOKENIZER_CONFIG).write_text(text, encoding="utf-8")
    return SpecialTokens(special.sot_token_id, special.eot_token_id)


def byte_pair_tokenizer(
    vocabulary: Mapping[str, int], merges: Iterable[tuple[str, str]]
) -> Tokenizer:
    """Build the tokenizer of a CLIP byte-pair vocabulary that has HF's special tokens."""
    import tokenizers
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, processors
    from tokenizers import pre_tokenizers as pre

    model = models.BPE(
        vocab=dict(vocabulary),
        merges=list(merges),
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        unk_token=END,
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre.Sequence(
        [
            pre.Split(Regex(WORDS), behavior="removed", invert=True),
            pre.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    start, end = vocabulary[START], vocabulary[END]
    # By position: tokenizers 0.23 calls the second one cls_token.
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, end), (START, start), add_prefix_space=False, trim_offsets=False
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in (START, END)])
    return tokenizer


@functools.cache
def from_vocabulary(folder: Path) -> Path:
    """Return a tokenizer.json built from ``vocab.json`` and ``merges.txt``, for this process.

    Raises ModelError when they are broken or not CLIP's.
    """
    from tinyclip_edge.runtime.tokenizer_json import tokenizer_errors

    vocabulary = read_tokenizer_table(folder / "vocab.json")
    merges = read_bounded(folder / "merges.txt", ModelError, limit=MERGES_BYTES)
    with tokenizer_errors(f"{folder}: vocab.json and merges.txt", "are not a CLIP vocabulary"):
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise ValueError("the ids of its vocabulary do not count from 0")
        lines = merges.decode("utf-8").splitlines()
        pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        tokenizer = byte_pair_tokenizer(vocabulary, [(first, second) for first, second in pairs])
    path = scratch_folder() / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def scratch_folder() -> Path:
    """Return a new folder that is removed when the process ends."""
    return Path(tempfile.mkdtemp(dir=_scratch().name))


@functools.cache
def from_word_pieces(folder: Path) -> Path:
    """Return a tokenizer.json built from BERT's ``vocab.txt``, for this process. Raises ModelError.

    Its tokenizer_config.json is next to it.
    """
    from tokenizers import BertWordPieceTokenizer

    from tinyclip_edge.runtime.tokenizer_json import tokenizer_errors

    content = read_bounded(folder / "vocab.txt", ModelError, limit=PIECES_BYTES)
    with tokenizer_errors(f"{folder}: vocab.txt", "is not a BERT vocabulary"):
        pieces = content.decode("utf-8").splitlines()
        missing = [name for name in _BERT_MARKS.values() if name not in pieces]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        tokenizer = BertWordPieceTokenizer({piece: number for number, piece in enumerate(pieces)})
    path = Path(tempfile.mkdtemp(dir=_scratch().name)) / "tokenizer.json"
    tokenizer.save(str(path))
    path.with_name(TOKENIZER_CONFIG).write_text(json.dumps(_BERT_MARKS), encoding="utf-8")
    return path


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Return the process's own folder, removed when it ends."""
    return tempfile.TemporaryDirectory(prefix="tinyclip-edge-")


def _from_byte_pairs(clip: LoadedClip, target: Path) -> None:
    source: Any = clip.tokenizer
    if not hasattr(source, "bpe_ranks"):
        raise ModelError(
            f"{clip.name}: its tokenizer ({type(source).__name__}) has no tokenizer.json form; "
            "save the model as a local-dir with a tokenizer.json beside its weights"
        )
    renamed = {source.sot_token_id: START, source.eot_token_id: END}
    vocabulary = {renamed.get(index, token): index for token, index in source.encoder.items()}
    byte_pair_tokenizer(vocabulary, source.bpe_ranks).save(str(target), pretty=False)


def _from_transformers(clip: LoadedClip, folder: Path) -> SpecialTokens:
    """Write the tokenizer of another family, which open_clip loads through transformers."""
    wrapper: Any = clip.tokenizer
    inner, text_cfg = wrapper.tokenizer, clip.config["model_cfg"]["text_cfg"]
    inner.save_pretrained(folder)
    if wrapper.tokenizer_mode or not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{clip.name}: its tokenizer ({type(inner).__name__}) has no tokenizer.json form"
        )
    candidates = (inner.eos_token_id, inner.sep_token_id, inner.pad_token_id)
    end = next((index for index in candidates if index is not None), 0)
    if text_cfg.get("pool_type") == "eos":
        end = int(text_cfg["eos_id"])
    start = inner.bos_token_id if inner.bos_token_id is not None else end
    options = text_cfg.get("tokenizer_kwargs") or {}
    plain = {
        "clean": options.get("clean", "whitespace"),
        "end": end,
        "dropped": inner.sep_token_id if wrapper.strip_sep_token else None,
    }
    return SpecialTokens(start, end, plain)


def read_tokenizer_table(path: Path) -> dict[str, Any]:
    """Return the content of a tokenizer's JSON file; ModelError when broken or too large."""
    return read_json_table(path, ModelError, limit=TOKENIZER_BYTES, values=TOKENIZER_VALUES)


def _names(tokenizer_json: Path) -> tuple[str, str]:
    """Return the file's names of the start and end tokens."""
    from tinyclip_edge.runtime.tokenizer import END_TOKENS, START_TOKENS

    added = read_tokenizer_table(tokenizer_json).get("added_tokens") or []
    contents = {token["content"] for token in added}
    start = next((name for name in START_TOKENS if name in contents), START)
    end = next((name for name in END_TOKENS if name in contents), END)
    return start, end


def _add_start_and_end(path: Path, names: tuple[str, str], start: int, end: int) -> None:
    """Add lower-casing and the start and end tokens for clients without code for CLIP."""
    content = read_tokenizer_table(path)
    original = dict(content)
    if content.get("normalizer") is None:
        content["normalizer"] = _NORMALIZER
    if content.get("post_processor") is None:
        content["post_processor"] = {
            "type": "RobertaProcessing",
            "sep": [names[1], end],
            "cls": [names[0], start],
            "trim_offsets": False,
            "add_prefix_space": False,
        }
    if content != original:
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _config(names: tuple[str, str]) -> dict[str, Any]:
    start, end = names
    return {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": start,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
        "do_lower_case": True,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
