"""Which changes of an input change its embedding: a student must respond like its teacher.

A student that cannot see a difference that its teacher sees, or whose embedding depends on what the
teacher ignores, passes every comparison of numbers and still learns the wrong thing. N texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from tinyclip_edge.models import LoadedClip
from tinyclip_edge.models.tokenization import end_token_id, pad_token_id
from tinyclip_edge.train.tasks.encoders import picture_size

# Distance of unit vectors: float32 rounding stays below, an untrained student's response above.
ROUNDING = 3e-5
TEXTS = (
    "a cat",
    "a red bicycle",
    "the blue square",
    "a dog in the snow",
    "two birds",
    "a small house",
    "rain at night",
    "a photo of a circle",
)
LATER = ("in the rain", "and a dog", "of a cat", "at night")
# The same words in another order.
ORDERS = (
    ("a red cat", "cat a red"),
    ("a dog and a cat", "a cat and a dog"),
    ("the blue square", "the square blue"),
    ("a photo of a house", "a house of a photo"),
    ("a man on a horse", "a horse on a man"),
    ("rain at night", "night at rain"),
)
_TEACHERS_CURE = "the teacher is blind to it: check its tokenizer and text_cfg.pool_type"
ALONE = 2  # texts, and pictures, that are also embedded alone


@dataclass(frozen=True, slots=True)
class Response:
    """How many embeddings of one model change, and the largest distance of unit vectors."""

    changed: int
    largest: float


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """How teacher and student respond to the same change."""

    name: str
    what: str  # the change, as a gerund
    cases: int
    teacher: Response
    student: Response
    cure: str
    is_invariance: bool  # the change should not matter

    @property
    def agrees(self) -> bool:
        """Whether both respond alike; a student may always ignore padding and companions."""
        if self.is_invariance:
            return not self.student.changed or self.teacher.changed > 0
        return self.teacher.changed == self.student.changed

    @property
    def refuses(self) -> bool:
        """Whether the student cannot learn what the teacher sees."""
        return not self.is_invariance and self.student.changed < self.teacher.changed

    def sentence(self) -> str:
        """Return one line: the probe, the figures of both, the cure."""
        figures = " and of ".join(
            f"{answer.changed:,} of {self.cases:,} in the {who} (by up to {answer.largest:.2g})"
            for who, answer in (("teacher", self.teacher), ("student", self.student))
        )
        sees_more = not self.is_invariance and self.student.changed > self.teacher.changed
        cure = _TEACHERS_CURE if sees_more else self.cure
        return f"{self.name}: {self.what} changes the embedding of {figures}; {cure}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**asdict(self), "agrees": self.agrees}


def probe_pair(teacher: LoadedClip, student: LoadedClip) -> tuple[ProbeResult, ...]:
    """Return the probes whose inputs both tokenizers distinguish; models stay on their devices.

    Their modes and all random states are unchanged afterwards.
    """
    # TensorFloat-32 rounds more coarsely than the limit.
    with _evaluated(teacher), _evaluated(student), torch.backends.cudnn.flags(allow_tf32=False):
        return tuple(_probes(teacher, student))


@contextmanager
def _evaluated(clip: LoadedClip) -> Iterator[None]:
    """Put a model into evaluation mode, and restore each module's mode afterwards."""
    modes = [(module, module.training) for module in clip.model.modules()]
    clip.model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:  # parents first: train() also sets the modules within
            module.train(mode)


def _probes(teacher: LoadedClip, student: LoadedClip) -> list[ProbeResult]:
    later = [(text, f"{text} {LATER[i % len(LATER)]}") for i, text in enumerate(TEXTS)]
    blind = _reading_cure(student)
    probes = [
        _of_texts("word order", "reordering the words", ORDERS, teacher, student, blind),
        _of_texts("later words", "appending words", later, teacher, student, blind),
        _invariance(
            "padding",
            "cutting the padding",
            "let the student pool at the end token under a causal mask "
            "(text_cfg.pool_type: eos, no_causal_mask: false)",
            *(_paddings(clip) for clip in (teacher, student)),
        ),
        _invariance(
            "companions of a text",
            "encoding a text alone",
            "a tower must not mix the texts of a batch",
            *(_companions(_encoder(clip), _texts(clip, TEXTS)) for clip in (teacher, student)),
        ),
        _invariance(
            "companions of a picture",
            "encoding a picture alone",
            "a tower must not mix the pictures of a batch (BatchNorm in training mode does)",
            *(_companions(_image_encoder(clip), _pictures(clip)) for clip in (teacher, student)),
        ),
    ]
    return [probe for probe in probes if probe is not None]


