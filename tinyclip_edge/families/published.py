"""Siblings as transformers writes them: folders of small models with random weights."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from tinyclip_edge.errors import ModelError
from tinyclip_edge.families.building import family
from tinyclip_edge.families.siblings import SIBLINGS
from tinyclip_edge.families.tokenizers import tokenizer_file, vocabulary
from tinyclip_edge.models import LoadedClip, load_clip
from tinyclip_edge.models.hf_config import CONFIG, PREPROCESSOR
from tinyclip_edge.models.huggingface import WEIGHTS, save_huggingface
from tinyclip_edge.models.json_file import write_json
from tinyclip_edge.models.quiet import quiet

TEXTS = ["a red cat", "the bicycle in the rain", "dog", "a photo of two blue circles"]
TEXT: dict[str, Any] = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 3, "max_position_embeddings": 16,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "image_size": 32, "patch_size": 16,
}  # fmt: skip
SQUARE = {"height": 32, "width": 32}
CLIP_PROCESSOR: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32},
    "crop_size": SQUARE, "image_mean": [0.5] * 3, "image_std": [0.3] * 3,
}  # fmt: skip
# Architectures that cannot be opened.
FOREIGN = {"jina-clip": "jina_clip"}


@dataclass(frozen=True, slots=True)
class Published:
    """A model of transformers by its ``model_type``."""

    model_type: str
    tokenizer: str
    text: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)  # of the model and both towers
    processor: dict[str, Any] = field(default_factory=lambda: CLIP_PROCESSOR)
    padding: int | None = None  # id that the text tower's attention ignores
    since: str = "4.51"  # first version of transformers that has it, or the oldest supported one

    def check_known(self) -> None:
        """Raise ModelError if the installed transformers has no such model."""
        import transformers

        if self.model_type not in transformers.CONFIG_MAPPING:
            raise ModelError(
                f"transformers {transformers.__version__} has no model '{self.model_type}' to "
                f"compare with; install transformers {self.since} or newer"
            )


PUBLISHED = {
    "SigLIP 2": Published(
        "siglip",
        "Gemma",
        {"hidden_size": 64, "num_attention_heads": 4},
        processor={"image_processor_type": "SiglipImageProcessor", "size": SQUARE},
    ),
    "MetaCLIP 2 worldwide": Published(
        "metaclip_2",
        "XLM-R",
        {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1},
        {"projection_dim": 40},
        since="4.56",
    ),
    "AltCLIP": Published(
        "altclip",
        "XLM-R",
        {"max_position_embeddings": 18, "project_dim": 56},
        {"projection_dim": 40},
        padding=1,
    ),
    "ChineseCLIP": Published("chinese_clip", "BERT", {}, {"projection_dim": 40}, padding=0),
}


def sibling(name: str, folder: Path) -> LoadedClip:
    """Return the sibling of a family; ModelError for one that cannot be opened."""
    if name in SIBLINGS:
        return family(name)
    foreign = folder / name
    foreign.mkdir()
    write_json(foreign / CONFIG, {"model_type": FOREIGN[name]})
    (foreign / WEIGHTS).touch()
    return load_clip(str(foreign))


def check_published(name: str, folder: Path, within: float) -> None:
    """Compare a model read from transformers' format with transformers' own, if the family has one.

    Raises ModelError if an embedding differs by more than ``within``.
    """
    if name in ("ViT", "Long-CLIP"):
        clip = family(name)
        save_huggingface(folder, clip)
        model: Any = clip.model
        images, texts, padding = model.encode_image, model.encode_text, None
    elif name in PUBLISHED:
        published, padding = _write(PUBLISHED[name], folder), PUBLISHED[name].padding
        images, texts = published.get_image_features, published.get_text_features
    else:
        return
    clip = load_clip(str(folder))
    ids = clip.tokenizer(TEXTS)
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    masks = {} if padding is None else {"attention_mask": ids.ne(padding).long()}
    loaded: Any = clip.model
    with torch.no_grad():
        pairs = (
            (loaded.encode_image(pixels), images(pixels)),
            (loaded.encode_text(ids), texts(ids, **masks)),
        )
    for ours, output in pairs:
        unit = F.normalize(getattr(output, "pooler_output", output), dim=-1)
        difference = float((F.normalize(ours, dim=-1) - unit).abs().max())
        if not difference <= within:
            raise ModelError(
                f"embeddings differ from transformers' by {difference:.1g}, more than {within:g}"
            )


def _write(published: Published, folder: Path) -> Any:  # noqa: ANN401 - a model of transformers
    """Write the folder of a model; return the model in eval mode."""
    import transformers

    published.check_known()
    size = vocabulary(published.tokenizer)
    with quiet():
        config = transformers.AutoConfig.for_model(
            published.model_type,
            text_config={**TEXT, **published.shared, "vocab_size": size, **published.text},
            vision_config={**VISION, **published.shared},
            **published.shared,
        )
        torch.manual_seed(0)
        model: Any = transformers.AutoModel.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.05)
        # Not the state dict: some tensors have other names in files than in memory.
        bars = transformers.logging.is_progress_bar_enabled()
        transformers.logging.disable_progress_bar()
        model.save_pretrained(folder)
        if bars:
            transformers.logging.enable_progress_bar()
    source = tokenizer_file(published.tokenizer).parent
    for path in source.iterdir():
        shutil.copyfile(path, folder / path.name)
    write_json(folder / PREPROCESSOR, published.processor)
    return model
