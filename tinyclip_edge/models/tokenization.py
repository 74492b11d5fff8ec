"""Choose the tokenizer that belongs to a model: its own tokenizer.json, or open_clip's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from tinyclip_edge.errors import ModelError, first_line
from tinyclip_edge.models.json_file import read_json
from tinyclip_edge.models.library import open_clip, quiet
from tinyclip_edge.paths import stays_inside
from tinyclip_edge.runtime.tokenizer import ClipTokenizer
from tinyclip_edge.runtime.tokenizer_json import parse_tokenizer, silent_panics, tokenizer_errors

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
# Files that are copied together with a tokenizer.json.
TOKENIZER_COMPANIONS = (TOKENIZER_CONFIG, "special_tokens_map.json", "vocab.json", "merges.txt")
_CODE = "auto_map"  # names Python files, which transformers would run
_SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
OPEN_CLIP_VOCABULARY = 49408  # tokens of the byte-pair file that open_clip ships
Tokenize: TypeAlias = Callable[[Sequence[str]], Tensor]
# The first two tell any vocabularies apart; the rare characters have high ids in a large one.
_ASCII_PROBES = 2
_PROBE = ("a photo of a cat", "two red bicycles and blue squares", "Żółć, 42 — ½ & 猫")
_PROBE_LENGTH = 64  # tokens
_LONG = "a photo of a cat and two red bicycles " * 128  # longer than any context


class FileTokenizer:
    """Torch side of the runtime tokenizer: texts to int64 ``[N, context_length]``."""

    def __init__(self, tokenizer: ClipTokenizer) -> None:
        self._tokenizer = tokenizer
        self.context_length = tokenizer.context_length
        self.eot_token_id = tokenizer.eot_token_id

    def __call__(self, texts: Sequence[str], context_length: int | None = None) -> Tensor:
        """Return the ids, zeros after the end token; ``context_length`` is as in open_clip."""
        tokenizer = self._tokenizer
        if context_length is not None:
            tokenizer = copy(tokenizer)
            tokenizer.context_length = context_length
        return torch.from_numpy(tokenizer(texts))


class LocalTokenizer(open_clip.tokenizer.HFTokenizer):  # type: ignore[misc]
    """A tokenizer.json of any family, with open_clip's text cleaning.

    Only special tokens and the padding and truncation sides are read from its
    tokenizer_config.json: no class, code or other file.
    """

    def __init__(
        self,
        path: Path,
        context_length: int,
        mode: str | None = None,
        *,
        clean: str = "whitespace",
        strip_sep_token: bool = False,
    ) -> None:
        from transformers import PreTrainedTokenizerFast

        config = path.with_name(TOKENIZER_CONFIG)
        table = read_json(config) if config.is_file() else {}
        if _CODE in table:
            raise ModelError(
                f"{config} refers to code ({_CODE}), and code in a model folder is never run"
            )
        self.tokenizer_mode = mode or ""
        self.context_length = context_length
        self.clean_fn = open_clip.tokenizer.get_clean_fn(clean)
        self.strip_sep_token = strip_sep_token
        self._path = path
        parsed, settings = parse_tokenizer(path), _special_token_settings(table, config)
        with tokenizer_errors(path):
            self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=parsed, **settings)

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Return the ids, padded; ModelError for a file whose rules fail on a text."""
        with tokenizer_errors(self._path):
            ids: Tensor = super().__call__(texts, context_length=context_length)
        return ids


def tokenizer_beside(folder: Path) -> Path | None:
    """Return a folder's tokenizer.json; None if it has none.

    Raises ModelError if it, or a file copied together with it, is a link out of the folder:
    saving the model again must not copy other files of the machine.
    """
    from tinyclip_edge.starter import teacher_path

    # Installers may link the package's own files.
    if folder != Path(teacher_path()):
        for name in (TOKENIZER, *TOKENIZER_COMPANIONS):
            if not stays_inside(folder, name):
                raise ModelError(
                    f"{folder / name} is a link to another place; copy the model as plain files "
                    "(cp -rL)"
                )
    return folder / TOKENIZER if (folder / TOKENIZER).is_file() else None


