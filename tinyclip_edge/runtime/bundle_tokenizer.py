"""Open the tokenizer of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tinyclip_edge.errors import BundleError
from tinyclip_edge.runtime.tokenizer import ClipTokenizer

if TYPE_CHECKING:
    from tinyclip_edge.runtime.bundle import Manifest
    from tinyclip_edge.runtime.plain_tokenizer import PlainTokenizer


def open_tokenizer(path: Path, manifest: Manifest) -> ClipTokenizer | PlainTokenizer:
    """Return a bundle's tokenizer: CLIP's, or the one configured in the manifest.

    Raises BundleError for a tokenizer of another model, ModelError for a damaged file.
    """
    tokenizer: ClipTokenizer | PlainTokenizer
    if manifest.tokenizer:
        from tinyclip_edge.runtime.plain_tokenizer import PlainTokenizer

        tokenizer = PlainTokenizer(path, manifest.context_length, manifest.tokenizer)
    else:
        tokenizer = ClipTokenizer.from_file(path, manifest.context_length)
    if tokenizer.eot_token_id != manifest.eot_token_id:
        raise BundleError(
            f"{path} belongs to another model: its end token is {tokenizer.eot_token_id}, not "
            f"{manifest.eot_token_id}"
        )
    return tokenizer
