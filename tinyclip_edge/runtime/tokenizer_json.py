"""Parse a ``tokenizer.json`` that may come from anywhere."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from tinyclip_edge.errors import ModelError


def parse_tokenizer(path: Path, content: bytes | None = None) -> Tokenizer:
    """Return the tokenizer of a file, or of its ``content`` where that was changed.

    Raises ModelError for every defect.
    """
    try:
        return Tokenizer.from_buffer(path.read_bytes() if content is None else content)
    except OSError as error:
        raise ModelError(f"cannot read tokenizer {path}: {error.strerror or error}") from error
    # The tokenizers library raises plain Exception, and its panics are no Exception at all.
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        cause = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{path} is no tokenizer.json: {cause}") from error