def read_tokenizer_config(path: Path) -> dict[str, Any]:
    """Return a tokenizer_config.json without the key that names code. Raises ModelError."""
    return {key: value for key, value in read_json(path).items() if key != _CODE}


def make_tokenizer(model_cfg: dict[str, Any], tokenizer_file: Path | None, source: str) -> Tokenize:
    """Return the tokenizer of a model config; ModelError when its ids do not fit the vocabulary."""
    text_cfg = model_cfg["text_cfg"]
    context_length = int(text_cfg.get("context_length", 77))
    vocabulary = int(text_cfg.get("vocab_size", OPEN_CLIP_VOCABULARY))
    hf_name = text_cfg.get("hf_tokenizer_name")
    if tokenizer_file is not None:
        try:
            tokenizer = ClipTokenizer.from_file(tokenizer_file, context_length)
        except ModelError:
            # It may be of another tokenizer family (sentencepiece), which open_clip loads.
            if not hf_name:
                raise
        else:
            _check_ids(tokenizer, text_cfg, tokenizer_file)
            return FileTokenizer(tokenizer)
    if not hf_name and vocabulary < OPEN_CLIP_VOCABULARY:
        raise ModelError(
            f"{source}: text_cfg.vocab_size is {vocabulary}, open_clip's own tokenizer has "
            f"{OPEN_CLIP_VOCABULARY}; put the model's tokenizer.json beside its weights"
        )
    library_tokenizer = _open_clip_tokenizer(text_cfg, hf_name, tokenizer_file, source)
    # A tower from transformers has a vocabulary of its own.
    with silent_panics():
        highest = 0 if "hf_model_name" in text_cfg else int(_probe_ids(library_tokenizer).max())
    if highest >= vocabulary:
        raise ModelError(
            f"{source}: its tokenizer gives id {highest}, text_cfg.vocab_size is {vocabulary}; "
            "set that and text_cfg.hf_tokenizer_name to those of one model"
        )
    return library_tokenizer


def same_ids(first: Tokenize, second: Tokenize) -> bool:
    """Whether two tokenizers give the same ids for plain words, at any context length."""
    return torch.equal(*(_probe_ids(tokenizer)[:_ASCII_PROBES] for tokenizer in (first, second)))


def _probe_ids(tokenizer: Any) -> Tensor:  # noqa: ANN401
    """Return int64 ``[N, L]``, real ids even while models are built on the meta device."""
    with torch.device("cpu"):
        ids: Tensor = tokenizer(list(_PROBE), context_length=_PROBE_LENGTH)
    return ids


def end_token_id(tokenizer: Any) -> int | None:  # noqa: ANN401
    """Return the id that first occurs after the last word of every text; None without one.

    A text that is cut at the context length is among those tried. Padding on the left gives None.
    """
    with torch.device("cpu"):
        ids: Tensor = tokenizer([*_PROBE, _LONG])
    pad = pad_token_id(tokenizer)
    words = ids.ne(pad)
    lengths = words.sum(dim=1)
    places = torch.arange(ids.shape[1])
    if int(lengths.min()) == 0 or not torch.equal(words, places < lengths[:, None]):
        return None
    if int(lengths.max()) < ids.shape[1]:
        return pad  # it ends even the text that was cut
    ends = ids.gather(1, lengths[:, None] - 1)
    unique = bool((ends == ends[0]).all()) and bool((ids == ends).sum(dim=1).eq(1).all())
    return int(ends[0]) if unique else None


def pad_token_id(tokenizer: object) -> int:
    """Return the id that a tokenizer pads with: zero in CLIP's own."""
    inner = getattr(tokenizer, "tokenizer", None)  # open_clip wraps those of transformers
    return int(getattr(inner, "pad_token_id", None) or 0)


