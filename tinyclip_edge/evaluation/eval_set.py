"""An evaluation set: images with texts, classes and subsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tinyclip_edge.runtime.protocol import ImageInput


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Images with one text each; ``subsets`` are indices, ``companions`` separate sets.

    When images have several captions, ``captions`` has all of them and ``texts`` the first. A
    labelled set has all its class names in ``classes``, including those that no image shows.
    """

    name: str
    images: tuple[ImageInput, ...]
    texts: tuple[str, ...]
    subsets: dict[str, tuple[int, ...]] = field(default_factory=dict)
    companions: dict[str, EvalSet] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()
    classes: tuple[str, ...] = ()

    def select(self, indices: Sequence[int]) -> EvalSet:
        """Return the set of these images, without subsets and companions."""
        return replace(
            self,
            images=tuple(self.images[i] for i in indices),
            texts=tuple(self.texts[i] for i in indices),
            captions=tuple(self.captions[i] for i in indices) if self.captions else (),
            subsets={},
            companions={},
        )

    def queries(self) -> tuple[list[str], list[int]]:
        """Return every caption and the index of its image."""
        captions = self.captions or [(text,) for text in self.texts]
        return (
            [text for image_captions in captions for text in image_captions],
            [image for image, image_captions in enumerate(captions) for _ in image_captions],
        )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classnames(self) -> tuple[str, ...]:
        """The distinct classes of a labelled set, else texts, in order of appearance."""
        return tuple(dict.fromkeys(self.classes or self.texts))

    @property
    def targets(self) -> tuple[int, ...]:
        """Index of every image's text in ``classnames``."""
        positions = {name: i for i, name in enumerate(self.classnames)}
        return tuple(positions[text] for text in self.texts)
