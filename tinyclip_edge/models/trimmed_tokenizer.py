"""A tokenizer.json with fewer tokens, whose ids count from 0 in the old order."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tinyclip_edge.errors import ConfigError, ModelError
from tinyclip_edge.models.pieces import Pieces, TokenizerJson


def base_ids(content: TokenizerJson, pieces: Pieces) -> set[int]:
    """Return the ids that every vocabulary retains.

    They are added and special tokens, the unknown one, bytes, padding, and 0, which pads texts.
    """
    added = {token["id"] for token in content.get("added_tokens") or ()}
    padding = content.get("padding") or {}
    ids = {*added, padding.get("pad_id", 0), 0} | pieces.base()
    return {index for index in ids if index in added or index in pieces.names}


def required_ids(pieces: Pieces, base: Iterable[int], used: Iterable[int]) -> list[int]:
    """Return ``base`` and ``used`` with all ids that the latter need, in order."""
    required = set(base)
    for index in used:
        if index not in required:
            required |= pieces.needs(index)
    return sorted(required)


def commonest_ids(
    pieces: Pieces, base: Iterable[int], counts: Mapping[int, int], size: int
) -> list[int]:
    """Return at most ``size`` ids: ``base``, and the commonest with all ids that they need.

    A token that needs more ids than there is room for is skipped.
    Raises ConfigError when ``size`` is smaller than ``base``.
    """
    required = set(base)
    if len(required) > size:
        raise ConfigError(
            f"a vocabulary of {size:,} tokens is too small: special tokens and single characters "
            f"or bytes alone are {len(required):,}"
        )
    for index in sorted(counts, key=lambda index: (-counts[index], index)):
        if len(required) == size:
            break
        if index not in required:
            added = pieces.needs(index) - required
            if len(required) + len(added) <= size:
                required |= added
    return sorted(required)


def trimmed_json(content: TokenizerJson, pieces: Pieces, ids: Sequence[int]) -> TokenizerJson:
    """Return the tokenizer.json whose n-th token is the old ``ids[n]``, ascending.

    Raises ModelError for an unsupported kind of post-processor.
    """
    new_ids = {old_id: position for position, old_id in enumerate(ids)}
    result = copy.deepcopy({key: value for key, value in content.items() if key != "model"})
    for token in result.get("added_tokens") or ():
        token["id"] = new_ids[token["id"]]
    if result.get("padding"):
        result["padding"]["pad_id"] = new_ids.get(result["padding"]["pad_id"], 0)
    _renumber(result.get("post_processor"), new_ids)
    result["model"] = pieces.trimmed(new_ids)
    return result


def trimmed_settings(table: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """Return a tokenizer_config.json with the new ids of added tokens."""
    added = table.get("added_tokens_decoder")
    if not isinstance(added, dict):
        return dict(table)
    new_ids = {str(old_id): str(position) for position, old_id in enumerate(ids)}
    renumbered = {new_ids[key]: value for key, value in added.items() if key in new_ids}
    return {**table, "added_tokens_decoder": renumbered}


def _renumber(processor: Any, new_ids: Mapping[int, int]) -> None:  # noqa: ANN401
    if processor is None or processor["type"] == "ByteLevel":
        return
    if processor["type"] == "Sequence":
        for part in processor["processors"]:
            _renumber(part, new_ids)
    elif processor["type"] in ("RobertaProcessing", "BertProcessing"):
        for key in ("sep", "cls"):
            processor[key][1] = new_ids[processor[key][1]]
    elif processor["type"] == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [new_ids[index] for index in token["ids"]]
    else:
        raise ModelError(
            f"tokenizer.json: a vocabulary with post_processor {processor['type']} cannot be made "
            "smaller"
        )