def name_own_tokenizer(model_cfg: dict[str, Any], tokenizer_file: Path | None) -> None:
    """Name the folder's tokenizer.json in the config, so that open_clip reads it from there."""
    text_cfg = model_cfg["text_cfg"]
    own_vocabulary = text_cfg.get("vocab_size", OPEN_CLIP_VOCABULARY) != OPEN_CLIP_VOCABULARY
    if own_vocabulary and tokenizer_file is not None:
        text_cfg.setdefault("hf_tokenizer_name", TOKENIZER)


def _special_token_settings(table: dict[str, Any], path: Path) -> dict[str, str]:
    """Return the special tokens and sides that a tokenizer_config.json names."""
    settings: dict[str, str] = {}
    for key in _SPECIAL_TOKENS:
        value = table.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        if value is not None and not isinstance(value, str):
            raise ModelError(f"{path}: {key} must be a string")
        if value is not None:
            settings[key] = value
    for key in ("padding_side", "truncation_side"):
        if key in table:
            if table[key] not in ("left", "right"):
                raise ModelError(f"{path}: {key} must be left or right")
            settings[key] = table[key]
    return settings


def _refuse_folder(name: str, source: str) -> None:
    """Refuse a repository's name that is also a folder of the working directory."""
    if Path(name).exists():
        raise ModelError(
            f"{source}: its tokenizer '{name}' would be read from the working directory; put a "
            "tokenizer.json beside the weights"
        )


def _check_ids(tokenizer: ClipTokenizer, text_cfg: dict[str, Any], path: Path) -> None:
    """Refuse ids outside the embedding, and an end token that argmax pooling would miss."""
    vocabulary = int(text_cfg.get("vocab_size", OPEN_CLIP_VOCABULARY))
    if tokenizer.vocab_size > vocabulary:
        raise ModelError(
            f"{path} has {tokenizer.vocab_size} tokens, more than the model's "
            f"text_cfg.vocab_size of {vocabulary}"
        )
    pooled_by_argmax = text_cfg.get("pool_type", "argmax") == "argmax"
    if pooled_by_argmax and tokenizer.eot_token_id != tokenizer.vocab_size - 1:
        raise ModelError(
            f"{path}: the end token has id {tokenizer.eot_token_id}, it must be the last "
            f"({tokenizer.vocab_size - 1}), because the model pools at the highest id"
        )


def _clip_tokenizer(context_length: int, options: dict[str, Any]) -> Any:  # noqa: ANN401
    if options:
        return open_clip.SimpleTokenizer(context_length=context_length, **options)
    tokenizer = copy(_default_clip_tokenizer())
    tokenizer.context_length = context_length
    return tokenizer


@functools.cache
def _default_clip_tokenizer() -> Any:  # noqa: ANN401
    """Return open_clip's own tokenizer, whose vocabulary takes a tenth of a second to read."""
    return open_clip.SimpleTokenizer()


def _open_clip_tokenizer(
    text_cfg: dict[str, Any], hf_name: str | None, tokenizer_file: Path | None, source: str
) -> Tokenize:
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    context_length = int(text_cfg.get("context_length", 77))
    mode = text_cfg.get("tokenizer_mode")
    tokenizer: Tokenize
    try:
        with quiet():
            if hf_name and tokenizer_file is not None:
                tokenizer = LocalTokenizer(tokenizer_file, context_length, mode, **options)
            elif hf_name:
                _refuse_folder(hf_name, source)
                tokenizer = open_clip.tokenizer.HFTokenizer(
                    hf_name,
                    context_length=context_length,
                    tokenizer_mode=mode,
                    trust_remote_code=False,
                    **options,
                )
            else:
                tokenizer = _clip_tokenizer(context_length, options)
    except (OSError, ValueError, TypeError, ImportError) as error:
        cause = first_line(error)
        raise ModelError(f"{source}: cannot open its tokenizer: {cause}") from error
    return tokenizer