def _of_texts(
    name: str,
    what: str,
    pairs: Sequence[tuple[str, str]],
    teacher: LoadedClip,
    student: LoadedClip,
    cure: str,
) -> ProbeResult | None:
    """Return the probe for the pairs that both tokenizers distinguish; None if there are none."""
    usable = [
        pair for pair in pairs if all(_is_told_apart(clip, pair) for clip in (teacher, student))
    ]
    if not usable:
        return None
    of_teacher, of_student = (
        _response(_distances(*(_embedded(clip, side) for side in zip(*usable, strict=True))))
        for clip in (teacher, student)
    )
    return ProbeResult(name, what, len(usable), of_teacher, of_student, cure, is_invariance=False)


def _invariance(name: str, what: str, cure: str, teacher: Tensor, student: Tensor) -> ProbeResult:
    return ProbeResult(
        name,
        what,
        len(student),
        _response(teacher),
        _response(student),
        cure,
        is_invariance=True,
    )


def _response(distances: Tensor) -> Response:
    """Summarise distances ``[N]`` between embeddings; NaN counts as a change."""
    return Response(int((~(distances <= ROUNDING)).sum()), float(distances.max()))


def _is_told_apart(clip: LoadedClip, pair: tuple[str, str]) -> bool:
    """Whether the ids differ and neither text fills the context, where it might be truncated."""
    ids = _texts(clip, pair)
    return not torch.equal(*ids) and bool(ids.eq(pad_token_id(clip.tokenizer)).any(dim=1).all())


def _texts(clip: LoadedClip, texts: Sequence[str]) -> Tensor:
    """Return ids ``[N, C]`` on the CPU."""
    ids: Tensor = clip.tokenizer(list(texts))
    return ids


def _embedded(clip: LoadedClip, texts: Sequence[str]) -> Tensor:
    return _encoder(clip)(_texts(clip, texts))


def _encoder(clip: LoadedClip) -> Callable[[Tensor], Tensor]:
    """Return the text tower as a function of ids ``[N, L]``, L up to the context, to ``[N, D]``."""
    device = next(clip.model.parameters()).device

    def encode(ids: Tensor) -> Tensor:
        inputs = {"image": None, "text": ids.to(device)}
        shorter = clip.context_length - ids.shape[1]
        output = functional_call(clip.model, _shortened(clip, shorter), (), inputs)
        features: Tensor = output["text_features"] if isinstance(output, dict) else output[1]
        return features.float().cpu()

    return encode


def _shortened(clip: LoadedClip, places: int) -> dict[str, Tensor]:
    """Return position embedding and mask for texts that are ``places`` tokens shorter."""
    named = {**dict(clip.model.named_parameters()), **dict(clip.model.named_buffers())}
    tensors = {}
    for key in ("positional_embedding", "attn_mask") if places else ():
        for name in (key, f"text.{key}"):
            if name in named:
                length = len(named[name]) - places
                square = key == "attn_mask"
                tensors[name] = named[name][:length, :length] if square else named[name][:length]
    return tensors


def _image_encoder(clip: LoadedClip) -> Callable[[Tensor], Tensor]:
    parameter = next(clip.model.parameters())

    def encode(pixels: Tensor) -> Tensor:
        features: Tensor = clip.model.encode_image(pixels.to(parameter))  # type: ignore[operator]
        return F.normalize(features.float(), dim=-1).cpu()

    return encode


def _pictures(clip: LoadedClip) -> Tensor:
    """Return noise ``[N, 3, H, W]``."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ALONE, 3, *picture_size(clip), generator=generator)


def _paddings(clip: LoadedClip) -> Tensor:
    """Return how far embeddings move ``[N]`` when padding is cut after the longest text."""
    ids = _texts(clip, TEXTS)
    words = ids.ne(pad_token_id(clip.tokenizer)).any(dim=0).nonzero()
    # Keep one padding token: it may also be the end token.
    length = min(int(words.max()) + 2, ids.shape[1])
    encode = _encoder(clip)
    return _distances(encode(ids), encode(ids[:, :length]))


def _companions(encode: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return how far embeddings move ``[N]`` when they are computed alone."""
    alone = torch.cat([encode(inputs[row : row + 1]) for row in range(ALONE)])
    return _distances(encode(inputs)[:ALONE], alone)


def _distances(first: Tensor, second: Tensor) -> Tensor:
    distances: Tensor = (first - second).norm(dim=-1)
    return distances


def _reading_cure(student: LoadedClip) -> str:
    end = end_token_id(student.tokenizer)
    if end is None:
        return "give the student a text tower that reads all words (text_cfg.no_causal_mask: true)"
    return f"let the student pool at its end token (text_cfg.pool_type: eos, eos_id: {end})"
