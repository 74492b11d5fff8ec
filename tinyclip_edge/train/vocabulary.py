"""The vocabulary of a run's student: which of the teacher's tokens it keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyclip_edge.config import RunConfig
from tinyclip_edge.data import open_sources
from tinyclip_edge.data.corpus import KEY, captions, corpus_lines
from tinyclip_edge.errors import ConfigError, ModelError
from tinyclip_edge.file_aside import file_written_aside
from tinyclip_edge.json_text import read_json_table
from tinyclip_edge.models import LoadedClip
from tinyclip_edge.models.student import names_own_tokenizer
from tinyclip_edge.models.vocabulary import Vocabulary


class KeptTokens(BaseModel):
    """A run's vocabulary as stored in its folder, independent of the texts it was chosen from."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    vocab: int | str  # student.vocab
    tokenizer: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # Vocabulary.digest of the teacher
    ids: list[Annotated[int, Field(ge=0)]]  # the teacher's, ascending; the student's count from 0

    def save(self, path: Path) -> None:
        """Write the file. Raises DataError."""
        with file_written_aside(path) as file:
            file.write(json.dumps(self.model_dump()).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> KeptTokens:
        """Read the file. Raises ModelError."""
        try:
            return cls.model_validate(read_json_table(path, ModelError, unique_keys=True))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ModelError(
                f"{path} is not the vocabulary of a run: {where}: {first['msg']}"
            ) from None


@dataclass(frozen=True, slots=True)
class Origin:
    """The model that the first student is derived from."""

    clip: LoadedClip  # the teacher, or with student.vocab its weights with fewer tokens
    kept: KeptTokens | None = None


def origin_of(
    config: RunConfig,
    teacher: LoadedClip,
    notify: Callable[[str], None] = lambda _: None,
    *,
    kept: Path | None = None,
) -> Origin:
    """Return the teacher with the tokens that ``student.vocab`` selects.

    ``kept`` is the file of a selection that the run has made before. Raises ConfigError, DataError
    and ModelError.
    """
    vocab = config.student.vocab
    if vocab is None:
        return Origin(teacher)
    _check_tokenizers(config, teacher)
    vocabulary = Vocabulary(teacher)
    if kept is not None:
        tokens = KeptTokens.read(kept)
        if (tokens.vocab, tokens.tokenizer) != (vocab, vocabulary.digest):
            raise ModelError(
                f"{kept} belongs to another student.vocab or another teacher's tokenizer"
            )
        return Origin(vocabulary.cut(tokens.ids), tokens)
    if isinstance(vocab, int):
        vocabulary.check_size(vocab)
        sources = open_sources(config.data)
        texts = (text for source in sources for text in captions(source))
        corpus = vocabulary.read(texts, " + ".join(source.name for source in sources))
        ids = vocabulary.commonest(corpus, vocab)
    else:
        corpus = vocabulary.read(corpus_lines(vocab), f"{KEY} {vocab}")
        ids = vocabulary.needed(corpus)
    cut = vocabulary.cut(ids)
    notify(f"the student's vocabulary: {vocabulary.compare(cut, ids, corpus).line()}")
    return Origin(cut, KeptTokens(vocab=vocab, tokenizer=vocabulary.digest, ids=ids))


def planned_origin(config: RunConfig, teacher: LoadedClip) -> LoadedClip:
    """Return a model of the origin's shape, for a plan.

    If ``student.vocab`` is a number, arbitrary tokens stand in, so that no captions are read.
    Raises the same errors as ``origin_of``.
    """
    vocab = config.student.vocab
    if not isinstance(vocab, int):
        return origin_of(config, teacher).clip
    _check_tokenizers(config, teacher)
    vocabulary = Vocabulary(teacher)
    return vocabulary.cut(vocabulary.first(vocab))


def _check_tokenizers(config: RunConfig, teacher: LoadedClip) -> None:
    """Raise ConfigError for a student whose tokenizer is not the one to select from."""
    for model in (config.student.model, *(stage.student for stage in config.stages)):
        if model is not None and names_own_tokenizer(model, teacher):
            raise ConfigError(
                f"{KEY} selects tokens of {teacher.name}, and the student has another tokenizer; "
                "leave out vocab_size and hf_tokenizer_name in its text_cfg, or set "
                f"{KEY}=null"
            )
