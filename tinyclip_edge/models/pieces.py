"""Which tokens the pieces of a tokenizer.json depend on, for each kind of tokenizer model.

Each kind states which tokens every smaller vocabulary retains, and which others a piece needs.
With these, a text whose pieces are all retained is split into the same pieces: every step that
splits it remains, in the same order, and no step is added. Any other text is split into smaller
pieces, bytes or the unknown token, as the model does with anything it does not know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

from tinyclip_edge.errors import ModelError

TokenizerJson: TypeAlias = dict[str, Any]
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))  # the tokens of byte fallback


class Pieces(ABC):
    """The model of a tokenizer: its pieces, and which of them depend on others."""

    def __init__(self, model: Mapping[str, Any], ids: Mapping[str, int]) -> None:
        self._model = model
        self.ids = ids  # by piece
        self.names = {index: piece for piece, index in ids.items()}

    @property
    def unknown(self) -> int | None:
        """Id of the unknown token, None in a model without one."""
        return self.ids.get(self._model.get("unk_token") or "")

    def base(self) -> set[int]:
        """Return the ids that every vocabulary retains."""
        pieces = BYTES if self._model.get("byte_fallback") else ()
        unknown = () if self.unknown is None else (self.unknown,)
        return {*self._of(pieces), *unknown}

    @abstractmethod
    def needs(self, index: int) -> set[int]:
        """Return the ids of a piece and of the pieces it depends on."""

    @abstractmethod
    def trimmed(self, new_ids: Mapping[int, int]) -> dict[str, Any]:
        """Return the model of the retained pieces; ``new_ids`` by old id, in the old order."""

    def _of(self, pieces: Sequence[str]) -> set[int]:
        return {self.ids[piece] for piece in pieces if piece in self.ids}

    def _vocabulary(self, new_ids: Mapping[int, int]) -> dict[str, int]:
        retained = ((new_ids[i], piece) for piece, i in self.ids.items() if i in new_ids)
        return {piece: index for index, piece in sorted(retained)}


class Words(Pieces):
    """WordPiece, which takes the longest piece that fits, and WordLevel."""

    def needs(self, index: int) -> set[int]:
        """Return a piece and its characters, inside a word and at its start."""
        prefix = self._model.get("continuing_subword_prefix", "")
        piece = self.names[index].removeprefix(prefix)
        if self._model["type"] == "WordLevel":
            return {index}
        return {index, *self._of([form for c in piece for form in (c, prefix + c)])}

    def trimmed(self, new_ids: Mapping[int, int]) -> dict[str, Any]:
        """Return the model with a smaller vocabulary."""
        return {**self._model, "vocab": self._vocabulary(new_ids)}


class BytePairs(Pieces):
    """Byte-pair merges, of bytes (CLIP, RoBERTa) or of characters with byte fallback (Gemma)."""

    def __init__(self, model: Mapping[str, Any], ids: Mapping[str, int]) -> None:
        super().__init__(model, ids)
        self._prefix = model.get("continuing_subword_prefix") or ""
        self._suffix = model.get("end_of_word_suffix") or ""
        # Older files have strings with a space.
        self._merges = [
            tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
            for merge in model["merges"]
        ]
        self._ranks = {pair: rank for rank, pair in enumerate(self._merges)}

    def base(self) -> set[int]:
        """Return the unknown token, and bytes or, without byte fallback, all single symbols."""
        if self._model.get("byte_fallback"):
            return super().base()
        symbols = {i for piece, i in self.ids.items() if len(self._bare(piece)) <= 1}
        return super().base() | symbols

    def needs(self, index: int) -> set[int]:
        """Return a piece and all pieces on the way to it, from single symbols up.

        In a text that is split into this piece no merge crossed its ends, so it is merged the same
        way on its own as within the text.
        """
        parts = self._symbols(self.names[index])
        needed = set(parts)
        while len(parts) > 1:
            ranks = [self._ranks.get(pair, len(self._merges)) for pair in pairwise(parts)]
            best = min(ranks)
            if best == len(self._merges):
                return {index}  # a word that is looked up whole
            at = ranks.index(best)
            parts[at : at + 2] = [self._merged(parts[at], parts[at + 1])]
            needed.add(parts[at])
        return {index, *self._of(tuple(needed))}

    def trimmed(self, new_ids: Mapping[int, int]) -> dict[str, Any]:
        """Return the model with the merges whose parts and result are retained."""
        vocabulary = self._vocabulary(new_ids)
        merges = [
            list(pair)
            for pair in self._merges
            if all(piece in vocabulary for piece in (*pair, self._merged(*pair)))
        ]
        return {**self._model, "vocab": vocabulary, "merges": merges}

    def _merged(self, first: str, second: str) -> str:
        return first + second.removeprefix(self._prefix)

    def _bare(self, piece: str) -> str:
        return piece.removeprefix(self._prefix).removesuffix(self._suffix)

    def _symbols(self, piece: str) -> list[str]:
        bare = self._bare(piece)
        if not bare:
            return [piece]
        symbols = [bare[0], *(self._prefix + character for character in bare[1:])]
        if self._prefix and piece.startswith(self._prefix):
            symbols[0] = self._prefix + symbols[0]
        if self._suffix and piece.endswith(self._suffix):
            symbols[-1] += self._suffix
        return symbols


class Unigram(Pieces):
    """SentencePiece's unigram model: the split with the highest sum of scores."""

    def __init__(self, model: Mapping[str, Any], ids: Mapping[str, int]) -> None:
        super().__init__(model, ids)
        self._scores: list[tuple[str, float]] = [(piece, score) for piece, score in model["vocab"]]

    @property
    def unknown(self) -> int | None:
        """Id of the unknown token, None in a model without one."""
        index: int | None = self._model.get("unk_id")
        return index

    def base(self) -> set[int]:
        """Return bytes, the unknown token, and the piece with the lowest score.

        That score sets the penalty of the unknown token, which must not change.
        """
        lowest = min(range(len(self._scores)), key=lambda index: self._scores[index][1])
        return super().base() | {lowest}

    def needs(self, index: int) -> set[int]:
        """Return a piece and its characters, which would be unknown without their own pieces."""
        return {index, *self._of(tuple(self.names[index]))}

    def trimmed(self, new_ids: Mapping[int, int]) -> dict[str, Any]:
        """Return the model with fewer scores, all as they were."""
        vocab = [[*entry] for index, entry in enumerate(self._scores) if index in new_ids]
        unknown = self.unknown
        return {
            **self._model,
            "vocab": vocab,
            "unk_id": None if unknown is None else new_ids[unknown],
        }


def read_pieces(content: TokenizerJson, source: str) -> Pieces:
    """Return the model of a tokenizer.json; ModelError for an unknown kind."""
    model = content["model"]
    # Older files do not have the type.
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    vocabulary = model["vocab"]
    if kind == "Unigram":
        return Unigram(model, {piece: i for i, (piece, _) in enumerate(vocabulary)})
    if kind == "BPE":
        return BytePairs(model, vocabulary)
    if kind in ("WordPiece", "WordLevel"):
        return Words(model, vocabulary)
    raise ModelError(
        f"{source}: the vocabulary of a {kind} tokenizer cannot be made smaller, only those of "
        "BPE, Unigram, WordPiece and WordLevel"
    )
